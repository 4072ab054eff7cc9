"""A contact sheet of the procedural shapes: one row a category, with part colours."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.synthetic.parts import move
from datasets.synthetic.render import camera, project, render
from datasets.synthetic.shapes import CATEGORIES, Shape, make_shape, sample_surface
from utils.parallel.seed import SHAPE, generator

_CELL = 137
_CAPTION = 100
_VIEWS = 7
_BACKGROUND = (246, 246, 248)


def contact_sheet(path: Path, seed: int, stream: int) -> None:
    """Write the picture: per category seven shapes, each from another side, and one
    point cloud coloured by part.

    Args:
        path: where the PNG goes.
        seed: seed of the shapes.
        stream: the generator stream kept for previews.
    """
    width = _CAPTION + _CELL * (_VIEWS + 1)
    sheet = Image.new("RGB", (width, _CELL * len(CATEGORIES)), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for category, name in enumerate(CATEGORIES):
        top = category * _CELL
        draw.text((6, top + _CELL // 2 - 8), name, fill=(20, 20, 20), font=font)
        for column in range(_VIEWS):
            rng = generator(SHAPE, seed, stream, column * len(CATEGORIES) + category)
            shape = make_shape(category, rng)
            azimuth, elevation = 35 + 105 * column, rng.uniform(25, 30)
            picture = render(
                shape.in_unit_sphere(),
                shape.faces,
                shape.face_colour,
                azimuth,
                elevation,
                _CELL,
            )
            cell = Image.fromarray(picture)
            sheet.paste(cell, (_CAPTION + _CELL * column, top), cell)
        cloud = Image.fromarray(_cloud(shape, rng, 35, elevation))
        sheet.paste(cloud, (_CAPTION + _CELL * _VIEWS, top))
        draw.line((0, top, width, top), fill=(215, 215, 220))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _cloud(
    shape: Shape, rng: np.random.Generator, azimuth: float, elevation: float
) -> np.ndarray:
    """Picture (_CELL,_CELL,3) u1 of 2048 points, one hue a part, nearest on top."""
    points, face = sample_surface(shape.in_unit_sphere(), shape.faces, 2048, rng)
    pixels = project(move(points, camera(azimuth, elevation)), _CELL)
    part = shape.face_part[face]
    present = np.unique(shape.face_part)
    hues = [
        colorsys.hsv_to_rgb(k / len(present), 0.85, 0.85) for k in range(len(present))
    ]
    colours = (255 * np.array(hues)[np.searchsorted(present, part)]).astype(np.uint8)
    picture = np.full((_CELL, _CELL, 3), _BACKGROUND, np.uint8)
    for k in np.argsort(pixels[:, 2]):
        x, y = int(pixels[k, 0]), int(pixels[k, 1])
        picture[y : y + 2, x : x + 2] = colours[k]
    return picture
