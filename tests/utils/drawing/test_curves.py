"""Curves of runs: every record in its place, and the errors of folders without any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing import curves
from utils.errors import UsageError


def write(folder: Path, *records: dict, tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines + tail)
    return folder


def step(number: int, loss: float, **terms: float) -> dict:
    return {"step": number, "epoch": number // 20, "loss": loss, **terms}


def epoch(number: int, **values: float) -> dict:
    return {"epoch": number, "epoch_end": True, **values}


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    """Of every line of the axes."""
    return [[tuple(p) for p in line.get_xydata().tolist()] for line in axes.lines]


def test_pretraining_has_its_terms_and_its_probe(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one",
        step(0, 9.0, imid_loss=5.0, cmid_loss=4.0),
        step(10, 7.0, imid_loss=4.5, cmid_loss=2.5),
        epoch(0, train_loss=8.0, svm_accuracy=0.5),
        step(20, 6.0, imid_loss=4.0, cmid_loss=2.0),
        epoch(1, train_loss=6.5, svm_accuracy=0.75),
    )
    two = write(tmp_path / "two", step(0, 3.0, imid_loss=1.0, cmid_loss=2.0))
    figure = curves.curves_figure(curves.read_runs([one, two]))
    shown = panels(figure)
    loss, imid, cmid, probe = shown.values()
    assert points(loss) == [[(0, 9), (10, 7), (20, 6)], [(0, 3)]]
    assert points(imid) == [[(0, 5), (10, 4.5), (20, 4)], [(0, 1)]]
    assert points(cmid) == [[(0, 4), (10, 2.5), (20, 2)], [(0, 2)]]
    assert points(probe) == [[(1, 50), (2, 75)]]
    names = [axes.get_xlabel() for axes in (loss, probe)]
    assert names == ["training steps", "epochs done"]
    # The split by which the best epoch is chosen.
    assert probe.get_title(loc="left").endswith("ModelNet40's test split, %")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    colours = [line.get_color() for line in legend.get_lines()]
    assert [line.get_color() for line in loss.lines] == colours
    assert colours[0] != colours[1]
    assert loss.lines[1].get_marker() == "o"  # a line of one point is not seen


@pytest.mark.parametrize(
    ("kind", "title"), [("accuracy", "Accuracy, %"), ("miou", "Instance mIoU, %")]
)
def test_fine_tuning_has_both_splits(tmp_path: Path, kind: str, title: str) -> None:
    values = {f"train_{kind}": 0.5, f"test_{kind}": 0.25, "train_loss": 2.0}
    run = write(tmp_path / "run", step(0, 3.0), epoch(0, test_loss=2.5, **values))
    older = write(tmp_path / "older", step(0, 9.0), epoch(0, train_loss=1.0))
    shown = panels(curves.curves_figure(curves.read_runs([older, run])))
    assert list(shown) == ["Loss of a batch", "Loss of an epoch", title]
    assert points(shown["Loss of an epoch"]) == [[(1, 2.5)], [(1, 2)]]
    assert points(shown[title]) == [[(1, 25)], [(1, 50)]]
    for axes in (shown["Loss of an epoch"], shown[title]):
        drawn_as = [line.get_linestyle() for line in axes.lines]
        legend = axes.get_legend()
        meant = {
            text.get_text(): line.get_linestyle()
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
        }
        assert drawn_as == [meant["test"], meant["training"]]
        assert drawn_as[0] != drawn_as[1]


@pytest.mark.parametrize("shares", [(0.0, 0.6), (1.0, 1.0)])
def test_an_axis_has_no_room_for_what_cannot_be(tmp_path: Path, shares) -> None:
    epochs = [epoch(n, svm_accuracy=share) for n, share in enumerate(shares)]
    folder = write(tmp_path / "a", step(0, 1.0), *epochs)
    *_, axes = panels(curves.curves_figure(curves.read_runs([folder]))).values()
    low, high = axes.get_ylim()
    assert -1 <= low <= 100 * min(shares) and 100 * max(shares) <= high <= 101


def test_a_run_in_progress_is_drawn(tmp_path: Path) -> None:
    lines = step(0, 9.0), step(10, 8.0)
    running = write(tmp_path / "running", *lines, tail='{"step": 2')
    (loss,) = panels(curves.curves_figure(curves.read_runs([running]))).values()
    assert points(loss) == [[(0, 9), (10, 8)]]


def test_many_steps_have_a_running_mean(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=200).tolist()
    run = write(tmp_path / "r", *(step(10 * i, v) for i, v in enumerate(values)))
    (loss,) = panels(curves.curves_figure(curves.read_runs([run]))).values()
    pale, dark = loss.lines
    assert pale.get_ydata().tolist() == values
    assert pale.get_alpha() < 0.5
    assert "running mean" in loss.get_xlabel()
    wanted = [np.mean(values[max(0, i - 2) : i + 3]) for i in range(200)]
    assert np.allclose(dark.get_ydata(), wanted)
    assert dark.get_xdata().tolist() == [10 * i for i in range(200)]


def test_long_names_of_many_runs_do_not_cover_each_other(tmp_path: Path) -> None:
    values = {"test_loss": 1.0, "test_accuracy": 0.5, "test_miou": 0.5}
    names = [f"a_run_with_a_long_name_of_{i}_letters_or_so" for i in range(9)]
    terms = {"imid_loss": 1.0, "cmid_loss": 2.0}
    runs = {name: [step(0, 1.0, **terms), epoch(0, **values)] for name in names}
    figure = curves.curves_figure(runs)
    (legend,) = figure.legends
    parts = [child for axes in figure.axes for child in axes.get_children()]
    titles = [x for x in parts if isinstance(x, Text) and x.get_text()]
    texts = [*legend.get_texts(), *titles]
    assert len(texts) == 9 + 6
    assert_readable(figure, texts)


def test_runs_are_named_and_what_is_none_is_refused(tmp_path: Path) -> None:
    good, same, empty, svm, bad = (tmp_path / x for x in ("a", "b/a", "c", "d", "e"))
    for folder in (good, same):
        write(folder, step(0, 1.0))
    for folder, said in (
        (tmp_path / "absent", "absent has no metrics.jsonl"),
        (write(empty), "c/metrics.jsonl has no records yet"),
        (write(svm, {"dataset": "x"}), "d/metrics.jsonl has no records of training"),
        (write(bad, tail="{]\n{}\n"), "e/metrics.jsonl is damaged"),
    ):
        with pytest.raises(UsageError, match=said):
            curves.read_runs([good, folder])
    # Folders of one name are called by their paths.
    other = write(tmp_path / "other", step(0, 1.0))
    assert list(curves.read_runs([good, same, other])) == [
        *map(str, (good, same)),
        "other",
    ]
