"""Part segmentation: weights in, files and pictures out, resuming, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData

import train_partseg
from datasets.files import SHAPENETPART
from datasets.shapenet_part import (
    CATEGORIES,
    FIRST_PART,
    NUM_PARTS,
    ShapeNetPart,
)
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.runs import interrupted, judged, metrics, same_records, segment, weights
from tests.test_train_partseg import EPOCH_KEYS, SCRATCH, TEST_KEYS
from utils.drawing.parts import FOREIGN, PALETTE
from utils.parallel import distributed
from utils.run import cli
from utils.run.checkpoint import save_weights
from utils.run.training import scheduled

STEP_KEYS = {"step", "epoch", "loss", "lr", "samples_per_second", "data_wait"}


def test_outputs_and_the_recorded_best(tmp_path: Path, part_root: Path) -> None:
    words = ("--from_scratch", "--epochs", "4", "--save_freq", "1")
    run = segment(tmp_path, part_root, *words, "--test_batch_size", "1")
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "run.log", "metrics.jsonl", "models/best_model.pth"),
        *(f"models/ckpt_epoch_{n}.pth" for n in (1, 2, 3, 4)),
        *("models/checkpoint_last.pth", "models/checkpoint_previous.pth"),
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
    again = judged(
        segment(tmp_path / "eval", part_root, "--eval", "--model_path", path)
    )
    for name in TEST_KEYS - {"test_loss"}:
        assert again[name] == best[name], name
    assert math.isclose(again["test_loss"], best["test_loss"], rel_tol=1e-5)


class Captured(Exception):
    pass


def start_of(
    folder: Path, part_root: Path, path: str, monkeypatch: Any = None
) -> dict[str, torch.Tensor]:
    """What the wrapped model holds before the first step, by its inner names."""
    found = {}

    def look(model, *_) -> dict[str, float]:
        inner = distributed.unwrap(model)
        assert (inner is model) == (distributed.world_size() == 1)
        found.update({n: v.clone() for n, v in inner.state_dict().items()})
        raise Captured

    before = train_partseg.train_one_epoch
    train_partseg.train_one_epoch = look
    try:
        segment(folder, part_root, "--model_path", path, "--overwrite")
    except Captured:
        return found
    finally:
        train_partseg.train_one_epoch = before
    raise AssertionError("training was not reached")


@pytest.mark.parametrize("published", [False, True])
def test_training_starts_from_the_file(
    published: bool, tmp_path: Path, part_root: Path, two_ranks
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
    starts = two_ranks.run(start_of, tmp_path / "two", part_root, str(path))
    for found in (start_of(tmp_path, part_root, str(path)), *starts):
        assert set(wanted) <= set(found)
        assert all(torch.equal(found[name], state[name]) for name in wanted)
        assert torch.equal(found["conv11.weight"], starts[0]["conv11.weight"])
    log = (tmp_path / "checkpoints" / "run" / "run.log").read_text()
    assert f"{len(wanted)} entries loaded" in log
    assert "not used from the file: inv_head.0" in log and "bn10 (" in log
    assert "not in the file, left at random: conv7.0" in log


def test_a_file_of_which_nothing_fits_or_a_head_is_missing_stops_the_run(
    tmp_path: Path, part_root: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(cli.UsageError, match="none of its 1 entries"):
        segment(tmp_path, part_root, "--model_path", str(path))
    save_weights(DGCNN(k=4, emb_dims=16), path)
    with pytest.raises(cli.UsageError, match="has shape"):
        segment(tmp_path, part_root, "--model_path", str(path))
    save_weights(DGCNNPartSeg(k=4, emb_dims=16), path)  # not fine-tuned
    with pytest.raises(cli.UsageError, match=r"--eval needs .*fine-tuned.*conv11"):
        segment(tmp_path, part_root, "--model_path", str(path), "--eval")
    assert not (tmp_path / "checkpoints").exists()


def test_resuming_inside_an_epoch_gives_the_uninterrupted_run(
    tmp_path: Path, part_root: Path
) -> None:
    words = ("--from_scratch", "--epochs", "3", "--checkpoint_steps", "1")
    whole = segment(tmp_path / "whole", part_root, *words)
    # After the first step of the second epoch.
    interrupted(3, segment, tmp_path / "parts", part_root, *words)
    with pytest.raises(cli.UsageError, match=r"--scheduler 'cos' -> 'step'"):
        segment(
            tmp_path / "parts", part_root, *words, "--resume", "--scheduler", "step"
        )
    run = segment(
        *(tmp_path / "parts", part_root, *words, "--resume"),
        *("--save_predictions", str(tmp_path / "pictures")),
    )
    log = (run / "run.log").read_text()
    assert "resuming from" in log and log.count("random weights") == 1
    same_records(whole, run)
    theirs = weights(run)
    assert all(torch.equal(v, theirs[n]) for n, v in weights(whole).items())
    theirs = weights(run, "checkpoint_last.pth")["model"]
    mine = weights(whole, "checkpoint_last.pth")["model"]
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert (tmp_path / "pictures" / "contact_sheet.png").is_file()


def test_predictions_are_written_as_they_were_made(
    tmp_path: Path, part_root: Path, two_ranks
) -> None:
    path = tmp_path / "w.pth"
    torch.manual_seed(4)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    with torch.no_grad():  # parts of chairs are favoured, foreign ones stay possible
        model.conv11.weight[12:16] *= 3
    save_weights(model, path)
    pictures = tmp_path / "two" / "new" / "pictures"
    words = ("--eval", "--model_path", str(path), "--save_predictions", str(pictures))
    two_ranks.run(segment, tmp_path / "two", part_root, *words)
    test = ShapeNetPart(part_root, "test", num_points=32)
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
        segment(tmp_path / "again", part_root, *words)
    (tmp_path / "file").touch()
    with pytest.raises(cli.UsageError, match=r"file is not an empty folder"):
        segment(tmp_path, part_root, *words[:-1], str(tmp_path / "file"))
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_training_writes_the_predictions_of_the_best_weights(
    tmp_path: Path, part_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(
        train_partseg, "save_part_examples", lambda *a: written.append(a)
    )
    judge = train_partseg.evaluate
    scores = iter([0.5, 0.9, 0.1, 0.0])  # the second epoch is the best

    def scored(*args: Any) -> tuple:
        values, by_category, predicted = judge(*args)
        return {**values, "test_miou": next(scores)}, by_category, predicted

    monkeypatch.setattr(train_partseg, "evaluate", scored)
    words = ("--from_scratch", "--epochs", "3", "--save_freq", "1")
    run = segment(
        tmp_path, part_root, *words, "--save_predictions", str(tmp_path / "p")
    )
    ((folder, test, predicted, count),) = written
    assert (folder, count) == (str(tmp_path / "p"), train_partseg.SHOWN)
    model = DGCNNPartSeg(k=4, emb_dims=16, num_parts=NUM_PARTS)
    model.load_state_dict(weights(run, "ckpt_epoch_2.pth"))
    model.eval()
    with torch.no_grad():
        logits = model(
            torch.from_numpy(test.points).transpose(1, 2), torch.eye(16)[test.labels]
        )
    assert np.array_equal(logits.argmax(dim=1).numpy(), predicted)
    assert "best epoch: test_miou 0.9000" in (run / "run.log").read_text()
    assert "last epoch: test_miou 0.1000" in (run / "run.log").read_text()


def test_bad_requests_stop_before_anything_is_written(
    tmp_path: Path, part_root: Path
) -> None:
    path = str(tmp_path / "w.pth")
    for text, *words in (
        (r"either --model_path FILE .* or --from_scratch",),
        (r"either --model_path FILE .*", *SCRATCH, "--model_path", path),
        ("--eval evaluates the weights of --model_path", "--eval"),
        ("--eval evaluates the weights of --model_path", *SCRATCH, "--eval"),
        ("--eval has nothing to", "--eval", "--model_path", path, "--resume"),
        (r"w\.pth: no such file", "--model_path", path),
        ("--batch_size 1 leaves BatchNorm", *SCRATCH, "--batch_size", "1"),
        ("--k 40 is more than --num_points 32", *SCRATCH, "--k", "40"),
        ("--dropout 1 must be below 1", *SCRATCH, "--dropout", "1"),
        (SHAPENETPART, *SCRATCH, "--data_root", str(tmp_path)),
        ("fewer than the 4096 asked for", *SCRATCH, "--num_points", "4096"),
        ("exp_name", *SCRATCH, "--exp_name", "../other"),
    ):
        with pytest.raises(cli.UsageError, match=text):
            segment(tmp_path, part_root, *words)
        assert not (tmp_path / "checkpoints").exists()
