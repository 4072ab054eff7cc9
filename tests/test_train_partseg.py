"""Part segmentation: the same numbers on any number of ranks, from the definition."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_partseg
from datasets.shapenet_part import (
    CATEGORIES,
    NUM_PARTS,
    ShapeNetPart,
)
from models.partseg import DGCNNPartSeg
from tests.ddp_helpers import Pool
from tests.runs import judged, metrics, segment, weights
from utils.judging.metrics import shape_iou
from utils.run import cli
from utils.run.bookkeeping import DivergenceError
from utils.run.checkpoint import save_weights
from utils.run.training import scheduled

SCRATCH = ("--from_scratch", "--epochs", "2")
TEST_KEYS = {
    *("test_loss", "test_miou", "test_class_miou", "test_accuracy"),
    "test_class_accuracy",
}
EPOCH_KEYS = TEST_KEYS | {
    *("epoch", "epoch_end", "train_loss", "train_miou", "train_accuracy"),
    "best_test_miou",
}


def shapes_judged(folder: Path, part_root: Path, *words: str) -> int:
    """Run the script; how many shapes this rank predicted."""
    judge, counts = train_partseg.evaluate, []

    def count(*args: Any) -> tuple:
        found = judge(*args)
        counts.append(len(found[2]))
        return found

    train_partseg.evaluate = count
    try:
        segment(folder, part_root, *words)
    finally:
        train_partseg.evaluate = judge
    return sum(counts)


def test_evaluation_is_exact_on_two_and_four_ranks(
    tmp_path: Path, part_root: Path, two_ranks: Pool, four_ranks: Pool
) -> None:
    torch.manual_seed(0)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    save_weights(model, tmp_path / "w.pth")
    words = ("--eval", "--model_path", str(tmp_path / "w.pth"))
    # Test batches of 1, and one that holds the whole split.
    records = [
        judged(segment(tmp_path / n, part_root, *words, "--test_batch_size", n))
        for n in ("1", "8")
    ]
    for pool, shares in ((two_ranks, [3, 4]), (four_ranks, [1, 2, 2, 2])):
        where = tmp_path / f"{pool.world_size} ranks"
        assert pool.run(shapes_judged, where, part_root, *words) == shares
        records.append(judged(where / "checkpoints" / "run"))
    # Without --exp_name the run folder is named after what was judged.
    segment(tmp_path / "1", part_root, *words, "--exp_name", "")
    assert (
        tmp_path / "1" / "checkpoints" / "eval_shapenetpart_w" / "metrics.jsonl"
    ).is_file()
    for record in records:
        assert set(record) == TEST_KEYS | {"model_path", "test_size", "category_iou"}
        assert record["test_size"] == 7
        for name in set(record) - {"test_loss"}:
            assert record[name] == records[0][name], name
        assert math.isclose(record["test_loss"], records[0]["test_loss"], rel_tol=1e-6)
    # And they are those of the definition.
    test = ShapeNetPart(part_root, "test", num_points=32)
    model.eval()
    predicted = []
    with torch.no_grad():
        for points, category, _ in test:
            one_hot = torch.eye(16)[category][None]
            predicted.append(model(points[None], one_hot)[0].argmax(dim=0).numpy())
    predicted = np.stack(predicted)
    iou = shape_iou(predicted, test.parts, test.labels).numpy()
    assert records[0]["test_miou"] == iou.mean()
    assert records[0]["test_accuracy"] == np.mean(predicted == test.parts)
    assert list(records[0]["category_iou"]) == [
        CATEGORIES[c] for c in np.unique(test.labels)
    ]


def test_the_first_step_is_that_of_the_definition(
    tmp_path: Path, part_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, models = [], []
    train = train_partseg.train_one_epoch

    def look(model, loader, *others) -> dict[str, float]:
        loader.batch_sampler.set_epoch(0)
        batches.extend(loader)
        models.append(copy.deepcopy(model))
        return train(model, loader, *others)

    monkeypatch.setattr(train_partseg, "train_one_epoch", look)
    words = ("--from_scratch", "--epochs", "1", "--dropout", "0", "--precision", "fp64")
    steps, epochs = metrics(segment(tmp_path, part_root, *words, "--batch_size", "8"))
    ((points, category, target),) = batches
    model = models[0].train()
    logits = model(points.double(), torch.eye(16)[category]).detach().numpy()
    losses = []
    for shape, parts in zip(logits, target.numpy(), strict=True):
        for column, part in zip(shape.T, parts, strict=True):
            log_p = column - np.log(np.exp(column).sum())
            wanted = np.full(50, 0.2 / 49)
            wanted[part] = 0.8
            losses.append(-(wanted * log_p).sum())
    assert math.isclose(steps[0]["loss"], np.mean(losses), rel_tol=1e-9)
    predicted = logits.argmax(axis=1)
    iou = shape_iou(predicted, target, category)
    assert math.isclose(epochs[0]["train_loss"], steps[0]["loss"], rel_tol=1e-12)
    assert math.isclose(epochs[0]["train_miou"], iou.mean(), rel_tol=1e-9)
    accuracy = np.mean(predicted == target.numpy())
    assert math.isclose(epochs[0]["train_accuracy"], accuracy, rel_tol=1e-9)
    # Six shapes; the batch is filled from the head of their order. Every cloud has its
    # points in an order of its own, with their labels.
    assert torch.equal(points[6:], points[:2])
    assert len({tuple(cloud.flatten().tolist()) for cloud in points}) == 6
    stored = {}
    for cloud, _, parts in ShapeNetPart(part_root, "trainval", num_points=32):
        rows = [tuple(row) for row in cloud.T.tolist()]
        stored[frozenset(rows)] = (rows, dict(zip(rows, parts.tolist(), strict=True)))
    for cloud, parts in zip(points, target, strict=True):
        rows = [tuple(row) for row in cloud.T.tolist()]
        original, labels = stored[frozenset(rows)]
        assert rows != original
        assert [labels[row] for row in rows] == parts.tolist()


def test_training_learns(tmp_path: Path, part_root: Path) -> None:
    words = ("--epochs", "12", "--optimizer", "adam", "--lr", "0.01", "--dropout", "0")
    run = segment(tmp_path, part_root, "--from_scratch", *words, "--scheduler", "step")
    epochs = metrics(run)[1]
    assert epochs[-1]["train_loss"] < 0.7 * epochs[0]["train_loss"]
    assert epochs[-1]["train_miou"] > epochs[0]["train_miou"] + 0.2
    assert epochs[-1]["train_accuracy"] > epochs[0]["train_accuracy"] + 0.2


def test_one_category_in_a_set_smaller_than_a_batch(
    tmp_path: Path, part_root: Path
) -> None:
    words = (*SCRATCH, "--class_choice", "chair", "--batch_size", "6")
    run = segment(tmp_path, part_root, *words)
    steps, epochs = metrics(run)
    assert len(steps) == len(epochs) == 2
    for line in epochs:
        assert line["test_miou"] == line["test_class_miou"]
    log = (run / "run.log").read_text()
    assert "2 training and 4 test shapes" in log
    assert "airplane" not in log
    with pytest.raises(cli.UsageError, match=r"--class_choice is one of airplane"):
        segment(tmp_path, part_root, *SCRATCH, "--class_choice", "sofa", "--overwrite")


def test_schedules() -> None:
    assert scheduled("cos", 0.1, 0, 300) == pytest.approx(0.1)
    assert scheduled("cos", 0.1, 150, 300) == pytest.approx((0.1 + 1e-3) / 2)
    assert scheduled("cos", 0.1, 300, 300) == pytest.approx(1e-3)
    assert scheduled("cos", 0.1, 75, 300) == pytest.approx(
        1e-3 + 0.099 * (1 + math.sqrt(0.5)) / 2
    )
    rates = [scheduled("step", 0.1, e, 300) for e in (0, 19, 20, 39, 40, 265, 299)]
    assert rates == pytest.approx(
        [0.1, 0.1, 0.05, 0.05, 0.025, 0.1 / 2**13, 1e-5], rel=1e-12
    )
    for name in ("cos", "step"):  # a start below the end does not rise
        rates = [scheduled(name, 1e-6, epoch, 300) for epoch in range(300)]
        assert max(rates) == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="cos or step"):
        scheduled("linear", 0.1, 0, 1)


def test_the_step_schedule_and_sgd_reach_the_optimiser(
    tmp_path: Path, part_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = train_partseg.get_args_parser().parse_args([])
    assert (args.optimizer, args.momentum, args.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (args.batch_size, args.epochs, args.k, args.num_points) == (
        32,
        300,
        40,
        2048,
    )
    asked, made = [], []
    monkeypatch.setattr(
        *(train_partseg, "scheduled"),
        lambda name, start, *when: asked.append((name, start, *when)) or 0.03,
    )
    build = train_partseg.build_optimizer
    monkeypatch.setattr(
        *(train_partseg, "build_optimizer"),
        lambda *a: made.append(build(*a)) or made[0],
    )
    run = segment(tmp_path, part_root, *SCRATCH, "--scheduler", "step")
    assert asked == [("step", 0.1, 0, 2), ("step", 0.1, 1, 2)]
    assert isinstance(made[0], torch.optim.SGD)
    assert [g["lr"] for g in made[0].param_groups] == [0.03]
    assert {line["lr"] for line in metrics(run)[0]} == {0.03}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_starts_where_float32_does(
    precision: str, tmp_path: Path, part_root: Path
) -> None:
    words = ("--from_scratch", "--epochs", "1", "--precision")
    runs = [segment(tmp_path / p, part_root, *words, p) for p in ("fp32", precision)]
    first = [metrics(run)[0][0]["loss"] for run in runs]
    assert first[0] != first[1]
    assert math.isclose(*first, rel_tol=0.1)
    assert weights(runs[1])["conv1.0.weight"].dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, part_root: Path
) -> None:
    with pytest.raises(DivergenceError, match=r"the loss is not finite at step .*--lr"):
        segment(tmp_path, part_root, *SCRATCH, "--lr", "1e30", "--epochs", "5")
    assert not list((tmp_path / "checkpoints" / "run" / "models").iterdir())


def test_a_test_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, part_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = train_partseg.evaluate

    def broken(*args: Any) -> tuple:
        values, *others = evaluate(*args)
        return values | {"test_loss": math.nan}, *others

    monkeypatch.setattr(train_partseg, "evaluate", broken)
    with pytest.raises(DivergenceError, match="the test loss is not finite"):
        segment(tmp_path, part_root, *SCRATCH)
    models = tmp_path / "checkpoints" / "run" / "models"
    assert [path.name for path in models.iterdir()] == ["checkpoint_last.pth"]
