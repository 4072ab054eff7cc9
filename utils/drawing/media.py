"""What W&B shows beside its curves: augmented clouds, feature maps, confusion matrices.

Drawn every ``--save_freq`` epochs and after the last, on rank 0 alone, of what the
epoch computed anyway. No random generator of the run is used, no collective is called,
and what goes wrong is a line in the log: a run with pictures has the numbers of the run
without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.judging.metrics import confusion_matrix
from utils.run.training import Training
from utils.run.wandb_run import first_line

SHAPES = 4  # whose clouds and pictures are shown
MAPPED = 500  # clouds of the map; the time of t-SNE grows faster than their number
_MAP_SEED = 0  # the same clouds in every epoch and run


class Probed(NamedTuple):
    """A test split as the SVM probe sees it, equal on all ranks.

    Attributes:
        features: (M, F).
        labels, predicted: (M,) numbers of ``class_names``.
        class_names: of all classes.
    """

    features: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    class_names: Sequence[str]

    @property
    def accuracy(self) -> float:
        """The share of clouds that get their label."""
        return float(np.mean(self.predicted == self.labels))


def show_pretraining(run: Training, probed: Probed | None) -> None:
    """Augmented shapes of the epoch just ended and, if it was probed, what was found.

    Args:
        run: its data set has ``shapes`` and ``example``, as ``ShapeNetRender`` does.
        probed: None without a probe in this epoch.
    """
    draw = {"augmented clouds": lambda: augmented_shapes(run)}
    if probed is not None:
        classes = len(probed.class_names)
        draw["t-SNE"] = lambda: feature_map(probed)
        draw["confusion matrix"] = lambda: confusion(
            "Probe Confusion Matrix",
            confusion_matrix(probed.labels, probed.predicted, classes),
            probed.class_names,
        )
    _show(run, draw)


def show_confusion(run: Training, matrix: np.ndarray, names: Sequence[str]) -> None:
    """The confusion matrix (C, C) of the test split in the epoch just ended."""
    name = "Test Confusion Matrix"
    _show(run, {"confusion matrix": lambda: confusion(name, matrix, names)})


def _show(run: Training, draw: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    epochs, logger = run.state.epoch, run.logger
    due = epochs % run.args.save_freq == 0 or epochs == run.args.epochs
    if logger.wandb is None or not due:
        return
    values: dict[str, Any] = {"epoch": epochs - 1}  # it has just been counted
    for what, make in draw.items():
        try:
            values |= make()
        except Exception as error:  # watching must not stop training
            logger.info(f"no {what} of epoch {epochs} for W&B: {first_line(error)}")
    if len(values) > 1:
        logger.wandb.log(values)


def augmented_shapes(run: Training) -> dict[str, Any]:
    """A few shapes, always the same, as the epoch just ended was given them."""
    import wandb

    dataset: Any = run.loader.dataset
    found: dict[str, list[Any]] = {"View 1": [], "View 2": [], "Picture": []}
    chosen = np.linspace(0, len(dataset) - 1, min(SHAPES, len(dataset))).astype(int)
    for index in chosen.tolist():
        name = dataset.shapes[index]
        view1, view2, picture = dataset.example((run.state.epoch - 1, index))
        found["View 1"].append(wandb.Object3D(view1, caption=name))
        found["View 2"].append(wandb.Object3D(view2, caption=name))
        found["Picture"].append(wandb.Image(Image.fromarray(picture), caption=name))
    return {f"Augmented/{key}": shown for key, shown in found.items()}


def feature_map(probed: Probed) -> dict[str, Any]:
    """A t-SNE map of the test split's features, coloured by class."""
    # scikit-learn's manifolds and matplotlib take a while to import.
    from utils.drawing.feature_space import plane_map, spread_rows
    from utils.drawing.figures import map_figure

    rows = spread_rows(probed.labels, MAPPED, _MAP_SEED)
    places = plane_map(probed.features[rows], _MAP_SEED)
    figure = map_figure(
        *({f"t-SNE, {len(rows)} clouds": places}, probed.labels[rows]),
        *(probed.class_names, "Features of the probe's test split"),
    )
    return _drawn("Probe t-SNE", figure)


def confusion(name: str, matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix (C, C) as a picture."""
    from utils.drawing.figures import confusion_figure

    accuracy = np.trace(matrix) / matrix.sum()
    return _drawn(name, confusion_figure(matrix, names, f"accuracy {accuracy:.2%}"))


def _drawn(name: str, figure: Any) -> dict[str, Any]:
    import wandb
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return {name: wandb.Image(Image.fromarray(np.ascontiguousarray(pixels)))}
