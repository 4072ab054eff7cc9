"""Curves of runs: every record in its place, and the errors of folders without any."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.utils.drawing.test_clouds import assert_readable
from utils.drawing.curves import curves_figure, read_runs
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


def test_pretraining_has_its_terms_and_its_probe() -> None:
    one = [
        step(0, 9.0, imid_loss=5.0, cmid_loss=4.0),
        step(10, 7.0, imid_loss=4.5, cmid_loss=2.5),
        epoch(0, train_loss=8.0, svm_accuracy=0.5),
        step(20, 6.0, imid_loss=4.0, cmid_loss=2.0),
        epoch(1, train_loss=6.5, svm_accuracy=0.75),
    ]
    two = [step(0, 3.0, imid_loss=1.0, cmid_loss=2.0)]  # still running
    figure = curves_figure({"one": one, "two": two})
    loss, imid, cmid, probe = panels(figure).values()
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


TITLES = [("accuracy", "Accuracy, %"), ("miou", "Instance mIoU, %")]


@pytest.mark.parametrize(("kind", "title"), TITLES)
def test_fine_tuning_has_both_splits(kind: str, title: str) -> None:
    values = {f"train_{kind}": 0.5, f"test_{kind}": 0.25, "train_loss": 2.0}
    run = [step(0, 3.0), epoch(0, test_loss=2.5, **values)]
    other = [step(0, 9.0), epoch(0, train_loss=1.0)]
    shown = panels(curves_figure({"a": other, "b": run}))
    assert list(shown) == ["Loss of a batch", "Loss of an epoch", title]
    assert points(shown["Loss of an epoch"]) == [[(1, 2.5)], [(1, 2)]]
    assert points(shown[title]) == [[(1, 25)], [(1, 50)]]
    for axes in (shown["Loss of an epoch"], shown[title]):
        legend = axes.get_legend()
        labels = [text.get_text() for text in legend.get_texts()]
        styles = [line.get_linestyle() for line in legend.get_lines()]
        assert labels == ["test", "training"] and styles[0] != styles[1]
        assert [line.get_linestyle() for line in axes.lines] == styles


@pytest.mark.parametrize("shares", [(0.0, 0.6), (1.0, 1.0)])
def test_an_axis_has_no_room_for_what_cannot_be(shares) -> None:
    epochs = [epoch(n, svm_accuracy=share) for n, share in enumerate(shares)]
    (axes,) = curves_figure({"a": epochs}).axes
    low, high = axes.get_ylim()
    assert -1 <= low <= 100 * min(shares) and 100 * max(shares) <= high <= 101


def test_many_steps_have_a_running_mean() -> None:
    values = np.random.default_rng(0).normal(size=200).tolist()
    (loss,) = curves_figure({"a": [step(10 * i, v) for i, v in enumerate(values)]}).axes
    pale, dark = loss.lines
    assert pale.get_ydata().tolist() == values
    assert pale.get_alpha() < 0.5
    assert "running mean" in loss.get_xlabel()
    expected = [np.mean(values[max(0, i - 2) : i + 3]) for i in range(200)]
    assert np.allclose(dark.get_ydata(), expected)
    assert dark.get_xdata().tolist() == [10 * i for i in range(200)]


def test_long_names_of_many_runs_do_not_cover_each_other() -> None:
    records = [
        step(0, 1.0, imid_loss=1.0, cmid_loss=2.0),
        epoch(0, test_loss=1.0, test_accuracy=0.5, test_miou=0.5),
    ]
    names = [f"a_run_with_a_long_name_of_{i}_letters_or_so" for i in range(9)]
    figure = curves_figure(dict.fromkeys(names, records))
    (legend,) = figure.legends
    titles = [axes._left_title for axes in figure.axes]
    assert (len(titles), len(legend.get_texts())) == (6, 9)
    assert_readable(figure, [*legend.get_texts(), *titles])


def test_runs_are_named_and_what_is_none_is_refused(tmp_path: Path) -> None:
    good, same, other = (tmp_path / x for x in ("a", "b/a", "other"))
    for folder in (good, same, other):
        write(folder, step(0, 1.0), tail='{"step": 1')  # a line that is being written
    for folder, message in (
        (tmp_path / "absent", "absent/metrics.jsonl is missing or has no records"),
        (write(tmp_path / "d", {"dataset": "x"}), "d/.* has no records of training"),
        (write(tmp_path / "e", tail="{]\n{}\n"), "e/metrics.jsonl is damaged"),
    ):
        with pytest.raises(UsageError, match=message):
            read_runs([good, folder])
    # Folders of one name are called by their paths.
    runs = read_runs([good, same, other])
    assert list(runs) == [str(good), str(same), "other"]
    assert runs["other"] == [step(0, 1.0)]
