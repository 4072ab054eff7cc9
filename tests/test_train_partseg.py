"""Part segmentation as a whole: the same numbers on any number of ranks, its files."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from plyfile import PlyData

import train_partseg
from datasets.shapenet_part import (
    CATEGORIES,
    FIRST_PART,
    FOLDER,
    NUM_PARTS,
    ShapeNetPart,
)
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.ddp_helpers import Pool
from utils import checkpoint, cli, distributed, part_pictures
from utils.checkpoint import save_weights
from utils.metrics import shape_iou
from utils.optim import DivergenceError, scheduled
from utils.part_pictures import FOREIGN, PALETTE

TINY = (
    "--num_points 32 --k 4 --emb_dims 16 --batch_size 4 --num_workers 0 "
    "--wandb disabled --print_freq 1"
).split()
SCRATCH = ("--from_scratch", "--epochs", "2")
TEST_KEYS = {
    *("test_loss", "test_miou", "test_class_miou", "test_accuracy"),
    "test_class_accuracy",
}
EPOCH_KEYS = TEST_KEYS | {
    *("epoch", "epoch_end", "train_loss", "train_miou", "train_accuracy"),
    "best_test_miou",
}
STEP_KEYS = {"step", "epoch", "loss", "lr", "samples_per_second", "data_wait"}


@pytest.fixture(scope="module")
def data(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``--data_root`` of 6 training and 7 test shapes, which 2, 3 and 4 do not divide
    both; the test split begins with 4 chairs, more than are drawn of a category."""
    root = tmp_path_factory.mktemp("partseg")
    (root / FOLDER).mkdir()
    for split, rows, chairs in (("train", 6, 2), ("val", 0, 0), ("test", 7, 4)):
        source = ShapeNetPart(synthetic_root, split)
        chair = np.flatnonzero(source.labels == 4)[[0] * chairs]
        others = np.flatnonzero(source.labels != 4)[::2]
        kept = np.concatenate([chair, others])[:rows].astype(np.int64)
        # Another order of the points, of which the first are read: no two are equal.
        order = np.arange(2048) + 32 * np.arange(rows)[:, None]
        points, parts = (
            x[kept[:, None], order % 2048] for x in (source.points, source.parts)
        )
        with h5py.File(root / FOLDER / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = points
            file["label"] = source.labels[kept].astype(np.uint8)[:, None]
            file["pid"] = parts.astype(np.uint8)
    return root


def segment(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    folder.mkdir(exist_ok=True)
    before = os.getcwd()
    os.chdir(folder)
    try:
        args = train_partseg.get_args_parser().parse_args(
            ["--data_root", str(data), "--exp_name", "run", *TINY, *words]
        )
        train_partseg.segment(args, distributed.start())
    finally:
        os.chdir(before)
    return folder / "checkpoints" / "run"


def metrics(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of steps and of epochs."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    return [x for x in lines if "step" in x], [x for x in lines if "epoch_end" in x]


def judged(run: Path) -> dict[str, Any]:
    """The record of ``--eval``."""
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)


def weights(run: Path, name: str = "best_model.pth") -> dict[str, torch.Tensor]:
    return torch.load(run / "models" / name, weights_only=True)


def test_two_processes_give_the_numbers_of_one(
    tmp_path: Path, data: Path, two_ranks
) -> None:
    words = (*SCRATCH, "--precision", "fp64", "--lr", "0.02")
    one = segment(tmp_path / "one", data, *words)
    two_ranks.run(make, tmp_path / "two")
    two = two_ranks.run(segment, tmp_path / "two", data, *words)[0]
    (steps, epochs), (their_steps, their_epochs) = metrics(one), metrics(two)
    assert len(steps) == len(their_steps) == 2 * 2  # 6 shapes, batches of 4
    for mine, theirs in zip(steps, their_steps, strict=True):
        for name in ("loss", "lr"):
            assert math.isclose(mine[name], theirs[name], rel_tol=1e-8), name
    for mine, theirs in zip(epochs, their_epochs, strict=True):
        for name in ("test_miou", "test_class_miou", "test_accuracy"):
            assert mine[name] == theirs[name], name
        assert mine["test_class_accuracy"] == theirs["test_class_accuracy"]
        for name in EPOCH_KEYS - {"epoch", "epoch_end"}:
            assert math.isclose(mine[name], theirs[name], rel_tol=1e-8), name
    # Dropout takes part: without it the losses are others.
    dry = segment(tmp_path / "dry", data, *words, "--dropout", "0", "--epochs", "1")
    assert not math.isclose(metrics(dry)[0][1]["loss"], steps[1]["loss"], rel_tol=1e-4)


def make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def shapes_judged(folder: Path, data: Path, *words: str) -> int:
    """Run the script; how many shapes this rank predicted."""
    judge, counts = train_partseg.evaluate, []

    def count(*args: Any) -> tuple:
        found = judge(*args)
        counts.append(len(found[2]))
        return found

    train_partseg.evaluate = count
    try:
        segment(folder, data, *words)
    finally:
        train_partseg.evaluate = judge
    return sum(counts)


def test_evaluation_is_exact_on_two_and_three_ranks(
    tmp_path: Path, data: Path, two_ranks
) -> None:
    torch.manual_seed(0)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    save_weights(model, tmp_path / "w.pth")
    words = ("--eval", "--model_path", str(tmp_path / "w.pth"))
    # Test batches of 1, and one that holds the whole split.
    records = [
        judged(segment(tmp_path / n, data, *words, "--test_batch_size", n))
        for n in ("1", "8")
    ]
    three_ranks = Pool(3)
    try:
        for pool, shares in ((two_ranks, [3, 4]), (three_ranks, [2, 2, 3])):
            where = tmp_path / f"{pool.world_size} ranks"
            make(where)
            assert pool.run(shapes_judged, where, data, *words) == shares
            records.append(judged(where / "checkpoints" / "run"))
    finally:
        three_ranks.close()
    # Without --exp_name the run folder is named after what was judged.
    segment(tmp_path / "1", data, *words, "--exp_name", "")
    assert (tmp_path / "1" / "checkpoints" / "partseg_w" / "metrics.jsonl").is_file()
    for record in records:
        assert set(record) == TEST_KEYS | {"model_path", "test_size", "category_iou"}
        assert record["test_size"] == 7
        for name in set(record) - {"test_loss"}:
            assert record[name] == records[0][name], name
        assert math.isclose(record["test_loss"], records[0]["test_loss"], rel_tol=1e-6)
    # And they are those of the definition.
    test = ShapeNetPart(data, "test", num_points=32)
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


def test_outputs_and_the_recorded_best(tmp_path: Path, data: Path) -> None:
    words = ("--from_scratch", "--epochs", "4", "--save_freq", "1")
    run = segment(tmp_path, data, *words, "--test_batch_size", "1")
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "run.log", "metrics.jsonl", "models/best_model.pth"),
        *(f"models/ckpt_epoch_{n}.pth" for n in (1, 2, 3, 4)),
        "models/checkpoint_last.pth",
    }
    steps, epochs = metrics(run)
    assert [line["step"] for line in steps] == list(range(8))
    assert all(set(line) == STEP_KEYS for line in steps)
    assert all(set(line) == EPOCH_KEYS for line in epochs)
    assert [x["lr"] for x in steps[::2]] == [
        scheduled("cos", 0.1, e, 4) for e in range(4)
    ]
    for number, line in enumerate(epochs):
        mean = np.mean([x["loss"] for x in steps if x["epoch"] == number])
        assert math.isclose(line["train_loss"], mean, rel_tol=1e-9)
        best_so_far = max(x["test_miou"] for x in epochs[: number + 1])
        assert line["best_test_miou"] == best_so_far
        for name in EPOCH_KEYS - {"epoch", "epoch_end", "train_loss", "test_loss"}:
            assert 0 <= line[name] <= 1
    best = max(epochs, key=lambda line: line["test_miou"])
    chosen, kept = weights(run), weights(run, f"ckpt_epoch_{best['epoch'] + 1}.pth")
    assert all(torch.equal(chosen[name], kept[name]) for name in kept)
    log = (run / "run.log").read_text()
    for said in (
        *("chosen by instance mIoU on the test split", "random weights (seed 1)"),
        *("6 training and 7 test shapes", "4 global, 4 a rank on 1 process"),
        f"last epoch: test_miou {epochs[-1]['test_miou']:.4f}",
        f"best epoch: test_miou {best['test_miou']:.4f}, chosen on the test split",
        "chair ",
    ):
        assert said in log, said
    # What is judged later is what was recorded.
    path = str(run / "models" / "best_model.pth")
    again = judged(segment(tmp_path / "eval", data, "--eval", "--model_path", path))
    for name in TEST_KEYS - {"test_loss"}:
        assert again[name] == best[name], name
    assert math.isclose(again["test_loss"], best["test_loss"], rel_tol=1e-5)


def test_the_first_step_is_that_of_the_definition(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, models = [], []
    train = train_partseg.train_one_epoch

    def look(model, loader, *others: Any) -> dict[str, float]:
        loader.batch_sampler.set_epoch(0)
        batches.extend(loader)
        models.append(copy.deepcopy(model))
        return train(model, loader, *others)

    monkeypatch.setattr(train_partseg, "train_one_epoch", look)
    words = ("--from_scratch", "--epochs", "1", "--dropout", "0", "--precision", "fp64")
    steps, epochs = metrics(segment(tmp_path, data, *words, "--batch_size", "8"))
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
    for cloud, _, parts in ShapeNetPart(data, "trainval", num_points=32):
        rows = [tuple(row) for row in cloud.T.tolist()]
        stored[frozenset(rows)] = (rows, dict(zip(rows, parts.tolist(), strict=True)))
    for cloud, parts in zip(points, target, strict=True):
        rows = [tuple(row) for row in cloud.T.tolist()]
        original, labels = stored[frozenset(rows)]
        assert rows != original
        assert [labels[row] for row in rows] == parts.tolist()


def test_training_learns(tmp_path: Path, data: Path) -> None:
    words = ("--epochs", "12", "--optimizer", "adam", "--lr", "0.01", "--dropout", "0")
    run = segment(tmp_path, data, "--from_scratch", *words, "--scheduler", "step")
    epochs = metrics(run)[1]
    assert epochs[-1]["train_loss"] < 0.7 * epochs[0]["train_loss"]
    assert epochs[-1]["train_miou"] > epochs[0]["train_miou"] + 0.2
    assert epochs[-1]["train_accuracy"] > epochs[0]["train_accuracy"] + 0.2


def start_of(
    folder: Path, data: Path, path: str, monkeypatch: Any = None
) -> dict[str, torch.Tensor]:
    """What the wrapped model holds before the first step, by its inner names."""
    found = {}

    def look(model, *_: Any) -> dict[str, float]:
        inner = distributed.unwrap(model)
        assert (inner is model) == (distributed.world_size() == 1)
        found.update({n: v.clone() for n, v in inner.state_dict().items()})
        raise Interrupted

    before = train_partseg.train_one_epoch
    train_partseg.train_one_epoch = look
    try:
        segment(folder, data, "--model_path", path, "--overwrite")
    except Interrupted:
        return found
    finally:
        train_partseg.train_one_epoch = before
    raise AssertionError("training was not reached")


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("published", [False, True])
def test_training_starts_from_the_file(
    published: bool, tmp_path: Path, data: Path, two_ranks
) -> None:
    torch.manual_seed(9)
    encoder = DGCNNPartSeg(k=4, emb_dims=16)
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    path = tmp_path / "w.pth"
    save_weights(encoder, path)
    state = torch.load(path, weights_only=True)
    if published:
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    head = {f"bn{n}" for n in (7, 8, 9, 10)}
    wanted = {n for n in state if n.split(".")[0] not in {"inv_head", *head}}
    assert len(wanted) > 80
    make(tmp_path / "two")
    starts = two_ranks.run(start_of, tmp_path / "two", data, str(path))
    for found in (start_of(tmp_path, data, str(path)), *starts):
        assert set(wanted) <= set(found)
        assert all(torch.equal(found[name], state[name]) for name in wanted)
        assert torch.equal(found["conv11.weight"], starts[0]["conv11.weight"])
    log = (tmp_path / "checkpoints" / "run" / "run.log").read_text()
    assert f"{len(wanted) + 4 * 5} entries loaded" in log
    assert "left out of the file: inv_head.0" in log
    assert "still at their initial values: conv7.0" in log


def test_a_file_of_which_nothing_fits_or_a_head_is_missing_stops_the_run(
    tmp_path: Path, data: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(cli.UsageError, match="none of its 1 entries"):
        segment(tmp_path, data, "--model_path", str(path))
    save_weights(DGCNN(k=4, emb_dims=16), path)
    with pytest.raises(cli.UsageError, match="has shape"):
        segment(tmp_path, data, "--model_path", str(path))
    save_weights(DGCNNPartSeg(k=4, emb_dims=16), path)  # not fine-tuned
    with pytest.raises(cli.UsageError, match=r"--eval needs .*fine-tuned.*conv11"):
        segment(tmp_path, data, "--model_path", str(path), "--eval")
    assert not (tmp_path / "checkpoints").exists()


def test_one_category_in_a_set_smaller_than_a_batch(tmp_path: Path, data: Path) -> None:
    words = (*SCRATCH, "--class_choice", "chair", "--batch_size", "6")
    run = segment(tmp_path, data, *words)
    steps, epochs = metrics(run)
    assert len(steps) == len(epochs) == 2
    for line in epochs:
        assert line["test_miou"] == line["test_class_miou"]
    log = (run / "run.log").read_text()
    assert "2 training and 4 test shapes" in log
    assert "airplane" not in log
    with pytest.raises(cli.UsageError, match=r"--class_choice is one of airplane"):
        segment(tmp_path, data, *SCRATCH, "--class_choice", "sofa", "--overwrite")


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
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
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
    run = segment(tmp_path, data, *SCRATCH, "--scheduler", "step")
    assert asked == [("step", 0.1, 0, 2), ("step", 0.1, 1, 2)]
    assert isinstance(made[0], torch.optim.SGD)
    assert [g["lr"] for g in made[0].param_groups] == [0.03]
    assert {line["lr"] for line in metrics(run)[0]} == {0.03}


def test_resuming_inside_an_epoch_gives_the_uninterrupted_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--from_scratch", "--epochs", "3", "--checkpoint_steps", "1")
    whole = segment(tmp_path / "whole", data, *words)
    write = checkpoint.save_training_state

    def write_then_die(path, arguments, progress, **parts) -> None:
        write(path, arguments, progress, **parts)
        if progress.step == 3:  # the first step of the second epoch is done
            raise Interrupted

    monkeypatch.setattr(checkpoint, "save_training_state", write_then_die)
    with pytest.raises(Interrupted):
        segment(tmp_path / "parts", data, *words)
    monkeypatch.undo()
    with pytest.raises(cli.UsageError, match=r"--scheduler 'cos' -> 'step'"):
        segment(tmp_path / "parts", data, *words, "--resume", "--scheduler", "step")
    run = segment(
        *(tmp_path / "parts", data, *words, "--resume"),
        *("--save_predictions", str(tmp_path / "pictures")),
    )
    assert "going on from" in (run / "run.log").read_text()
    for mine, theirs in zip(metrics(whole), metrics(run), strict=True):
        for line, other in zip(mine, theirs, strict=True):
            for name in set(line) - {"samples_per_second", "data_wait"}:
                assert line[name] == other[name], name
    theirs = weights(run)
    assert all(torch.equal(v, theirs[n]) for n, v in weights(whole).items())
    theirs = weights(run, "checkpoint_last.pth")["model"]
    mine = weights(whole, "checkpoint_last.pth")["model"]
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert (tmp_path / "pictures" / "contact_sheet.png").is_file()


def test_predictions_are_written_as_they_were_made(
    tmp_path: Path, data: Path, two_ranks
) -> None:
    path = tmp_path / "w.pth"
    torch.manual_seed(4)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    with torch.no_grad():  # parts of chairs are favoured, foreign ones stay possible
        model.conv11.weight[12:16] *= 3
    save_weights(model, path)
    pictures = tmp_path / "two" / "new" / "pictures"
    make(tmp_path / "two")
    words = ("--eval", "--model_path", str(path), "--save_predictions", str(pictures))
    two_ranks.run(segment, tmp_path / "two", data, *words)
    test = ShapeNetPart(data, "test", num_points=32)
    kept = [
        row
        for row, c in enumerate(test.labels)
        if (test.labels[:row] == c).sum() < train_partseg.SHOWN
    ]
    names = {
        f"{CATEGORIES[test.labels[row]]}_{row:04d}_{kind}.ply"
        for row in kept
        for kind in ("truth", "predicted")
    }
    assert {p.name for p in pictures.iterdir()} == {*names, "contact_sheet.png"}
    assert kept == [0, 1, 2, 4, 5, 6]  # row 3, the fourth chair, is rank 1's first
    model.eval()
    foreign = own = 0
    for row in kept:
        points, category, parts = test[row]
        with torch.no_grad():
            one_hot = torch.eye(16)[category][None]
            predicted = model(points[None], one_hot)[0].argmax(dim=0)
        for kind, labels in (("truth", parts), ("predicted", predicted)):
            name = f"{CATEGORIES[category]}_{row:04d}_{kind}.ply"
            vertices = PlyData.read(str(pictures / name))["vertex"]
            for axis, values in zip("xyz", points.numpy(), strict=True):
                assert np.array_equal(vertices[axis], values)
            assert np.array_equal(vertices["part"], labels.numpy())
            for i, part in enumerate(labels.tolist()):
                index = part - FIRST_PART[category]
                last = [*FIRST_PART, NUM_PARTS][category + 1] - FIRST_PART[category]
                mine = 0 <= index < last
                wanted = PALETTE[index] if mine else FOREIGN
                foreign, own = foreign + (not mine), own + mine
                colour = [vertices[c][i] for c in ("red", "green", "blue")]
                assert colour == wanted.tolist()
    assert foreign and own
    header = (pictures / "contact_sheet.png").read_bytes()
    assert header.startswith(b"\x89PNG")
    # What is there already is never mixed with new files.
    with pytest.raises(cli.UsageError, match=r"pictures is not an empty folder"):
        segment(tmp_path / "again", data, *words)
    (tmp_path / "file").touch()
    with pytest.raises(cli.UsageError, match=r"file is not an empty folder"):
        segment(tmp_path, data, *words[:-1], str(tmp_path / "file"))
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_training_writes_the_predictions_of_the_best_weights(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(
        part_pictures, "save_part_predictions", lambda *a: written.append(a)
    )
    judge = train_partseg.evaluate
    scores = iter([0.5, 0.9, 0.1, 0.0])  # the second epoch is the best

    def scored(*args: Any) -> tuple:
        values, by_category, predicted = judge(*args)
        return {**values, "test_miou": next(scores)}, by_category, predicted

    monkeypatch.setattr(train_partseg, "evaluate", scored)
    words = ("--from_scratch", "--epochs", "3", "--save_freq", "1")
    run = segment(tmp_path, data, *words, "--save_predictions", str(tmp_path / "p"))
    ((folder, _, rows, category, points, target, predicted),) = written
    assert folder == tmp_path / "p"
    test = ShapeNetPart(data, "test", num_points=32)
    assert np.array_equal(points, test.points[rows])
    assert np.array_equal(target, test.parts[rows])
    assert np.array_equal(category, test.labels[rows])
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    model.load_state_dict(weights(run, "ckpt_epoch_2.pth"))
    model.eval()
    with torch.no_grad():
        logits = model(
            torch.from_numpy(points).transpose(1, 2), torch.eye(16)[category]
        )
    assert np.array_equal(logits.argmax(dim=1).numpy(), predicted)
    assert "best epoch: test_miou 0.9000" in (run / "run.log").read_text()
    assert "last epoch: test_miou 0.1000" in (run / "run.log").read_text()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_starts_where_float32_does(
    precision: str, tmp_path: Path, data: Path
) -> None:
    words = ("--from_scratch", "--epochs", "1", "--precision")
    runs = [segment(tmp_path / p, data, *words, p) for p in ("fp32", precision)]
    first = [metrics(run)[0][0]["loss"] for run in runs]
    assert first[0] != first[1]
    assert math.isclose(*first, rel_tol=0.1)
    assert weights(runs[1])["conv1.0.weight"].dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DivergenceError, match=r"the loss is not finite at step .*--lr"):
        segment(tmp_path, data, *SCRATCH, "--lr", "1e30", "--epochs", "5")
    assert not list((tmp_path / "checkpoints" / "run" / "models").iterdir())


def test_bad_requests_stop_before_anything_is_written(
    tmp_path: Path, data: Path
) -> None:
    path = str(tmp_path / "w.pth")
    for text, *words in (
        (r"either --model_path FILE .* or --from_scratch",),
        (r"either --model_path FILE .*", *SCRATCH, "--model_path", path),
        ("--eval judges the weights of --model_path", "--eval"),
        ("--eval judges the weights of --model_path", *SCRATCH, "--eval"),
        ("--eval has nothing to", "--eval", "--model_path", path, "--resume"),
        (r"w\.pth: no such file", "--model_path", path),
        ("--batch_size 1 leaves BatchNorm", *SCRATCH, "--batch_size", "1"),
        ("--k 40 is more than --num_points 32", *SCRATCH, "--k", "40"),
        ("--dropout must be below 1", *SCRATCH, "--dropout", "1"),
        (FOLDER, *SCRATCH, "--data_root", str(tmp_path)),
        ("fewer than the 4096 asked for", *SCRATCH, "--num_points", "4096"),
        ("exp_name", *SCRATCH, "--exp_name", "../other"),
    ):
        with pytest.raises(cli.UsageError, match=text):
            segment(tmp_path, data, *words)
        assert not (tmp_path / "checkpoints").exists()
