"""Small runs of the scripts on this rank, and what they wrote.

The scripts run in this process. For several ranks, hand the functions to a
pool: ``two_ranks.run(pretrain, folder, data, "--epochs", "2")``.
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.helpers.small_resnet
from utils.parallel import distributed
from utils.run import checkpoint
from utils.run.run_folder import read_metrics

TIMES = {"samples_per_second", "data_wait", "gpu_memory_mib"}  # of no two runs alike
TIMES |= {"seconds", "features_seconds", "svm_seconds"}
COMMON = "--num_workers 0 --wandb disabled --print_freq 1 --emb_dims 16"
PRETRAIN = (
    f"{COMMON} --num_points 64 --k 5 --batch_size 8 --svm_every 0 "
    f"--image_encoder {tests.helpers.small_resnet.NAME} --image_size 32"
)
FINETUNE = f"{COMMON} --num_points 64 --k 5 --batch_size 8"
SEGMENT = f"{COMMON} --num_points 32 --k 4 --batch_size 4"
JUDGE = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --overwrite"
EPISODES = "--k_way 3 --m_shot 2 --n_query 2 --n_runs 8"


def run_main(script: str, flags: str, folder: Path, data: Path, *words: str) -> Path:
    """Run a script's ``main`` in ``folder`` on this rank; returns the run folder."""
    folder.mkdir(exist_ok=True)
    module = importlib.import_module(script)
    words = ("--data_root", str(data), "--exp_name", "run", *flags.split(), *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = module.get_args_parser().parse_args(words)
        module.main(args, distributed.start())
    return folder / "checkpoints" / args.exp_name


# Each takes a folder to run in, a --data_root and flags; it returns the run folder.
pretrain = partial(run_main, "train_crosspoint", PRETRAIN)
finetune = partial(run_main, "finetune_cls", FINETUNE)
segment = partial(run_main, "train_partseg", SEGMENT)
judge_svm = partial(run_main, "eval_svm", JUDGE)
judge_fewshot = partial(run_main, "eval_fewshot", f"{JUDGE} {EPISODES}")


def records(run: Path) -> list[dict[str, Any]]:
    """All records, without what differs from run to run."""
    lines = read_metrics(run)
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def metrics(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of steps and of epochs."""
    lines = read_metrics(run)
    return [x for x in lines if "step" in x], [x for x in lines if "epoch_end" in x]


def evaluated(run: Path) -> dict[str, Any]:
    """The one record of an evaluation."""
    (record,) = records(run)
    return record


def weights(run: Path, name: str = "best_model.pth") -> dict[str, torch.Tensor]:
    """A file of ``models/``."""
    return torch.load(run / "models" / name, weights_only=True)


def same_records(one: Path, two: Path, rel: float = 0.0) -> None:
    """Every record of two runs is equal, or to ``rel``, which no count is hidden by."""
    for mine, theirs in zip(records(one), records(two), strict=True):
        assert theirs == pytest.approx(mine, rel=rel, abs=rel / 10_000), mine


def same_run(one: Path, two: Path, rel: float = 0.0) -> None:
    """Every record and the best and last weights of two runs are equal; or records to
    ``rel``, and weights, which sum up the steps, to 100 times that."""
    same_records(one, two, rel)
    for path in (one / "models").glob("*.pth"):
        if path.name != "checkpoint_previous.pth":
            states = weights(one, path.name), weights(two, path.name)
            mine, theirs = (state.get("model", state) for state in states)
            torch.testing.assert_close(theirs, mine, rtol=100 * rel, atol=100 * rel)


class _Interrupted(Exception):
    pass


def interrupted(step: int, run: Callable, *args: Any) -> None:
    """``run(*args)``, which must end when the checkpoint of ``step`` is written."""
    write = checkpoint.save_training_state

    def write_then_die(path, arguments, progress, **parts) -> None:
        write(path, arguments, progress, **parts)
        if progress.step == step:
            raise _Interrupted

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Interrupted):
        patch.setattr(checkpoint, "save_training_state", write_then_die)
        run(*args)
