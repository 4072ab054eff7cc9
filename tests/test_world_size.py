"""The number of processes changes the time that a run takes, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.ddp_helpers import Pool
from tests.finetune import finetune
from tests.pretrain import pretrain
from tests.runs import interrupted, metrics, same_records, weights
from tests.segment import segment

pytestmark = pytest.mark.slow

# What runs, its flags for about 20 steps of global batches of 8, and its weights.
BOTH = ("best_model.pth", "img_model_best.pth")
LAST = ("checkpoint_last.pth",)
SCRATCH = ("--from_scratch", "--dropout", "0.5", "--batch_size", "8")
CASES = {
    "dgcnn": (pretrain, ("--model", "dgcnn", "--epochs", "7"), BOTH),
    "dgcnn_seg": (pretrain, ("--model", "dgcnn_seg", "--epochs", "7"), BOTH),
    "finetune_cls": (finetune, (*SCRATCH, "--epochs", "7"), LAST),
    "train_partseg": (segment, (*SCRATCH, "--epochs", "7"), LAST),
}
LOSSES = ("loss", "imid_loss", "cmid_loss")
Runner = Callable[..., Path]


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[Pool]:
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.fixture
def on(two_ranks: Pool, four_ranks: Pool) -> Callable[..., Path]:
    """``on(world size)(function, *args)``."""

    def choose(world: int) -> Callable[..., Path]:
        if world == 1:
            return lambda function, *args: function(*args)
        pool = {2: two_ranks, 4: four_ranks}[world]
        return lambda function, *args: pool.run(function, *args)[0]

    return choose


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    state = weights(run, name)
    return state.get("model", state)


def agree(one: Path, other: Path, names: tuple[str, ...]) -> None:
    """Every step's losses to 1e-8 and the final weights to 1e-6, relative."""
    (steps, epochs), (their_steps, their_epochs) = metrics(one), metrics(other)
    for mine, theirs in zip(steps, their_steps, strict=True):
        for name in (*LOSSES, "lr"):
            if name in mine:
                assert math.isclose(mine[name], theirs[name], rel_tol=1e-8), mine
    for mine, theirs in zip(epochs, their_epochs, strict=True):
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=1e-8, abs=1e-12), name
    for name in names:
        theirs = tensors(other, name)
        for key, value in tensors(one, name).items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-6, atol=1e-6)


def data_of(run: Runner, request: pytest.FixtureRequest) -> Path:
    fixtures = {pretrain: "synthetic_root", finetune: "uneven_root"}
    return request.getfixturevalue(fixtures.get(run, "synthetic_root"))


@pytest.mark.parametrize("case", CASES)
def test_one_two_and_four_processes_agree(
    case: str, tmp_path: Path, on, request: pytest.FixtureRequest
) -> None:
    run, words, names = CASES[case]
    data = data_of(run, request)
    words = (*words, "--precision", "fp64")
    runs = {w: on(w)(run, tmp_path / str(w), data, *words) for w in (1, 2, 4)}
    assert len(metrics(runs[1])[0]) >= 20
    for world in (2, 4):
        agree(runs[1], runs[world], names)


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_in_float32(
    case: str, tmp_path: Path, on, request: pytest.FixtureRequest
) -> None:
    run, words, _ = CASES[case]
    data = data_of(run, request)
    words = (*words[:-1], "1")
    first = [
        metrics(on(w)(run, tmp_path / str(w), data, *words))[0][0] for w in (1, 2, 4)
    ]
    for name in LOSSES:
        if name in first[0]:
            for theirs in first[1:]:
                assert math.isclose(first[0][name], theirs[name], rel_tol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_resuming_on_another_number_of_processes_keeps_the_trajectory(
    case: str, tmp_path: Path, on, request: pytest.FixtureRequest
) -> None:
    run, words, names = CASES[case]
    data = data_of(run, request)
    words = (*words[:-1], "4", "--precision", "fp64", "--checkpoint_steps", "1")
    whole = run(tmp_path / "whole", data, *words)
    folder = tmp_path / "parts"
    on(2)(interrupted, 2, run, folder, data, *words)
    on(4)(interrupted, 5, run, folder, data, *words, "--resume")
    agree(whole, run(folder, data, *words, "--resume"), names)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", [1, 2])
def test_resuming_inside_an_epoch_gives_the_same_bits(
    world: int, case: str, tmp_path: Path, on, request: pytest.FixtureRequest
) -> None:
    run, words, names = CASES[case]
    data = data_of(run, request)
    words = (*words[:-1], "3", "--checkpoint_steps", "1")
    whole = on(world)(run, tmp_path / "whole", data, *words)
    folder = tmp_path / "parts"
    per_epoch = len(metrics(whole)[0]) // 3
    on(world)(interrupted, per_epoch + 1, run, folder, data, *words)
    parts = on(world)(run, folder, data, *words, "--resume")
    same_records(whole, parts)
    for name in names:
        theirs = tensors(parts, name)
        assert all(torch.equal(v, theirs[n]) for n, v in tensors(whole, name).items())
