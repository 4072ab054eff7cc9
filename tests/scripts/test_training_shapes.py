"""The figure of training shapes: what the data set gives is what is drawn."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.prepare.pack import pack
from datasets.shapenet_render import ShapeNetRender
from scripts import training_shapes
from scripts.training_shapes import RENDERINGS, SHAPES, renderings
from utils.parallel.seed import PICTURE, generator


@pytest.fixture(scope="module")
def root(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training shapes, as files and packed."""
    root = tmp_path_factory.mktemp("shapes")
    for name in ("ShapeNet", "ShapeNetRendering"):
        shutil.copytree(synthetic_root / name, root / name)
    pack(root, progress=False)
    return root


def test_renderings_are_spread_over_the_views(root: Path) -> None:
    files, packed = (ShapeNetRender(root, packed=packed) for packed in (False, True))
    shown = renderings(files, 3)
    assert len(shown) == RENDERINGS
    paths = sorted(Path(files.source.picture_path(3, 0)).parent.glob("*.png"))
    for place, picture in enumerate(shown):
        wanted = Image.open(paths[place * len(paths) // RENDERINGS]).convert("RGB")
        assert np.array_equal(picture, np.asarray(wanted))
    for one, other in zip(shown, renderings(packed, 3), strict=True):
        assert np.array_equal(one, other)


def test_the_first_epoch_is_drawn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def figure(names, stored, views, pictures, shown) -> None:
        drawn.update(names=names, stored=stored, views=views, pictures=pictures)
        drawn.update(shown=shown)

    monkeypatch.setattr(training_shapes, "training_figure", figure)
    args = Namespace(num_points=64, image_size=32, seed=3, packed=False)
    training_shapes.shapes_figure(args, str(root))
    assert len(set(drawn["names"])) == SHAPES  # of different categories, by name
    assert not any(name.isdigit() for name in drawn["names"])
    data = ShapeNetRender(root, 64, 32, seed=3, packed=False)
    items = [data.example((0, i)) for i in range(len(data))]
    for views, picture, stored, shown in zip(
        *(drawn["views"], drawn["pictures"], drawn["stored"], drawn["shown"]),
        strict=True,
    ):
        (index,) = (
            i for i, item in enumerate(items) if np.array_equal(item[0], views[0])
        )
        assert np.array_equal(views[1], items[index][1])
        assert np.array_equal(picture * 255, items[index][2])
        view = generator(PICTURE, 3, 0, index).integers(data.source.views[index])
        own = Image.open(data.source.picture_path(index, view)).convert("RGB")
        assert np.array_equal(shown[0], np.asarray(own))
        assert len(shown) == 1 + RENDERINGS
        assert stored.shape == (64, 3)
        assert np.isfinite(stored).all()
        # Not augmented: all points are there.
        assert len(np.unique(stored, axis=0)) == 64
