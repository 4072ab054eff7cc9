"""Curves of training runs, from their metrics.jsonl.

Losses are drawn against steps, accuracies and mIoU against epochs. A run may be
finished, resumed or still running.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.drawing.features import class_colours
from utils.errors import UsageError
from utils.run.run_folder import read_metrics

Records = list[dict[str, Any]]

_SMOOTH = 40  # with twice as many steps or more: running means over 1/40 of them
_FEW = 30  # lines of at most this many points get markers

# Key in metrics.jsonl, title of its panel. Runs without the key are not in the panel.
STEP_PANELS = {
    "loss": "Loss of a batch",
    "imid_loss": "IMID loss: cloud and cloud",
    "cmid_loss": "CMID loss: cloud and image",
}
EPOCH_PANELS = {  # with the training split's value if there is one, drawn dashed
    "svm_accuracy": "Linear SVM on ModelNet40's test split, %",
    "knn_accuracy": "k-NN on ModelNet40's test split, %",
    "test_loss": "Loss of an epoch",
    "test_accuracy": "Accuracy, %",
    "test_miou": "Instance mIoU, %",
}


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
        try:
            records = read_metrics(folder)
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from error
        if not any("step" in r or "epoch_end" in r for r in records):
            raise UsageError(
                f"{path} is missing or has no records of training: name the folder of "
                "a training run that has finished its first step, such as "
                "checkpoints/crosspoint_cls"
            )
        runs[name if names.count(name) == 1 else str(folder)] = records
    return runs


def values_of(records: Records, key: str) -> np.ndarray:
    """(R, 2): where each value of ``key`` is drawn, and the value.

    Steps are counted from 0, as in the file; an epoch's value is drawn at the number of
    epochs done. Accuracies and mIoU are in percent.
    """
    place, offset = ("step", 0) if key in STEP_PANELS else ("epoch", 1)
    kind = "step" if key in STEP_PANELS else "epoch_end"
    points = [(r[place] + offset, r[key]) for r in records if kind in r and key in r]
    unit = 1 if key.endswith("loss") else 100
    return np.array(points, float).reshape(-1, 2) * (1, unit)


def curves_figure(runs: Mapping[str, Records]) -> Figure:
    """A panel for every value that some run has recorded, and a colour for every run.

    Args:
        runs: records of metrics.jsonl by the name of the run, see :func:`read_runs`.
    """
    panels = [
        (key, title)
        for key, title in (STEP_PANELS | EPOCH_PANELS).items()
        if any(len(values_of(records, key)) for records in runs.values())
    ]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    lines = -(-len(runs) // columns)  # of the legend
    size = (4.8 * columns, 3.3 * rows + 0.22 * lines + 0.2)
    figure = Figure(size, dpi=130, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = [tuple(0.85 * colour) for colour in class_colours(len(runs))]
    for axes, (key, title) in zip(grid, panels, strict=False):
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xlabel("training steps" if key in STEP_PANELS else "epochs done")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        for records, colour in zip(runs.values(), colours, strict=True):
            _draw(axes, key, records, colour)
        if title.endswith("%"):  # nothing below 0 or above 100, but for half a marker
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, -1), min(high, 101))
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours]
    legend = {"loc": "outside upper center", "ncols": columns, "frameon": False}
    figure.legend(handles, list(runs), **legend)
    return figure


def _draw(axes: Axes, key: str, records: Records, colour: tuple[float, ...]) -> None:
    """One run's lines; many steps are drawn pale, with their running mean above."""
    places, values = values_of(records, key).T
    if not len(values):
        return  # still running, or another kind of run
    line = {"color": colour, "linewidth": 1.6}
    if len(values) <= _FEW:
        line |= {"marker": "o", "markersize": 3}
    if key in STEP_PANELS and len(values) >= 2 * _SMOOTH:
        axes.plot(places, values, color=colour, linewidth=0.7, alpha=0.3)
        # Near the ends, means over the values that there are.
        ones = np.ones(len(values) // _SMOOTH)
        counts = np.convolve(np.ones(len(values)), ones, "same")
        values = np.convolve(values, ones, "same") / counts
        axes.set_xlabel("training steps (dark: running mean)")
    axes.plot(places, values, **line)
    if key.startswith("test_"):
        training = values_of(records, key.replace("test_", "train_"))
        axes.plot(*training.T, linestyle="--", **line)
        styles = [Line2D([], [], color="0.4", linestyle=style) for style in ("-", "--")]
        axes.legend(styles, ["test", "training"], fontsize=9, frameon=False)
