"""The page on a pre-training run: its parts, its numbers, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train_crosspoint
from datasets.shapenet_render import ShapeNetRender
from scripts import report, report_data
from scripts.report import TRAINED, UNTRAINED, describe, write_report
from tests.runs import pretrain
from tests.test_eval_svm import judge
from tests.utils.drawing.test_page import Page, assert_self_contained
from utils.errors import UsageError
from utils.parallel.seed import IMAGE, generator
from utils.run.run_folder import read_metrics

SETS = ("modelnet40", "scanobjectnn")


@dataclass(frozen=True)
class Runs:
    """Folders of a small pre-training and of both judgements."""

    trained: Path
    untrained: Path
    pretrained: Path
    features: Path  # that the judgement of the untrained encoder saved
    data: Path

    def write(self, out: Path, root: str | None = "data") -> Page:
        runs = ([str(x)] for x in (self.trained, self.untrained, self.pretrained))
        write_report(*runs, str(self.data) if root else None, out)
        return Page(out.read_bytes())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Runs:
    folder = tmp_path_factory.mktemp("report")
    trained = pretrain(folder, synthetic_root, "--epochs", "2")
    weights = str(trained / "models" / "best_model.pth")
    words = ("--C", "1", "--dataset", *SETS)
    before = judge(folder / "a", synthetic_root, *words)
    after = judge(folder / "b", synthetic_root, *words, "--model_path", weights)
    features = folder / "f.npz"
    judge(folder / "c", synthetic_root, "--save_features", str(features))
    return Runs(trained, before, after, features, synthetic_root)


@pytest.fixture
def copied(runs: Runs, tmp_path: Path) -> Runs:
    """The same folders, to be changed."""
    new = {
        name: shutil.copytree(getattr(runs, name), tmp_path / name)
        for name in ("trained", "untrained", "pretrained")
    }
    change(new["pretrained"], model_path=str(new["trained"] / "models/best_model.pth"))
    return Runs(**new, features=runs.features, data=runs.data)


def change(folder: Path, **arguments: object) -> None:
    """Change arguments in a run's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["arguments"] |= arguments
    path.write_text(json.dumps(config))


def change_results(folder: Path, **values: float) -> None:
    """Change values of all records of a run."""
    lines = [json.dumps(record | values) + "\n" for record in read_metrics(folder)]
    (folder / "metrics.jsonl").write_text("".join(lines))


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are another test's."""
    monkeypatch.setattr(report, "image", lambda *args: "")


@pytest.fixture(scope="module")
def made(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return runs.write(tmp_path_factory.mktemp("made") / "report.html")


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(made: Page) -> None:
    assert_self_contained(made)
    assert len(made.texts["h2"]) == 7
    images = made.images()
    assert len(images) == 1 + 2 + 2 + 2 + 1
    for image, attributes in zip(images, made.of("img"), strict=True):
        assert len(np.unique(np.asarray(image.convert("L")))) > 50  # is drawn on
        assert len(attributes["alt"]) > 30
        # Not blown up: type keeps its size.
        assert 0.7 < int(attributes["width"]) / image.width <= 1
    shares = [text for text in made.texts["p"] if text.startswith("Share of")]
    assert len(shares) == len(SETS)
    assert all(re.search(r"\d% untrained, .*\d% pre-trained\.$", x) for x in shares)


@pytest.mark.slow
@pytest.mark.usefixtures("no_images")
def test_numbers_and_origin_are_those_of_the_files(
    copied: Runs, tmp_path: Path
) -> None:
    change_results(copied.untrained, accuracy=0.12345, class_accuracy=0.3, C=7.0)
    change_results(copied.pretrained, accuracy=0.54321, class_accuracy=0.4, C=0.03)
    path = copied.trained / "config.json"
    config = json.loads(path.read_text())
    config["environment"] |= {"commit": "c0ffee", "machine": "an <abacus> & a slate"}
    config["world_size"] = 3
    path.write_text(json.dumps(config))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(copied.data)
    change(copied.trained, data_root=str(elsewhere))
    found = copied.write(tmp_path / "report.html", None)
    assert "docs/model_card.md" in (tmp_path / "report.html").read_text()
    cells = found.texts["td"]
    assert any(c.startswith(f"{elsewhere}, judged on {copied.data}") for c in cells)
    rows = {UNTRAINED: ["12.3", "30.0", "7"], TRAINED: ["54.3", "40.0", "0.03"]}
    for who, row in rows.items():
        places = [i for i, cell in enumerate(cells) if cell == who]
        assert [cells[i + 1 : i + 4] for i in places] == [row] * len(SETS)
    heads = found.texts["th"]
    assert heads.count("ModelNet40-like") == heads.count("ScanObjectNN-like") == 2
    assert "an <abacus> & a slate" in cells
    assert any("c0ffee" in cell for cell in cells)
    assert "2 of 2" in cells
    assert any("say nothing about the real data" in cell for cell in cells)
    own = json.loads(path.read_text())["arguments"]
    (said,) = found.texts["pre"]
    program, flags = said.split("train_crosspoint.py ")
    assert program == "torchrun --nproc_per_node=3 "
    parsed = train_crosspoint.get_args_parser().parse_args(flags.split())
    for name in set(own) - {"overwrite", "resume", "lr"}:
        assert getattr(parsed, name) == own[name], name


def test_as_many_runs_of_each_kind_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 runs, 2 --untrained and 1 --pretrained"):
        write_report(["a"], ["b", "c"], ["d"], None, tmp_path / "report.html")


def test_features_are_those_that_were_judged(runs: Runs) -> None:
    judged = {
        UNTRAINED: report_data.read_run(runs.untrained, report_data.JUDGEMENT),
        TRAINED: report_data.read_run(runs.pretrained, report_data.JUDGEMENT),
    }
    found = describe("modelnet40", str(runs.data), judged)
    with np.load(runs.features) as saved:
        for place, split in enumerate(("train", "test")):
            features = found.features[UNTRAINED][place]
            assert np.array_equal(features, saved[split])
            assert not np.allclose(found.features[TRAINED][place], features)
        assert np.array_equal(found.test.labels, saved["test_labels"])


def test_the_confusion_is_that_of_the_file(runs: Runs, tmp_path: Path) -> None:
    matrix, names = report_data.read_confusion(
        runs.pretrained / "confusion_modelnet40.csv"
    )
    accuracy = read_metrics(runs.pretrained)[0]["accuracy"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
    assert matrix.shape == (16, 16) and len(names) == 16
    for text in ("x,a,b\na,3,1\n", "x,a\na,three\n", ""):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(UsageError, match=r"c\.csv is missing or damaged"):
            report_data.read_confusion(tmp_path / "c.csv")


def test_training_shapes_are_those_of_the_first_epoch(runs: Runs, monkeypatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report_data, "cloud_grid", drawn.extend)
    args = Namespace(num_points=64, image_size=32, seed=3, packed=False)
    report_data.draw_shapes(args, str(runs.data))
    names = {row[0].text for row in drawn}
    assert len(names) == report_data.SHAPES  # different categories
    assert not any(name[0].isdigit() for name in names)
    data = ShapeNetRender(runs.data, 64, 32, seed=3, packed=False)
    items = [data.example((0, i)) for i in range(len(data))]
    for stored, *views, augmented, _, _, _, _ in drawn:
        first = views[0].shown
        (index,) = (i for i, x in enumerate(items) if np.array_equal(x[0], first))
        for cell, wanted in zip((*views, augmented), items[index], strict=True):
            assert np.array_equal(cell.shown, wanted)
        for cell in views:
            distinct = len(np.unique(cell.shown, axis=0))
            assert cell.text.endswith(f"\n{distinct} of 64 points")
        assert len(np.unique(stored.shown, axis=0)) == 64  # not augmented
    rendered = drawn[-1][4:]  # as the data set chooses them
    folder = runs.data / "ShapeNetRendering" / data.shapes[index] / "rendering"
    files = sorted(folder.glob("*.png"))
    for epoch, cell in enumerate(rendered):
        chosen = generator(IMAGE, 3, epoch, index).integers(len(files))
        own = Image.open(files[chosen]).convert("RGB")
        assert np.array_equal(cell.shown, np.asarray(own))


def keep(folder: Path, line: int) -> None:
    """Keep one record of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(lines[line] + "\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda r: change(r.untrained, model_path="w.pth"),
            r"untrained has judged w\.pth: .*--model_path none",
        ),
        (
            lambda r: change(r.pretrained, model_path="elsewhere/models/w.pth"),
            r"judged elsewhere.*trained/models/best_m",
        ),
        (
            lambda r: change(r.pretrained, num_points=63),
            r"pretrained differ in --num_points: run ev",
        ),
        (
            lambda r: change(r.untrained, data_root="elsewhere"),
            r"pretrained differ in --data_root: run eval",
        ),
        (
            lambda r: (keep(r.untrained, 0), keep(r.pretrained, 1)),
            r"untrained and .*pretrained have judged no",
        ),
        (
            lambda r: (r.untrained / "metrics.jsonl").write_text(""),
            "untrained has no results",
        ),
        (
            lambda r: (r.pretrained / "metrics.jsonl").write_text("{]\n"),
            "pretrained should be a run of eval_svm",
        ),
        (
            lambda r: shutil.copy(r.trained / "config.json", r.untrained),
            r"untrained should be a run of eval_svm\.py",
        ),
        (
            lambda r: (r.untrained / "config.json").write_text("{}"),
            r"untrained/config\.json is missing or dam",
        ),
        (lambda r: shutil.rmtree(r.trained), r"trained has no metrics\.jsonl"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(spoil, said, copied) -> None:
    spoil(copied)
    out = copied.pretrained / "report.html"
    with pytest.raises(UsageError, match=said):
        copied.write(out, None)
    assert not out.exists()
