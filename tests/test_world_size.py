"""The number of processes changes the time that a run takes, and nothing else.

One float64 run on one process is the reference of each case; float32 has its own, since
there rounding decides which points are neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.runs import (
    agree,
    finetune,
    interrupted,
    metrics,
    pretrain,
    same_records,
    segment,
    weights,
)

# What runs, on which data, with which flags, and the weights that it leaves. Every
# global batch has 8 samples, and every run about 20 steps.
BOTH = ("best_model.pth", "img_model_best.pth")
LAST = ("checkpoint_last.pth",)
PRETRAIN = ("--epochs", "7", "--svm_every", "7")
MULTIVIEW = (
    *"--model pointnet --objective multiview --num_images 3".split(),
    *"--view_dims 16 8 24 --image_jitter 0.2 0.4 0.6".split(),
)
SCRATCH = ("--from_scratch", "--batch_size", "8")
CASES = {
    "dgcnn": (pretrain, "synthetic_root", PRETRAIN, BOTH),
    "dgcnn_seg": (
        pretrain,
        "synthetic_root",
        (*PRETRAIN, "--model", "dgcnn_seg"),
        BOTH,
    ),
    "multiview": (
        pretrain,
        "synthetic_root",
        (*PRETRAIN, *MULTIVIEW),
        (*BOTH, "view_heads.pth"),
    ),
    "finetune_cls": (finetune, "uneven_root", (*SCRATCH, "--epochs", "7"), LAST),
    "train_partseg": (segment, "part_root", (*SCRATCH, "--epochs", "20"), LAST),
}
# One with BatchNorm on edges, one with dropout, for what all scripts have from the same
# code.
SOME = ("dgcnn", "train_partseg")
LOSSES = ("loss", "imid_loss", "cmid_loss")


@pytest.fixture
def on(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """``on(world size, function, *args)``: what it returns on rank 0."""

    def run(world: int, function: Callable, *args: object) -> Path:
        if world == 1:
            return function(*args)
        pool = request.getfixturevalue({2: "two_ranks", 4: "four_ranks"}[world])
        return pool.run(function, *args)[0]

    return run


@pytest.fixture(scope="module")
def references() -> dict[tuple, Path]:
    return {}


@pytest.fixture
def undisturbed(
    references: dict[tuple, Path],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    on: Callable[..., Path],
) -> Callable[..., Path]:
    """``undisturbed(case, precision, world size)``: its run folder, made once."""

    def reference(case: str, precision: str, world: int = 1) -> Path:
        key = (case, precision, world)
        if key not in references:
            run, data, words, _ = CASES[case]
            where = (tmp_path_factory.mktemp("run"), request.getfixturevalue(data))
            more = ["--precision", precision]
            if precision == "fp32":  # sums are rounded at every checkpoint
                more += ["--checkpoint_steps", "1"]
            references[key] = on(world, run, *where, *words, *more)
        return references[key]

    return reference


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    state = weights(run, name)
    return state.get("model", state)


def agree_to_the_end(one: Path, other: Path, names: tuple[str, ...]) -> None:
    """Every record to 1e-8 and the final weights to 1e-6, relative."""
    agree(one, other)
    for name in names:
        theirs = tensors(other, name)
        for key, value in tensors(one, name).items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param(world, case, marks=() if case in quick else pytest.mark.slow)
        for world, quick in ((2, ("dgcnn", "finetune_cls")), (4, ()))
        for case in CASES
    ],
)
def test_more_processes_give_the_numbers_of_one(
    world: int, case: str, undisturbed: Callable[..., Path]
) -> None:
    one = undisturbed(case, "fp64")
    assert len(metrics(one)[0]) >= 20
    agree_to_the_end(one, undisturbed(case, "fp64", world), CASES[case][-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME)
def test_the_first_step_in_float32(case: str, undisturbed: Callable[..., Path]) -> None:
    first, *others = (metrics(undisturbed(case, "fp32", w))[0][0] for w in (1, 2))
    for name in set(LOSSES) & set(first):
        for theirs in others:
            assert math.isclose(first[name], theirs[name], rel_tol=1e-5)


@pytest.fixture
def command(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., tuple]:
    """``command(case, precision)``: a run in pieces, with a checkpoint every step."""

    def words(case: str, precision: str) -> tuple:
        run, data, flags, _ = CASES[case]
        more = ("--precision", precision, "--checkpoint_steps", "1")
        return run, tmp_path, request.getfixturevalue(data), *flags, *more

    return words


@pytest.mark.slow
@pytest.mark.parametrize("case", (*SOME, "multiview"))
def test_resuming_on_another_number_of_processes_keeps_the_trajectory(
    case: str, command: Callable, on: Callable, undisturbed: Callable[..., Path]
) -> None:
    run, *words = command(case, "fp64")
    on(2, interrupted, 5, run, *words)
    on(4, interrupted, 10, run, *words, "--resume")
    resumed = run(*words, "--resume")
    agree_to_the_end(undisturbed(case, "fp64"), resumed, CASES[case][-1])


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (1, "dgcnn"),
        (1, "finetune_cls"),
        *(
            pytest.param(world, case, marks=pytest.mark.slow)
            for world, case in (
                *((1, "dgcnn_seg"), (1, "multiview"), (1, "train_partseg")),
                *((2, case) for case in SOME),
            )
        ),
    ],
)
def test_resuming_inside_an_epoch_gives_the_same_bits(
    world: int,
    case: str,
    command: Callable,
    on: Callable,
    undisturbed: Callable[..., Path],
) -> None:
    run, *words = command(case, "fp32")
    on(world, interrupted, 13, run, *words)
    parts = on(world, run, *words, "--resume")
    assert "at step 13" in (parts / "run.log").read_text()
    whole = undisturbed(case, "fp32", world)
    same_records(whole, parts)
    for name in CASES[case][-1]:
        theirs = tensors(parts, name)
        assert all(torch.equal(v, theirs[n]) for n, v in tensors(whole, name).items())
