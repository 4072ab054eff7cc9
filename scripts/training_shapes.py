"""The figure of a few training shapes, as stored and as trained on."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import torch
from matplotlib.figure import Figure

from datasets.png import read_picture
from datasets.shapenet_render import ARCHIVE, ShapeNetRender
from datasets.synthetic.shapes import CATEGORIES, SYNSETS
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from utils.drawing.cloud_figures import training_figure
from utils.drawing.feature_space import spread_rows

SHAPES = 5  # that are shown
RENDERINGS = 3  # of each, beside the view that is its picture
_NAMES = dict(zip(SYNSETS, CATEGORIES, strict=True))


def shapes_figure(args: Namespace, data_root: str) -> Figure:
    """Shapes of different categories, with what the first epoch of a run makes of them.

    Args:
        args: arguments of train_crosspoint.py.
        data_root: the folder of the data sets.

    Raises:
        DataError: if the shapes are missing or damaged.
    """
    options = {"num_points": args.num_points, "packed": args.packed}
    trained = ShapeNetRender(
        data_root, image_size=args.image_size, seed=args.seed, **options
    )
    plain = ShapeNetRender(
        data_root,
        seed=args.seed,  # which chooses the same view
        point_transform=lambda points, _: points,
        image_transform=lambda image, *_: torch.from_numpy(np.array(image)),
        **options,
    )
    synsets = [shape.split("/")[0] for shape in trained.shapes]
    rows = spread_rows(np.unique(synsets, return_inverse=True)[1], SHAPES, args.seed)
    items = [trained[int(row)] for row in rows]
    stored = [plain[int(row)] for row in rows]
    return training_figure(
        [_NAMES.get(synsets[row], synsets[row]) for row in rows],
        [item[0].numpy().T for item in stored],
        [(item[0].numpy().T, item[1].numpy().T) for item in items],
        [as_seen(item[2].numpy()) for item in items],
        [
            [item[2].numpy(), *renderings(trained, int(row))]
            for item, row in zip(stored, rows, strict=True)
        ],
    )


def as_seen(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] of (3, H, W) that ImageNet's mean and deviation normalise."""
    shown = picture.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return np.clip(shown, 0, 1)


def renderings(shapes: ShapeNetRender, index: int) -> list[np.ndarray]:
    """Some rendered views (H, W, 3) uint8 of a shape, spread evenly; few may repeat."""
    if shapes.packed is None:
        paths = shapes.picture_paths(index)
        views = np.arange(RENDERINGS) * len(paths) // RENDERINGS
        return [np.asarray(read_picture(paths[view], ARCHIVE)) for view in views]
    views = np.arange(RENDERINGS) * int(shapes.packed.views[index]) // RENDERINGS
    return [np.asarray(shapes.packed.picture(index, int(view))) for view in views]
