"""Fine-tuning starts from weight files: what is loaded, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finetune_cls
import train_partseg
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.helpers.ddp import Pool
from tests.helpers.runs import finetune, segment, weights
from utils.parallel import distributed
from utils.run import cli
from utils.run.checkpoint import published_weights


class _Stopped(Exception):
    pass


def starting_state(run: Callable, *args: Any) -> dict[str, Tensor]:
    """The weights before the first step of ``run(*args)``, which ends there."""
    result = {}

    def capture(model: nn.Module, *_: Any) -> None:
        inner = distributed.unwrap(model)
        assert (inner is model) == (distributed.world_size() == 1)
        result.update({name: v.clone() for name, v in inner.state_dict().items()})
        raise _Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Stopped):
        for script in (finetune_cls, train_partseg):
            patch.setattr(script, "train_one_epoch", capture)
        run(*args)
    return result


@pytest.mark.parametrize(
    ("run", "data", "encoder", "unused", "initialised"),
    [  # modules of the file that are not used, and what the log says of the head
        (
            *(finetune, "uneven_root", DGCNN(5, 16), {"inv_head"}),
            "linear1, bn6, linear2, bn7, linear3 (",
        ),
        (
            *(segment, "part_root", DGCNNPartSeg(4, 16)),
            *({"inv_head", "bn7", "bn8", "bn9", "bn10"}, "conv7.0, "),
        ),
    ],
)
def test_training_starts_from_the_file(
    *, run, data, encoder, unused, initialised, tmp_path: Path, two_ranks: Pool, request
) -> None:
    torch.manual_seed(9)
    state = published_weights(encoder)
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    path = tmp_path / "w.pth"
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    expected = {n: v for n, v in state.items() if n.split(".")[0] not in unused}
    words = (request.getfixturevalue(data), "--model_path", str(path))
    starts = two_ranks.run(starting_state, run, tmp_path / "two", *words)
    starts.append(starting_state(run, tmp_path, *words))
    for start in starts:
        assert all(torch.equal(start[name], value) for name, value in expected.items())
        assert all(torch.equal(start[n], value) for n, value in starts[0].items())
    log = (tmp_path / "checkpoints" / "run" / "run.log").read_text()
    used = f"{len(expected)} entries loaded; not used from the file: inv_head.0, "
    assert used in log and all(name in log for name in unused)
    assert f"; randomly initialised: {initialised}" in log


@pytest.mark.parametrize(
    ("run", "file", "message", "words"),
    [
        (finetune, "tuned", "--eval takes the whole", "--eval --label_fraction .5"),
        (finetune, "tuned", r"linear3\.weight has shape .*of classes", "--eval"),
        (finetune, "encoder", "--eval needs .*complete .*linear1", "--eval"),
        (
            finetune,
            "part",
            r"would train on .*conv1\.1",
            "--freeze_encoder --model dgcnn",
        ),
        (segment, "encoder", "has shape", ""),
        (segment, "segmenter", "--eval needs fine-tuned .*conv11", "--eval"),
    ],
)
def test_weights_that_do_not_fit_stop_the_run(
    *, run, file, message, words, tmp_path: Path, tuned: Path, synthetic_root: Path
) -> None:
    encoder = DGCNN(5, 16).state_dict()
    states: dict[str, dict[str, Tensor]] = {
        "tuned": weights(tuned),
        "encoder": encoder,
        "part": {"conv1.0.weight": encoder["conv1.0.weight"]},
        "segmenter": published_weights(DGCNNPartSeg(4, 16)),  # not fine-tuned
    }
    torch.save(states[file], tmp_path / "w.pth")
    flags = ("--model_path", str(tmp_path / "w.pth"), *words.split())
    with pytest.raises(cli.UsageError, match=message):
        run(tmp_path, synthetic_root, *flags)
    assert not (tmp_path / "checkpoints").exists()
