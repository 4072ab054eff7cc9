"""The figure of a few training shapes, as stored and as trained on."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import torch
from matplotlib.figure import Figure

from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic.shapes import CATEGORIES, SYNSETS
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
    items = [trained.example((0, int(row))) for row in rows]
    stored = [plain[int(row)] for row in rows]
    return training_figure(
        [_NAMES.get(synsets[row], synsets[row]) for row in rows],
        [item[0].numpy().T for item in stored],
        [(view1, view2) for view1, view2, _ in items],
        [pixels / 255 for _, _, pixels in items],
        [
            [np.asarray(item[2]), *renderings(trained, int(row))]
            for item, row in zip(stored, rows, strict=True)
        ],
    )


def renderings(shapes: ShapeNetRender, index: int) -> list[np.ndarray]:
    """Some rendered views (H, W, 3) uint8 of a shape, spread evenly; few may repeat."""
    views = np.arange(RENDERINGS) * int(shapes.source.views[index]) // RENDERINGS
    return [np.asarray(shapes.source.picture(index, int(view))) for view in views]
