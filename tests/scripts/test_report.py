"""The page on a pre-training run: its parts, its numbers, and what it refuses."""

from __future__ import annotations

import json
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
from utils.parallel.seed import PICTURE, generator
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
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are another test's."""
    monkeypatch.setattr(report, "picture", lambda *args: report.element("p"))


@pytest.fixture(scope="module")
def made(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return runs.write(tmp_path_factory.mktemp("made") / "report.html")


def test_the_page_is_whole_and_needs_nothing_else(made: Page) -> None:
    assert_self_contained(made)
    assert len(made.texts["h2"]) == 7
    pictures = made.pictures()
    assert len(pictures) == 1 + 2 + 2 + 2 + 1
    for image, attributes in zip(pictures, made.of("img"), strict=True):
        assert len(np.unique(np.asarray(image.convert("L")))) > 50  # is drawn on
        assert len(attributes["alt"]) > 30
        # Not blown up: type keeps its size.
        assert 0.7 < int(attributes["width"]) / image.width <= 1


@pytest.mark.usefixtures("no_pictures")
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
    found = copied.write(tmp_path / "report.html")
    cells = found.texts["td"]
    rows = {UNTRAINED: ["12.3", "30.0", "7"], TRAINED: ["54.3", "40.0", "0.03"]}
    for who, row in rows.items():
        places = [i for i, cell in enumerate(cells) if cell == who]
        assert [cells[i + 1 : i + 4] for i in places] == [row] * len(SETS)
    heads = found.texts["th"]
    assert heads.count("ModelNet40-like") == heads.count("ScanObjectNN-like") == 2
    assert "an <abacus> & a slate" in cells
    assert any("c0ffee" in text for text in found.texts["code"])
    assert "2 of 2" in cells
    assert any("say nothing about the real data" in cell for cell in cells)
    own = json.loads(path.read_text())["arguments"]
    assert "torchrun --nproc_per_node=3 train_crosspoint.py" in found.texts["span"]
    flags = [text for text in found.texts["span"] if text.startswith("--")]
    parsed = train_crosspoint.get_args_parser().parse_args(" ".join(flags).split())
    for name in set(own) - {"overwrite", "resume", "lr"}:
        assert getattr(parsed, name) == own[name], name


@pytest.mark.usefixtures("no_pictures")
def test_several_runs_are_averaged(copied: Runs, tmp_path: Path) -> None:
    more = shutil.copytree(copied.untrained, tmp_path / "more")
    change_results(copied.untrained, accuracy=0.40)
    change_results(more, accuracy=0.50)
    out = tmp_path / "report.html"
    trained, pretrained = str(copied.trained), str(copied.pretrained)
    before = [str(copied.untrained), str(more)]
    write_report([trained] * 2, before, [pretrained] * 2, str(copied.data), out)
    assert Page(out.read_bytes()).texts["td"].count("45.0 ± 7.1") == 2
    with pytest.raises(UsageError, match="1 runs, 2 --untrained and 1 --pretrained"):
        write_report([trained], before, [pretrained], str(copied.data), out)


def test_features_are_those_that_were_judged(runs: Runs) -> None:
    judged = {
        UNTRAINED: report_data.read_run(runs.untrained, report_data.JUDGEMENT),
        TRAINED: report_data.read_run(runs.pretrained, report_data.JUDGEMENT),
    }
    found = describe("modelnet40", str(runs.data), judged)
    with np.load(runs.features) as saved:
        for split in ("train", "test"):
            features = found.features[UNTRAINED, split]
            assert np.array_equal(features, saved[split])
            assert not np.allclose(found.features[TRAINED, split], features)
        assert np.array_equal(found.test.labels, saved["test_labels"])


def test_the_share_of_neighbours_is_counted_over_all(runs: Runs, made: Page) -> None:
    with np.load(runs.features) as saved:
        unit = {
            split: saved[split] / np.linalg.norm(saved[split], axis=1, keepdims=True)
            for split in ("train", "test")
        }
        near = np.argsort(-(unit["test"] @ unit["train"].T), axis=1)[:, :5]
        same = saved["train_labels"][near] == saved["test_labels"][:, None]
    captions = [text for text in made.texts["figcaption"] if "neighbours" in text]
    assert len(captions) == len(SETS)
    assert f"{same.mean():.1%} {UNTRAINED}, " in captions[0]


def test_the_confusion_is_that_of_the_file(runs: Runs, tmp_path: Path) -> None:
    path = runs.pretrained / "confusion_modelnet40.csv"
    matrix, names = report_data.read_confusion(path)
    accuracy = read_metrics(runs.pretrained)[0]["accuracy"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
    assert matrix.shape == (len(names), len(names))
    (tmp_path / "c.csv").write_text("x,a,b\na,3,1\nb,0,2\n")
    matrix, names = report_data.read_confusion(tmp_path / "c.csv")
    assert names == ["a", "b"]
    assert matrix.tolist() == [[3, 1], [0, 2]]
    for text in ("x,a,b\na,3,1\n", "x,a\na,three\n", ""):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(UsageError, match=r"c\.csv is missing or damaged"):
            report_data.read_confusion(tmp_path / "c.csv")


@pytest.mark.usefixtures("no_pictures")
def test_data_of_training_and_of_judgement_are_both_named(
    copied: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(copied.data)
    change(copied.trained, data_root=str(elsewhere))
    seen = []
    monkeypatch.setattr(report, "draw_shapes", lambda run, root: seen.append(root))
    cells = copied.write(tmp_path / "page.html", None).texts["td"]
    assert any(c.startswith(f"{elsewhere}, judged on {copied.data}") for c in cells)
    assert seen == [str(elsewhere)]


def test_training_shapes_are_those_of_the_first_epoch(runs: Runs, monkeypatch) -> None:
    drawn: dict[str, Any] = {}

    def figure(*parts) -> None:
        names = ("names", "stored", "views", "images", "renderings")
        drawn.update(zip(names, parts, strict=True))

    monkeypatch.setattr(report_data, "training_figure", figure)
    args = Namespace(num_points=64, image_size=32, seed=3, packed=False)
    report_data.draw_shapes(args, str(runs.data))
    assert len(set(drawn["names"])) == report_data.SHAPES  # different categories
    assert not any(name.isdigit() for name in drawn["names"])
    data = ShapeNetRender(runs.data, 64, 32, seed=3, packed=False)
    items = [data.example((0, i)) for i in range(len(data))]
    for views, image, stored, rendered in zip(
        *(drawn["views"], drawn["images"], drawn["stored"], drawn["renderings"]),
        strict=True,
    ):
        (index,) = (i for i, x in enumerate(items) if np.array_equal(x[0], views[0]))
        assert np.array_equal(views[1], items[index][1])
        assert np.array_equal(image, items[index][2])
        folder = runs.data / "ShapeNetRendering" / data.shapes[index] / "rendering"
        files = sorted(folder.glob("*.png"))
        for epoch, pixels in enumerate(rendered):  # as the data set chooses it
            chosen = generator(PICTURE, 3, epoch, index).integers(len(files))
            own = Image.open(files[chosen]).convert("RGB")
            assert np.array_equal(pixels, np.asarray(own))
        assert len(rendered) == report_data.RENDERINGS
        assert len(np.unique(stored, axis=0)) == 64  # not augmented


def test_runs_that_do_not_belong_together_are_refused(copied: Runs) -> None:
    out = copied.trained / "report.html"
    swapped = Runs(
        *(copied.trained, copied.pretrained, copied.untrained),
        *(copied.features, copied.data),
    )
    with pytest.raises(UsageError, match=r"pretrained has judged .*--model_path none"):
        swapped.write(out)
    change(copied.pretrained, model_path="elsewhere/models/best_model.pth")
    with pytest.raises(UsageError, match=r"judged elsewhere.*trained/models/best_m"):
        copied.write(out)
    change(copied.pretrained, model_path=f"{copied.trained}/models/best_model.pth")
    points = json.loads((copied.pretrained / "config.json").read_text())["arguments"]
    change(copied.pretrained, num_points=points["num_points"] - 1)
    with pytest.raises(UsageError, match=r"pretrained differ in --num_points: run ev"):
        copied.write(out)
    change(copied.pretrained, num_points=points["num_points"])
    change(copied.untrained, data_root="elsewhere")
    with pytest.raises(UsageError, match=r"pretrained differ in --data_root: run eval"):
        copied.write(out, None)
    kept = (copied.pretrained / "metrics.jsonl").read_text().splitlines()
    (copied.pretrained / "metrics.jsonl").write_text(kept[1] + "\n")
    results = (copied.untrained / "metrics.jsonl").read_text().splitlines()
    (copied.untrained / "metrics.jsonl").write_text(results[0] + "\n")
    with pytest.raises(UsageError, match=r"untrained and .*pretrained have judged no"):
        copied.write(out)
    tuned = Runs(copied.trained, copied.trained, *(copied.pretrained,) * 2, copied.data)
    with pytest.raises(UsageError, match=r"trained should be a run of eval_svm\.py"):
        tuned.write(out)
    (copied.pretrained / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="pretrained has no results"):
        copied.write(out)
    (copied.untrained / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"untrained/config\.json is missing or dam"):
        copied.write(out)
    shutil.rmtree(copied.trained)
    with pytest.raises(UsageError, match=r"trained has no metrics\.jsonl"):
        copied.write(out)
    assert not out.exists()
