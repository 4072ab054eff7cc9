"""Part segmentation: the same numbers on any number of ranks, from the definition."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData

import train_partseg
from datasets.shapenet_part import CATEGORIES, NUM_PARTS, ShapeNetPart
from models.partseg import DGCNNPartSeg
from tests.helpers.ddp import Pool
from tests.helpers.runs import evaluated, metrics, segment
from utils.drawing.clouds import part_colours
from utils.judging.metrics import shape_iou
from utils.run import cli
from utils.run.bookkeeping import DivergenceError
from utils.run.checkpoint import save_weights

SCRATCH = ("--from_scratch", "--epochs", "2")


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
    logits = model(points.double(), torch.eye(16)[category]).detach()
    expected = torch.full_like(logits, 0.2 / 49).scatter_(1, target[:, None], 0.8)
    loss = -(expected * logits.log_softmax(dim=1)).sum(dim=1).mean().item()
    assert math.isclose(steps[0]["loss"], loss, rel_tol=1e-9)
    predicted = logits.argmax(dim=1).numpy()
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
        rows = list(map(tuple, cloud.T.tolist()))
        stored[frozenset(rows)] = dict(zip(rows, parts.tolist(), strict=True))
    for cloud, parts in zip(points, target, strict=True):
        rows = list(map(tuple, cloud.T.tolist()))
        labels = stored[frozenset(rows)]
        assert rows != list(labels)
        assert [labels[row] for row in rows] == parts.tolist()


def test_one_category_in_a_set_smaller_than_a_batch(
    tmp_path: Path, part_root: Path
) -> None:
    words = (*SCRATCH, "--class_choice", "chair", "--batch_size", "6")
    run = segment(tmp_path, part_root, *words, "--scheduler", "step")
    steps, epochs = metrics(run)
    assert len(steps) == len(epochs) == 2
    assert {line["lr"] for line in steps} == {0.1}  # not halved before epoch 20
    for line in epochs:
        assert line["test_miou"] == line["test_class_miou"]
    log = (run / "run.log").read_text()
    assert "2 training and 4 test shapes" in log
    assert "airplane" not in log
    with pytest.raises(cli.UsageError, match=r"is not one of airplane.*--class_choice"):
        segment(tmp_path, part_root, *SCRATCH, "--class_choice", "sofa", "--overwrite")


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
    assert [path.name for path in models.glob("*.pth")] == ["checkpoint_last.pth"]


def test_an_evaluation_is_that_of_the_definition_and_its_predictions_are_written(
    tmp_path: Path, part_root: Path, two_ranks: Pool
) -> None:
    path = tmp_path / "w.pth"
    torch.manual_seed(4)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    save_weights(model, path)
    folder = tmp_path / "two" / "new" / "found"
    words = ("--eval", "--model_path", str(path), "--save_predictions", str(folder))
    (run, _) = two_ranks.run(segment, tmp_path / "two", part_root, *words)
    record = evaluated(run)
    test = ShapeNetPart(part_root, "test", num_points=32)
    points = torch.from_numpy(test.points).transpose(1, 2)  # (7, 3, 32)
    with torch.no_grad():
        logits = model.eval()(points, torch.eye(16)[test.labels])
    predicted = logits.argmax(dim=1).numpy()
    iou = shape_iou(predicted, test.parts, test.labels).numpy()
    assert record["test_miou"] == iou.mean()
    assert record["test_accuracy"] == np.mean(predicted == test.parts)
    names = [CATEGORIES[c] for c in np.unique(test.labels)]
    assert list(record["category_iou"]) == names
    kept = [0, 1, 2, 4, 5, 6]  # row 3, the fourth chair, is rank 1's first
    expected = {"contact_sheet.png"}
    for row in kept:
        category = test.labels[row]
        for kind, parts in (("truth", test.parts), ("predicted", predicted)):
            name = f"{CATEGORIES[category]}_{row:04d}_{kind}.ply"
            expected.add(name)
            vertices = PlyData.read(str(folder / name))["vertex"]
            for axis, values in zip("xyz", test.points[row].T, strict=True):
                assert np.array_equal(vertices[axis], values)
            assert np.array_equal(vertices["part"], parts[row])
            colours = np.stack([vertices[c] for c in ("red", "green", "blue")], axis=1)
            assert np.array_equal(colours, part_colours(parts[row], category))
    assert {path.name for path in folder.iterdir()} == expected
    # What is there already is never mixed with new files.
    (tmp_path / "file").touch()
    for place in (folder, tmp_path / "file"):
        with pytest.raises(cli.UsageError, match=rf"{place} is not an empty folder"):
            segment(tmp_path / "again", part_root, *words[:-1], str(place))
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_training_writes_the_predictions_of_the_best_weights(
    tmp_path: Path, part_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = train_partseg.evaluate
    scores = iter([0.5, 0.9, 0.1, 0.0, 0.0])  # the second epoch is the best

    def scored(*args: Any) -> tuple:
        values, *others = evaluate(*args)
        return {**values, "test_miou": next(scores)}, *others

    monkeypatch.setattr(train_partseg, "evaluate", scored)
    words = ("--from_scratch", "--epochs", "3", "--save_freq", "1")
    written, expected = tmp_path / "written", tmp_path / "wanted"
    run = segment(tmp_path, part_root, *words, "--save_predictions", str(written))
    log = (run / "run.log").read_text()
    assert "best epoch: test_miou 0.9000" in log
    assert "last epoch: test_miou 0.1000" in log
    second = str(run / "models" / "ckpt_epoch_2.pth")
    words = ("--eval", "--model_path", second, "--save_predictions", str(expected))
    segment(tmp_path / "eval", part_root, *words)
    actual = {path.name: path.read_bytes() for path in written.glob("*.ply")}
    assert actual == {path.name: path.read_bytes() for path in expected.glob("*.ply")}


def test_names_of_earlier_code_are_taken() -> None:
    parser = train_partseg.get_args_parser()
    earlier = "--dataset shapenetpart --model dgcnn --class_choice motor"
    now = parser.parse_args("--model dgcnn_seg --class_choice motorbike".split())
    assert parser.parse_args(earlier.split()) == now
    assert now.class_choice in CATEGORIES
    for words in ("--dataset modelnet40", "--model pointnet"):
        with pytest.raises(SystemExit):
            parser.parse_args(words.split())
