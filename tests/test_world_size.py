"""The number of processes changes the time that a run takes, and nothing else.

One float64 run on one process is the reference of each case; float32 has its own, since
there rounding decides which points are neighbours.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.runs import (
    evaluated,
    finetune,
    interrupted,
    metrics,
    pretrain,
    same_run,
    segment,
)

# What runs, on which data, and with which flags. Every global batch has 8 samples, and
# every run 12 steps.
PRETRAIN = "--epochs 4 --svm_every 4"
MULTIVIEW = (
    "--model pointnet --objective multiview --num_images 3 --view_dims 16 8 24 "
    "--image_jitter 0.2 0.4 0.6"
)
SCRATCH = "--from_scratch --batch_size 8"
CASES = {
    "dgcnn": (pretrain, "synthetic_root", PRETRAIN),
    "dgcnn_seg": (pretrain, "synthetic_root", f"{PRETRAIN} --model dgcnn_seg"),
    "multiview": (pretrain, "synthetic_root", f"{PRETRAIN} {MULTIVIEW}"),
    "finetune_cls": (finetune, "uneven_root", f"{SCRATCH} --epochs 4"),
    "train_partseg": (segment, "part_root", f"{SCRATCH} --epochs 12"),
}
# One with BatchNorm on edges, one with dropout, for what all scripts have from the same
# code.
SOME = ("dgcnn", "train_partseg")
QUICK = ("finetune_cls",)


def runs(*cases: tuple[int, str]) -> pytest.MarkDecorator:
    """A test's world sizes and cases; slow, but for one in the smallest world."""
    smallest = cases[0][0]
    marks = [() if w == smallest and c in QUICK else pytest.mark.slow for w, c in cases]
    params = [pytest.param(*c, marks=m) for c, m in zip(cases, marks, strict=True)]
    return pytest.mark.parametrize(("world", "case"), params)


@pytest.fixture(scope="module")
def train(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """``train(case, precision, world size, folder, *flags)``: the run folder; with
    ``stop``, the run must end when the checkpoint of that step is written."""

    def train(
        case: str, precision: str, world: int, folder: Path, *more: str, stop: int = 0
    ) -> Path:
        run, data, flags = CASES[case]
        where = (folder, request.getfixturevalue(data))
        call = (run, *where, *flags.split(), "--precision", precision, *more)
        if stop:
            call = (interrupted, stop, *call)
        if world == 1:
            return call[0](*call[1:])
        pool = request.getfixturevalue({2: "two_ranks", 4: "four_ranks"}[world])
        return pool.run(*call)[0]

    return train


@pytest.fixture(scope="module")
def undisturbed(
    train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, int], Path]:
    """``undisturbed(case, precision, world size)``: its run folder, made once."""

    @functools.cache
    def run(case: str, precision: str, world: int) -> Path:
        # In float32, sums are rounded at every checkpoint.
        more = ("--checkpoint_steps", "1") if precision == "fp32" else ()
        return train(case, precision, world, tmp_path_factory.mktemp("run"), *more)

    return run


@runs(*((world, case) for world in (2, 4) for case in CASES))
def test_more_processes_give_the_numbers_of_one(
    world: int, case: str, undisturbed: Callable[..., Path]
) -> None:
    one = undisturbed(case, "fp64", 1)
    assert len(metrics(one)[0]) == 12
    same_run(one, undisturbed(case, "fp64", world), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "merit", "name", "size", "keys"),
    [
        (
            *("finetune_cls", "test_accuracy", "eval_modelnet40_run_best_model", 13),
            {"dataset"},
        ),
        (
            *("train_partseg", "test_miou", "eval_shapenetpart_run_best_model", 7),
            {"test_miou", "test_class_miou", "category_iou"},
        ),
    ],
)
def test_any_world_size_and_test_batch_evaluate_alike(
    *, case, merit, name, size, keys, undisturbed, tmp_path: Path, request
) -> None:
    trained = undisturbed(case, "fp64", 1)
    run, data, _ = CASES[case]
    words = f"--eval --precision fp64 --model_path {trained}/models/best_model.pth"
    words = (request.getfixturevalue(data), *words.split())
    runs = [run(tmp_path / "one", *words, "--exp_name", "")]
    assert runs[0].name == name
    runs += [run(tmp_path / n, *words, "--test_batch_size", n) for n in ("1", "50")]
    for ranks in ("two_ranks", "four_ranks"):
        pool = request.getfixturevalue(ranks)
        runs += [pool.run(run, tmp_path / ranks, *words)[0]]
    one, *others = map(evaluated, runs)
    own = {"test_loss", "test_accuracy", "test_class_accuracy"}
    assert set(one) == {"model_path", "test_size"} | own | keys
    assert one["test_size"] == size
    assert one["test_accuracy"] != one["test_class_accuracy"]
    best = max(metrics(trained)[1], key=lambda line: line[merit])
    assert {name: one[name] for name in own} == {name: best[name] for name in own}
    for other in others:
        assert math.isclose(other["test_loss"], one["test_loss"], rel_tol=1e-9)
        assert other | {"test_loss": one["test_loss"]} == one
    log = (runs[-1] / "run.log").read_text()
    assert f"{merit} {one[merit]:.4f}" in log and "entries loaded" in log


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME)
def test_the_first_step_in_float32(case: str, undisturbed: Callable[..., Path]) -> None:
    one, two = (metrics(undisturbed(case, "fp32", w))[0][0] for w in (1, 2))
    for name in {"loss", "imid_loss", "cmid_loss"} & set(one):
        assert math.isclose(one[name], two[name], rel_tol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", (*SOME, "multiview"))
def test_resuming_on_another_number_of_processes_keeps_the_trajectory(
    case: str, train: Callable, undisturbed: Callable, tmp_path: Path
) -> None:
    words = (tmp_path, "--checkpoint_steps", "1")
    train(case, "fp64", 2, *words, stop=5)
    train(case, "fp64", 4, *words, "--resume", stop=8)
    resumed = train(case, "fp64", 1, *words, "--resume")
    same_run(undisturbed(case, "fp64", 1), resumed, rel=1e-8)


@runs(*((1, case) for case in CASES), *((2, case) for case in SOME))
def test_resuming_inside_an_epoch_gives_the_same_bits(
    world: int, case: str, train: Callable, undisturbed: Callable, tmp_path: Path
) -> None:
    words = (tmp_path, "--checkpoint_steps", "1")
    train(case, "fp32", world, *words, stop=8)
    parts = train(case, "fp32", world, *words, "--resume")
    assert "at step 8" in (parts / "run.log").read_text()
    same_run(undisturbed(case, "fp32", world), parts)
