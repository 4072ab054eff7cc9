"""Images for W&B: augmented shapes, t-SNE maps and confusion matrices.

Drawn on rank 0 from what the epoch computed anyway. Drawing uses none of the run's
random generators and calls no collective, and an error in it is one line in the log:
a run with images has the same numbers as a run without.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from utils.judging.metrics import confusion_matrix
from utils.judging.probe import Probed
from utils.run.logger import RunLogger
from utils.run.wandb_run import first_line

SHAPES = 4  # shown with their views
MAPPED = 500  # clouds in the map: t-SNE's time grows faster than their number
_MAP_SEED = 0  # the same clouds in every epoch and run


def show_pretraining(
    logger: RunLogger, epoch: int, due: bool, dataset: Any, probed: Probed | None
) -> None:
    """Show some augmented shapes and, if the epoch was probed, what the probe found.

    Nothing is drawn without a W&B run, or where no images are due in the epoch, which
    is counted from 0. ``dataset`` is the ``ShapeNetRender`` trained on.
    """
    draw = {"augmented clouds": lambda: augmented_shapes(dataset, epoch)}
    if probed is not None:
        names = probed.class_names
        matrix = confusion_matrix(probed.labels, probed.predicted, len(names))
        draw["t-SNE"] = lambda: feature_map(probed)
        draw["confusion matrix"] = lambda: confusion("Probe", matrix, names)
    _show(logger, epoch, due, draw)


def show_confusion(
    logger: RunLogger, epoch: int, due: bool, matrix: np.ndarray, names: Sequence[str]
) -> None:
    """Show the confusion matrix (C, C) of the test split; see `show_pretraining`."""
    draw = {"confusion matrix": lambda: confusion("Test", matrix, names)}
    _show(logger, epoch, due, draw)


def _show(
    logger: RunLogger, epoch: int, due: bool, draw: dict[str, Callable[[], dict]]
) -> None:
    if logger.wandb is None or not due:
        return
    values: dict[str, Any] = {"epoch": epoch}
    for name, make in draw.items():
        try:
            values |= make()
        except Exception as error:  # a failed drawing must not stop training
            logger.info(f"no {name} of epoch {epoch + 1} for W&B: {first_line(error)}")
    if len(values) > 1:
        logger.wandb.log(values)


def augmented_shapes(dataset: Any, epoch: int) -> dict[str, Any]:
    """Views and images of a few shapes, the same in every epoch, as trained on."""
    import wandb

    kinds = {"View 1": wandb.Object3D, "View 2": wandb.Object3D, "Picture": wandb.Image}
    shown: dict[str, Any] = {f"Augmented/{kind}": [] for kind in kinds}
    total = len(dataset.shapes)
    for index in np.linspace(0, total - 1, min(SHAPES, total)).astype(int).tolist():
        example = zip(kinds.items(), dataset.example((epoch, index)), strict=True)
        for (kind, show), item in example:
            panel = show(item, caption=dataset.shapes[index])
            shown[f"Augmented/{kind}"].append(panel)
    return shown


def feature_map(probed: Probed) -> dict[str, Any]:
    """A t-SNE map of the test split's features, coloured by class."""
    from utils.drawing.features import map_figure  # matplotlib is slow to import

    features, title = {"t-SNE": probed.features}, "Features of the probe's test split"
    classes = (probed.labels, probed.class_names)
    figure = map_figure(features, *classes, MAPPED, _MAP_SEED, title)
    return {"Probe t-SNE": _drawn(figure)}


def confusion(split: str, matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix (C, C) as an image."""
    from utils.drawing.features import confusion_figure

    return {f"{split} Confusion Matrix": _drawn(confusion_figure(matrix, names))}


def _drawn(figure: Any) -> Any:
    import wandb

    from utils.drawing.page import png_bytes

    # W&B takes figures too, but fails unless pyplot has been imported.
    return wandb.Image(Image.open(io.BytesIO(png_bytes(figure))))
