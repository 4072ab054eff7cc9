"""Curves of training runs, from their metrics.jsonl.

Losses are drawn against steps, for pre-training with both terms. Accuracies and mIoU
are drawn against epochs: the SVM probe's for pre-training, those of the training and
test splits for fine-tuning. A run may be finished, resumed or still running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.drawing.maps import class_colours
from utils.errors import UsageError
from utils.run.run_folder import read_metrics

Records = list[dict[str, Any]]

_PANEL = (4.8, 3.3)  # inches
_SMOOTH = 40  # with twice as many steps or more: running means over 1/40 of them
_FEW = 30  # up to so many points get markers
_TRAIN, _TEST = "--", "-"


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        key: in metrics.jsonl; runs without it are not in the panel.
        unit: of the horizontal axis, ``step`` or ``epoch``: which records are drawn.
        label: of the vertical axis.
        train: key of the training split's value, drawn dashed, if there is one.
        percent: whether values are shares, to be shown in percent.
    """

    title: str
    key: str
    unit: str
    label: str
    train: str = ""
    percent: bool = False


PANELS = (
    Panel("Loss of a batch", "loss", "step", "loss"),
    Panel("Intra-modal term: cloud and cloud", "imid_loss", "step", "IMID loss"),
    Panel("Cross-modal term: cloud and image", "cmid_loss", "step", "CMID loss"),
    Panel(
        "Linear SVM on ModelNet40's test split",
        *("svm_accuracy", "epoch", "probe accuracy, %", "", True),
    ),
    Panel("Loss of an epoch", "test_loss", "epoch", "loss", "train_loss"),
    Panel(
        *("Accuracy", "test_accuracy", "epoch", "accuracy, %", "train_accuracy", True),
    ),
    Panel("Instance mIoU", "test_miou", "epoch", "mIoU, %", "train_miou", True),
)


def read_runs(folders: Sequence[str | Path]) -> dict[str, Records]:
    """The records of training runs by the name of their folder.

    Folders with the same name are called by their paths.

    Raises:
        UsageError: naming the folder that has no records of a training run.
    """
    runs = {}
    names = [Path(folder).resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        path = Path(folder, "metrics.jsonl")
        if not path.is_file():
            raise UsageError(
                f"{folder} has no metrics.jsonl: name the folder of a training run, "
                "such as checkpoints/crosspoint_cls"
            )
        try:
            records = read_metrics(folder)
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from error
        if not any("step" in r or "epoch_end" in r for r in records):
            kind = "of training" if records else "yet"
            raise UsageError(
                f"{path} has no records {kind}: name the folder of a training run "
                "that has finished its first step"
            )
        runs[name if names.count(name) == 1 else str(folder)] = records
    return runs


def values_of(records: Records, key: str, unit: str) -> np.ndarray:
    """(R, 2): where each value of ``key`` is drawn, and the value.

    Steps are counted from 0, as in the file. An epoch's value is drawn at the number of
    epochs done.
    """
    if unit == "step":
        found = [(r["step"], r[key]) for r in records if "step" in r and key in r]
    else:
        ends = [r for r in records if "epoch_end" in r and key in r]
        found = [(r["epoch"] + 1, r[key]) for r in ends]
    return np.array(found, float).reshape(-1, 2)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means (R,) of the up to ``width`` values around each of (R,)."""
    ones = np.ones(min(width, len(values)))
    sums = np.convolve(values, ones, "same")
    return sums / np.convolve(np.ones(len(values)), ones, "same")


def curves_figure(runs: Mapping[str, Records]) -> Figure:
    """A panel for every value that some run has recorded, and a colour for every run.

    Args:
        runs: records of metrics.jsonl by the name of the run, see :func:`read_runs`.

    Raises:
        ValueError: if there is nothing to draw.
    """
    panels = [
        panel
        for panel in PANELS
        if any(len(values_of(r, panel.key, panel.unit)) for r in runs.values())
    ]
    if not panels:
        raise ValueError("none of the runs has a value to draw")
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = -(-len(panels) // columns)
    colours = [tuple(0.85 * colour) for colour in class_colours(len(runs))]
    # Names of runs beside each other in the legend, as many as fit.
    across = max(1, int(columns * _PANEL[0] / (0.075 * max(map(len, runs)) + 0.6)))
    lines = -(-len(runs) // across)
    size = (columns * _PANEL[0], rows * _PANEL[1] + 0.22 * lines + 0.2)
    figure = Figure(size, dpi=130, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for records, colour in zip(runs.values(), colours, strict=True):
            _draw(axes, panel, records, colour)
        _dress(axes, panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours]
    legend = figure.legend(
        handles, list(runs), loc="outside upper center", ncols=across
    )
    legend.set_frame_on(False)
    return figure


def _draw(
    axes: Axes, panel: Panel, records: Records, colour: tuple[float, ...]
) -> None:
    """One run's lines; many steps are drawn pale, with their running mean above."""
    if not any(panel.key in record for record in records):
        return  # still running, or another kind of run
    kinds = [(panel.key, _TEST)] + ([(panel.train, _TRAIN)] if panel.train else [])
    for key, style in kinds:
        places, values = values_of(records, key, panel.unit).T
        values = 100 * values if panel.percent else values
        line = {"color": colour, "linestyle": style, "linewidth": 1.6}
        if len(values) <= _FEW:
            line |= {"marker": "o", "markersize": 3}
        if panel.unit == "step" and len(values) >= 2 * _SMOOTH:
            axes.plot(places, values, color=colour, linewidth=0.7, alpha=0.3)
            values = running_mean(values, len(values) // _SMOOTH)
            axes.set_xlabel("training steps (dark: running mean)")
        axes.plot(places, values, **line)


def _dress(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10.5, loc="left")
    done = {"step": "training steps", "epoch": "epochs done"}[panel.unit]
    axes.set_xlabel(axes.get_xlabel() or done, color="0.35")
    axes.set_ylabel(panel.label, color="0.35")
    if panel.percent:  # nothing below 0 or above 100, but for half a marker
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1), min(high, 101))
    axes.tick_params(labelsize=9, colors="0.35")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("0.7")
    if panel.train:
        lines = [Line2D([], [], color="0.4", linestyle=s) for s in (_TEST, _TRAIN)]
        axes.legend(lines, ["test", "training"], fontsize=9, frameon=False)
