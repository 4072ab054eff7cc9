"""Images in W&B: what a run's file holds, and that the run is not affected."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.shapenet_render import ShapeNetRender
from tests.helpers.runs import finetune, metrics, pretrain, same_records, weights
from tests.helpers.wandb_file import config, history
from tests.utils.conftest import wandb_files
from utils.drawing import wandb_images
from utils.drawing.wandb_images import show_confusion, show_pretraining
from utils.judging.probe import Probed
from utils.run import wandb_run

pytestmark = pytest.mark.usefixtures("own_wandb")
VIEWS = ("Augmented/View 1", "Augmented/View 2")
SHAPES = {*VIEWS, "Augmented/Picture"}
DRAWN = {*SHAPES, "Probe t-SNE", "Probe Confusion Matrix"}


@pytest.fixture
def probed() -> Probed:
    features = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    labels = np.arange(20) % 4
    return Probed(features, labels, np.minimum(labels, 2), list("abcd"), 0.5)


def recorded(run: Path, count: int) -> tuple[list[dict[str, Any]], Path]:
    """The rows of the only W&B file, once there are so many, and its folder."""
    (path,) = wandb_files(run, count)
    return history(path), path.parent / "files"


def test_shapes_map_and_confusion_are_recorded(probed, synthetic_root) -> None:
    data = ShapeNetRender(synthetic_root, 64, 32, seed=7)
    logger, run = Mock(), Path("run")
    run.mkdir()
    url = "http://127.0.0.1:9"
    arguments = {"wandb": "offline", "wb_url": url, "exp_name": "run"}
    logger.wandb = wandb_run.start(run, arguments, {}, False, logger.info)
    show_pretraining(logger, 1, True, data, probed)
    logger.info.assert_not_called()
    logger.wandb.finish(exit_code=0)
    (shown,), files = recorded(run, 1)
    assert set(shown) == {"epoch", *DRAWN}
    assert shown["epoch"] == 1
    pictures = shown["Augmented/Picture"]
    for place, index in enumerate([0, 7, 15, 23]):  # of 24 shapes
        *clouds, picture = data.example((1, index))
        for name, cloud in zip(VIEWS, clouds, strict=True):
            view = shown[name]["objects"][place]
            assert view["caption"] == data.shapes[index]
            actual = json.loads((files / view["path"]).read_text())
            np.testing.assert_array_equal(np.float32(actual), cloud)
        assert pictures["captions"][place] == data.shapes[index]
        image = Image.open(files / pictures["filenames"][place])
        np.testing.assert_array_equal(np.asarray(image), picture)
    for name in DRAWN - SHAPES:
        assert np.asarray(Image.open(files / shown[name]["path"])).std() > 5


def test_a_failed_drawing_is_one_line_and_the_rest_is_recorded(
    probed, synthetic_root, monkeypatch
) -> None:
    fails = Mock(side_effect=RuntimeError("no map\nadvice of many lines"))
    monkeypatch.setattr(wandb_images, "feature_map", fails)
    logger, data = Mock(), ShapeNetRender(synthetic_root, 64, 32)
    show_pretraining(logger, 0, True, data, probed)
    logger.info.assert_called_once_with("no t-SNE of epoch 1 for W&B: no map")
    logger.wandb.log.assert_called_once()
    (shown,) = logger.wandb.log.call_args.args
    assert set(shown) == {"epoch", *DRAWN} - {"Probe t-SNE"}


def test_what_is_drawn_and_nothing_that_nobody_sees(probed, monkeypatch) -> None:
    drawn: list[Any] = []
    for name in ("augmented_shapes", "feature_map", "confusion"):
        monkeypatch.setattr(wandb_images, name, lambda *a: drawn.append(a) or {})
    data: Any = []
    logger, without = Mock(), Mock(wandb=None)
    show_pretraining(logger, 0, False, data, probed)
    show_confusion(logger, 0, False, np.eye(2, dtype=int), ["a", "b"])
    show_pretraining(without, 0, True, data, probed)
    assert drawn == []
    show_pretraining(logger, 0, True, data, None)
    assert drawn == [(data, 0)]
    show_pretraining(logger, 0, True, data, probed)
    name, matrix, names = drawn[-1]
    assert (name, names) == ("Probe", probed.class_names)
    assert matrix.tolist() == [[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 5, 0]]


@pytest.mark.slow
def test_a_pretraining_with_images_has_the_numbers_of_one_without(
    tmp_path: Path, synthetic_root: Path, two_ranks, monkeypatch
) -> None:
    monkeypatch.chdir("/")  # the two ranks outlive this test's folder

    def trained(mode: str) -> Path:
        words = f"--epochs 3 --save_freq 2 --svm_every 1 --wandb {mode}".split()
        return two_ranks.run(pretrain, tmp_path / mode, synthetic_root, *words)[0]

    with_images, without = trained("offline"), trained("disabled")
    rows, files = recorded(with_images, 3 * 3 + 3 + 2)
    (path,) = files.parent.glob("*.wandb")
    written = json.loads((with_images / "config.json").read_text())
    assert config(path) == {**written.pop("arguments"), **written}
    # Every second epoch, and the last.
    assert [row["epoch"] for row in rows if set(row) >= DRAWN] == [1, 2]
    ends = [row for row in rows if "epoch_end" in row]
    for line, row in zip(metrics(with_images)[1], ends, strict=True):
        assert row["Overall Linear Accuracy"] == line["svm_accuracy"]
        assert row["Overall kNN Accuracy"] == line["knn_accuracy"]
    assert not (without / "wandb").exists()
    same_records(with_images, without)
    for name in ("best_model.pth", "img_model_best.pth", "ckpt_epoch_2.pth"):
        theirs = weights(without, name)
        for key, value in weights(with_images, name).items():
            assert torch.equal(value, theirs[key]), key


def test_fine_tuning_shows_its_confusion(tmp_path, uneven_root, monkeypatch) -> None:
    confusion = Mock(return_value={})
    monkeypatch.setattr(wandb_images, "confusion", confusion)
    words = "--from_scratch --wandb offline --epochs 2 --save_freq 10".split()
    run = finetune(tmp_path, uneven_root, *words)
    confusion.assert_called_once()  # of the last epoch alone
    split, matrix, names = confusion.call_args.args
    assert split == "Test"
    assert matrix.sum(axis=1).tolist() == [6, 2, 4, 1, 0]
    assert np.trace(matrix) / matrix.sum() == metrics(run)[1][1]["test_accuracy"]
    assert names[:2] == ["rod", "plate"]
