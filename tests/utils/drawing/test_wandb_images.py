"""Pictures in W&B: what a run's file holds, and that the run does not notice."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import train_crosspoint
from datasets.shapenet_render import ShapeNetRender
from tests.runs import finetune, metrics, pretrain, same_records, weights
from tests.wandb_file import config, history
from utils.drawing import maps, wandb_images
from utils.judging.metrics import confusion_matrix
from utils.judging.probe import Probed

pytestmark = pytest.mark.usefixtures("own_wandb")
VIEWS = ("Augmented/View 1", "Augmented/View 2")
DRAWN = {*VIEWS, "Augmented/Picture", "Probe t-SNE", "Probe Confusion Matrix"}


def recorded(run: Path, rows: int) -> tuple[list[dict[str, Any]], Path]:
    """The rows of the only W&B file, when there are so many, and its folder."""
    (path,) = (run / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + 30
    while len(history(path)) < rows:  # W&B's process writes when it likes
        assert time.monotonic() < end, f"{len(history(path))} rows instead of {rows}"
        time.sleep(0.05)
    return history(path), path.parent


def random_states() -> list[Any]:
    """Of the generators that all of a process shares."""
    numpy = [np.asarray(x).tolist() for x in np.random.get_state()]  # noqa: NPY002
    return [random.getstate(), numpy, torch.get_rng_state().tolist()]


def pixels(files: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(files / name))


def test_a_recorded_run_has_its_shapes_and_what_the_probe_found(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Probed] = []
    run_probe = train_crosspoint.run_probe

    def noted(*args: Any) -> Probed:
        probed.append(run_probe(*args))
        return probed[-1]

    states: list[list[Any]] = []
    show = train_crosspoint.show_pretraining

    def watched(*args: Any) -> None:
        states.append(random_states())
        show(*args)
        states.append(random_states())

    monkeypatch.setattr(train_crosspoint, "run_probe", noted)
    monkeypatch.setattr(train_crosspoint, "show_pretraining", watched)
    # None after the first epoch; the second is the last.
    words = "--wandb offline --epochs 2 --save_freq 10 --svm_every 1 --seed 7".split()
    run = pretrain(tmp_path, synthetic_root, *words)
    assert states[2] == states[3]
    steps, epochs = metrics(run)
    rows, folder = recorded(run, len(steps) + len(epochs) + 1)

    named = {"train_loss": "Train Loss", "svm_accuracy": "Overall Linear Accuracy"}
    ends = [row for row in rows if "epoch_end" in row]
    for line, row in zip(epochs, ends, strict=True):
        assert all(row[name] == line[key] for key, name in named.items())
    assert [row for row in rows if "loss" in row] == steps

    (shown,) = (row for row in rows if DRAWN & set(row))
    assert set(shown) == {"step", "epoch", *DRAWN}
    assert (shown["step"], shown["epoch"]) == (5, 1)
    has_shapes(folder / "files", shown, ShapeNetRender(synthetic_root, 64, 32, seed=7))
    has_findings(folder / "files", shown, probed[1])

    (path,) = folder.glob("*.wandb")
    found = config(path)
    written = json.loads((run / "config.json").read_text())
    assert found == {**written.pop("arguments"), **written}
    assert found["svm_every"] == 1
    assert found["environment"]["commit"]


def has_shapes(files: Path, shown: dict[str, Any], data: ShapeNetRender) -> None:
    """The second epoch's items of four shapes, from the first to the last."""
    pictures = shown["Augmented/Picture"]
    for place, index in enumerate([0, 7, 15, 23]):
        *clouds, picture = data.example((1, index))
        for name, cloud in zip(VIEWS, clouds, strict=True):
            view = shown[name]["objects"][place]
            assert view["caption"] == data.shapes[index]
            found = json.loads((files / view["path"]).read_text())
            np.testing.assert_array_equal(np.float32(found), cloud)
        assert pictures["captions"][place] == data.shapes[index]
        found = pixels(files, pictures["filenames"][place])
        np.testing.assert_array_equal(found, picture)


def has_findings(files: Path, shown: dict[str, Any], probed: Probed) -> None:
    """The map and the confusion matrix of the second epoch's probe."""
    names = probed.class_names
    matrix = confusion_matrix(probed.labels, probed.predicted, len(names))
    drawn = wandb_images.feature_map(probed)
    drawn |= wandb_images.confusion("Probe Confusion Matrix", matrix, names)
    for name, image in drawn.items():
        found = pixels(files, shown[name]["path"])
        np.testing.assert_array_equal(found, np.asarray(image.image))
        assert found.std() > 5  # not an empty page


def test_fine_tuning_shows_the_test_split_s_confusion_matrix(
    tmp_path: Path, uneven_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, np.ndarray, list[str]]] = []
    confusion = wandb_images.confusion

    def noted(*args: Any) -> dict[str, Any]:
        drawn.append(args)
        return confusion(*args)

    monkeypatch.setattr(wandb_images, "confusion", noted)
    # None after the first epoch; the second is the last.
    words = "--from_scratch --wandb offline --epochs 2 --save_freq 10".split()
    run = finetune(tmp_path, uneven_root, *words)
    steps, epochs = metrics(run)
    rows, folder = recorded(run, len(steps) + len(epochs) + 1)
    (shown,) = (row for row in rows if "Test Confusion Matrix" in row)
    assert shown["epoch"] == 1
    assert pixels(folder / "files", shown["Test Confusion Matrix"]["path"]).std() > 5
    ((_, matrix, names),) = drawn
    assert matrix.sum(axis=1).tolist() == [6, 2, 4, 1, 0]
    assert np.trace(matrix) / matrix.sum() == epochs[1]["test_accuracy"]
    assert names[:2] == ["rod", "plate"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_with_pictures_has_the_numbers_of_one_without(
    ranks: int, tmp_path: Path, synthetic_root: Path, two_ranks
) -> None:
    def trained(mode: str) -> Path:
        words = "--epochs 2 --save_freq 1 --svm_every 1 --wandb".split()
        call = tmp_path / mode, synthetic_root, *words, mode
        return pretrain(*call) if ranks == 1 else two_ranks.run(pretrain, *call)[0]

    with_pictures, without = trained("offline"), trained("disabled")
    rows, _ = recorded(with_pictures, 2 * 3 + 2 + 2)
    assert [set(row) >= DRAWN for row in rows].count(True) == 2
    assert not (without / "wandb").exists()
    same_records(with_pictures, without)
    for name in ("best_model.pth", "img_model_best.pth", "ckpt_epoch_2.pth"):
        theirs = weights(without, name)
        for key, value in weights(with_pictures, name).items():
            assert torch.equal(value, theirs[key]), key


def test_what_cannot_be_drawn_is_a_line_and_stops_nothing(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no map\nadvice of many lines")

    monkeypatch.setattr(wandb_images, "feature_map", fail)
    words = "--epochs 1 --save_freq 1 --svm_every 1 --wandb offline".split()
    run = pretrain(tmp_path, synthetic_root, *words)
    log = (run / "run.log").read_text()
    assert log.count("no t-SNE of epoch 1 for W&B: no map\n") == 1
    assert "advice" not in log
    assert "done; weights in" in log
    rows, _ = recorded(run, 3 + 1 + 1)
    shown = [set(row) & DRAWN for row in rows if DRAWN & set(row)]
    assert shown == [DRAWN - {"Probe t-SNE"}]


def test_nothing_is_drawn_for_nobody(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(wandb_images, "augmented_shapes", fail)
    run = pretrain(tmp_path, synthetic_root, "--epochs", "1", "--save_freq", "1")
    assert "for W&B" not in (run / "run.log").read_text()


def test_a_map_has_few_clouds_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = []

    def places(features: np.ndarray, seed: int) -> np.ndarray:
        mapped.append(features[:, 0].astype(int))
        return np.stack([features[:, 0], features[:, 0] % 7], axis=1)

    monkeypatch.setattr(maps, "plane_map", places)
    labels = np.repeat([0, 1, 2], [2400, 60, 8])
    features = np.arange(2468, dtype=np.float32)[:, None]
    wandb_images.feature_map(Probed(features, labels, labels, ["a", "b", "c"]))
    (rows,) = mapped
    assert len(rows) == 500
    assert np.bincount(labels[rows])[1:].tolist() == [60, 8]


def test_the_accuracy_of_a_probe_is_the_share_of_right_labels() -> None:
    labels, predicted = np.array([3, 1, 1, 0]), np.array([3, 1, 0, 2])
    assert Probed(np.zeros((4, 1)), labels, predicted, []).accuracy == 0.5
