"""Small runs of the scripts on this rank, and what they wrote.

The scripts run in this process. For several ranks, hand the functions to a
pool: ``two_ranks.run(pretrain, folder, data, "--epochs", "2")``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import eval_fewshot
import eval_svm
import finetune_cls
import tests.helpers.small_resnet
import train_crosspoint
import train_partseg
from utils.parallel import distributed
from utils.run import checkpoint
from utils.run.run_folder import read_metrics

SPEED = {"samples_per_second", "data_wait", "gpu_memory_mib"}  # of no two runs alike
EXACT = {"epoch", "epoch_end", "lr", "test_accuracy", "test_class_accuracy"}
EXACT |= {"test_miou", "svm_accuracy", "knn_accuracy"}
COMMON = "--num_workers 0 --wandb disabled --print_freq 1 --emb_dims 16"
PRETRAIN = (
    f"{COMMON} --num_points 64 --k 5 --batch_size 8 --svm_every 0 "
    f"--image_encoder {tests.helpers.small_resnet.NAME} --image_size 32"
).split()
FINETUNE = f"{COMMON} --num_points 64 --k 5 --batch_size 8".split()
JUDGE = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --overwrite".split()
EPISODES = "--k_way 3 --m_shot 2 --n_query 2 --n_runs 8".split()
SEGMENT = f"{COMMON} --num_points 32 --k 4 --batch_size 4".split()


def pretrain(folder: Path, data: Path, *words: str) -> Path:
    """Run train_crosspoint.py in ``folder``; returns the run folder."""
    return run_main(train_crosspoint, folder, data, *PRETRAIN, *words)


def finetune(folder: Path, data: Path, *words: str) -> Path:
    """Run finetune_cls.py in ``folder``; returns the run folder."""
    return run_main(finetune_cls, folder, data, *FINETUNE, *words)


def segment(folder: Path, data: Path, *words: str) -> Path:
    """Run train_partseg.py in ``folder``; returns the run folder."""
    return run_main(train_partseg, folder, data, *SEGMENT, *words)


def judge_svm(folder: Path, data: Path, *words: str) -> Path:
    """Run eval_svm.py in ``folder``; returns the run folder."""
    return run_main(eval_svm, folder, data, *JUDGE, *words)


def judge_fewshot(folder: Path, data: Path, *words: str) -> Path:
    """Run eval_fewshot.py in ``folder``; returns the run folder."""
    return run_main(eval_fewshot, folder, data, *JUDGE, *EPISODES, *words)


def run_main(script: ModuleType, folder: Path, data: Path, *words: str) -> Path:
    """Run a script's ``main`` in ``folder`` on this rank; returns the run folder."""
    before = os.getcwd()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        args = script.get_args_parser().parse_args(
            ["--data_root", str(data), "--exp_name", "run", *words]
        )
        script.main(args, distributed.start())
    finally:
        os.chdir(before)
    return folder / "checkpoints" / args.exp_name


def metrics(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of steps and of epochs."""
    lines = read_metrics(run)
    return [x for x in lines if "step" in x], [x for x in lines if "epoch_end" in x]


def evaluated(run: Path) -> dict[str, Any]:
    """The one record of ``--eval``."""
    (record,) = read_metrics(run)
    return record


def weights(run: Path, name: str = "best_model.pth") -> dict[str, torch.Tensor]:
    """A file of ``models/``."""
    return torch.load(run / "models" / name, weights_only=True)


def same_records(one: Path, two: Path) -> None:
    """Every record of two runs is equal, but for their speed."""
    for mine, theirs in zip(metrics(one), metrics(two), strict=True):
        for line, other in zip(mine, theirs, strict=True):
            assert set(line) == set(other)
            for name in set(line) - SPEED:
                assert line[name] == other[name], name


def agree(one: Path, two: Path) -> None:
    """Every record of two runs to 1e-8, relative; counts exactly."""
    for mine, theirs in zip(metrics(one), metrics(two), strict=True):
        assert len(mine) == len(theirs)
        for line, other in zip(mine, theirs, strict=True):
            assert set(line) == set(other)
            for name in set(line) & EXACT:
                assert line[name] == other[name], name
            for name in set(line) - SPEED:
                expected = pytest.approx(line[name], rel=1e-8, abs=1e-12)
                assert other[name] == expected, (name, line)


def same_weights(one: Path, two: Path) -> None:
    """The best weights of two runs are equal, bit for bit."""
    for path in (one / "models").glob("*best*.pth"):
        theirs = weights(two, path.name)
        mine = weights(one, path.name)
        assert all(torch.equal(v, theirs[n]) for n, v in mine.items())


class _Interrupted(Exception):
    pass


def starting_state(run: Callable, *args: Any) -> dict[str, torch.Tensor]:
    """The weights before the first step of ``run(*args)``, which ends there."""
    script = {finetune: finetune_cls, segment: train_partseg}[run]
    result = {}

    def capture(model: torch.nn.Module, *_: Any) -> None:
        inner = distributed.unwrap(model)
        assert (inner is model) == (distributed.world_size() == 1)
        result.update({name: v.clone() for name, v in inner.state_dict().items()})
        raise _Interrupted

    train, script.train_one_epoch = script.train_one_epoch, capture
    try:
        run(*args)
    except _Interrupted:
        return result
    finally:
        script.train_one_epoch = train
    raise AssertionError("the run ended before its first step")


def interrupted(step: int, run: Callable, *args: Any) -> None:
    """``run(*args)``, which must end when the checkpoint of ``step`` is written."""
    write = checkpoint.save_training_state

    def write_then_die(path, arguments, progress, **parts) -> None:
        write(path, arguments, progress, **parts)
        if progress.step == step:
            raise _Interrupted

    checkpoint.save_training_state = write_then_die
    try:
        run(*args)
    except _Interrupted:
        return
    finally:
        checkpoint.save_training_state = write
    raise AssertionError("the run was not interrupted")
