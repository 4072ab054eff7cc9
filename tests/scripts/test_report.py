"""The page on a pre-training run: its parts, its numbers, and what it refuses."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from PIL import Image

import train_crosspoint
from datasets.shapenet_render import ShapeNetRender
from scripts import report, report_data
from scripts.report import TRAINED, UNTRAINED, write_report
from tests.helpers.runs import judge_svm, pretrain
from tests.utils.drawing.test_page import images, read, texts
from utils.errors import UsageError
from utils.parallel.seed import IMAGE, generator
from utils.run.run_folder import read_metrics

SETS = ("modelnet40", "scanobjectnn")


class Runs(NamedTuple):
    """Folders of a small pre-training and of both judgements."""

    trained: Path
    untrained: Path
    pretrained: Path
    features: Path  # that the judgement of the untrained encoder saved
    data: Path

    def write(self, out: Path, root: str | None) -> Element:
        runs = ([str(x)] for x in (self.trained, self.untrained, self.pretrained))
        write_report(*runs, root, out)
        return read(out.read_bytes())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Runs:
    folder = tmp_path_factory.mktemp("report")
    trained = pretrain(folder, synthetic_root, "--epochs", "2")
    weights = str(trained / "models" / "best_model.pth")
    words = ("--C", "1", "--dataset", *SETS, "--model_path")
    before = judge_svm(folder / "a", synthetic_root, *words, "none")
    after = judge_svm(folder / "b", synthetic_root, *words, weights)
    features = folder / "f.npz"
    words = ("--model_path", "none", "--save_features", str(features))
    judge_svm(folder / "c", synthetic_root, *words)
    return Runs(trained, before, after, features, synthetic_root)


@pytest.fixture
def copied(runs: Runs, tmp_path: Path) -> Runs:
    """The same folders, to be changed."""
    new = {
        name: shutil.copytree(getattr(runs, name), tmp_path / name)
        for name in ("trained", "untrained", "pretrained")
    }
    change(new["pretrained"], model_path=str(new["trained"] / "models/best_model.pth"))
    return runs._replace(**new)


def change(folder: Path, part: str = "arguments", **values: object) -> None:
    """Change a part of a run's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[part] |= values
    path.write_text(json.dumps(config))


def rewrite(folder: Path, *records: dict) -> None:
    """Replace a run's metrics.jsonl."""
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines))


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(runs: Runs, tmp_path: Path) -> None:
    made = runs.write(tmp_path / "report.html", str(runs.data))
    assert len(texts(made, "h2")) == 7
    drawn = images(made)
    assert len(drawn) == 1 + 2 + 2 + 2 + 1
    for image, element in zip(drawn, made.iter("img"), strict=True):
        assert len(np.unique(np.asarray(image.convert("L")))) > 50  # is drawn on
        assert len(element.attrib["alt"]) > 30
        # Not blown up: type keeps its size.
        assert 0.7 < int(element.attrib["width"]) / image.width <= 1
    shares = [text for text in texts(made, "p") if text.startswith("Share of")]
    assert len(shares) == len(SETS)
    assert all(re.search(r"\d% untrained, .*\d% pre-trained\.$", x) for x in shares)


@pytest.mark.slow
def test_numbers_and_origin_are_those_of_the_files(
    copied: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "image", lambda *args: "")  # another test's
    rows = {UNTRAINED: (0.123, 0.3, 7.0), TRAINED: (0.543, 0.4, 0.03)}
    folders = {UNTRAINED: copied.untrained, TRAINED: copied.pretrained}
    for who, row in rows.items():
        values = dict(zip(("accuracy", "class_accuracy", "C"), row, strict=True))
        rewrite(folders[who], *(x | values for x in read_metrics(folders[who])))
    machine = "an <abacus> & a slate"
    change(copied.trained, "environment", commit="c0ffee", machine=machine)
    (elsewhere := tmp_path / "elsewhere").symlink_to(copied.data)
    several = {"num_images": 2, "image_jitter": [0.4, 0.2]}
    change(copied.trained, data_root=str(elsewhere), **several)
    path = copied.trained / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"world_size": 3}))
    tree = copied.write(tmp_path / "report.html", None)
    assert any("docs/model_card.md" in text for text in texts(tree, "p"))
    cells = texts(tree, "td")
    for who, (accuracy, class_accuracy, C) in rows.items():
        row = [f"{100 * accuracy:.1f}", f"{100 * class_accuracy:.1f}", f"{C:g}"]
        places = [i for i, cell in enumerate(cells) if cell == who]
        assert [cells[i + 1 : i + 4] for i in places] == [row] * len(SETS)
    heads = texts(tree, "th")
    assert heads.count("ModelNet40-like") == heads.count("ScanObjectNN-like") == 2
    said = (f"{elsewhere}, evaluated on {copied.data}", "nothing about the real data")
    for part in (*said, machine, "c0ffee", "2 of 2"):
        assert any(part in cell for cell in cells), part
    (text,) = texts(tree, "pre")
    program, flags = text.split("train_crosspoint.py ")
    assert program == "torchrun --nproc_per_node=3 "
    parsed = vars(train_crosspoint.get_args_parser().parse_args(flags.split()))
    own = config["arguments"]
    for name in set(own) - {"overwrite", "resume", "lr"}:
        assert parsed[name] == own[name], name


def test_features_are_those_that_were_judged(runs: Runs) -> None:
    before, after = (
        report_data.read_run(folder, report_data.JUDGEMENT)
        for folder in (runs.untrained, runs.pretrained)
    )
    splits = report_data.read_splits("modelnet40", str(runs.data), after)
    actual = report_data.features_of(splits, before)
    trained = report_data.features_of(splits, after)
    with np.load(runs.features) as saved:
        for own, other, split in zip(actual, trained, ("train", "test"), strict=True):
            assert np.array_equal(own, saved[split])
            assert not np.allclose(other, own)
        assert np.array_equal(splits[1].labels, saved["test_labels"])


def test_the_confusion_is_that_of_the_file(runs: Runs, tmp_path: Path) -> None:
    path = runs.pretrained / "confusion_modelnet40.csv"
    matrix, names = report_data.read_confusion(path)
    accuracy = read_metrics(runs.pretrained)[0]["accuracy"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
    assert matrix.shape == (16, 16) and len(names) == 16
    for damaged in ("", "true\\predicted,a,b\na,1,0\n", "true\\predicted,a\na,x\n"):
        (tmp_path / "c.csv").write_text(damaged)
        with pytest.raises(UsageError, match=r"c\.csv: missing or damaged .* again"):
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
    for stored, *views, augmented, rendered in drawn:
        first = views[0].shown
        (index,) = (i for i, x in enumerate(items) if np.array_equal(x[0], first))
        for cell, expected in zip((*views, augmented), items[index], strict=True):
            assert np.array_equal(cell.shown, expected)
        for cell in views:
            distinct = len(np.unique(cell.shown, axis=0))
            assert cell.text.endswith(f"\n{distinct} of 64 points")
        assert len(np.unique(stored.shown, axis=0)) == 64  # not augmented
        folder = runs.data / "ShapeNetRendering" / data.shapes[index] / "rendering"
        files = sorted(folder.glob("*.png"))  # of which the data set chooses
        chosen = generator(IMAGE, 3, 0, index).integers(len(files))
        own = Image.open(files[chosen]).convert("RGB")
        assert np.array_equal(rendered.shown, np.asarray(own))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: change(r.untrained, model_path="w"), "evaluated w; .*_path none"),
        (lambda r: change(r.pretrained, model_path="w"), "evaluated w; .*best_model"),
        (lambda r: change(r.pretrained, num_points=63), "differ in --num_points: run"),
        (lambda r: change(r.untrained, data_root="a"), "differ in --data_root: run"),
        (lambda r: rewrite(r.untrained, {"dataset": "x"}), "no data set in common"),
        (lambda r: rewrite(r.untrained), "no data set in common"),
        (lambda r: (r.pretrained / "metrics.jsonl").write_text("{]\n"), "of eval_svm"),
        (lambda r: shutil.copy(r.trained / "config.json", r.untrained), "of eval_svm"),
        (lambda r: (r.untrained / "config.json").write_text("{}"), "missing or dam"),
        (lambda r: shutil.rmtree(r.trained), r"trained/metrics\.jsonl is miss"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(spoil, message, copied) -> None:
    spoil(copied)
    out = copied.pretrained / "report.html"
    with pytest.raises(UsageError, match=message):
        copied.write(out, None)
    assert not out.exists()


def test_as_many_runs_of_each_kind_are_needed() -> None:
    with pytest.raises(UsageError, match="1 runs, 2 --untrained and 1 --pretrained"):
        write_report(["a"], ["b", "c"], ["d"], None, "report.html")
