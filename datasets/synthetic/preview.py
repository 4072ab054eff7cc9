"""A contact sheet of the procedural shapes, one row per category."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.synthetic.primitives import move
from datasets.synthetic.render import camera, project, render
from datasets.synthetic.shapes import CATEGORIES, Shape, make_shape, sample_surface
from utils.parallel.seed import SHAPE, generator

_CELL = 137
_CAPTION = 100
_VIEWS = 7
_BACKGROUND = (246, 246, 248)


def contact_sheet(path: Path, seed: int, stream: int) -> None:
    """Write a PNG: seven shapes per category, and the last one's parts as a cloud."""
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
            mesh = shape.in_unit_sphere(), shape.faces, shape.face_colour
            cell = Image.fromarray(render(*mesh, azimuth, elevation, _CELL))
            sheet.paste(cell, (_CAPTION + _CELL * column, top), cell)
        cloud = Image.fromarray(_cloud(shape, rng, 35, elevation))
        sheet.paste(cloud, (_CAPTION + _CELL * _VIEWS, top))
        draw.line((0, top, width, top), fill=(215, 215, 220))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _cloud(
    shape: Shape, rng: np.random.Generator, azimuth: float, elevation: float
) -> np.ndarray:
    """Image (_CELL,_CELL,3) u1 of 2048 points, one hue per part, nearest on top."""
    points, face = sample_surface(shape.in_unit_sphere(), shape.faces, 2048, rng)
    pixels = project(move(points, camera(azimuth, elevation)), _CELL)
    part = shape.face_part[face]
    present = np.unique(shape.face_part)
    n = len(present)
    hues = np.array([colorsys.hsv_to_rgb(k / n, 0.85, 0.85) for k in range(n)])
    colours = (255 * hues[np.searchsorted(present, part)]).astype(np.uint8)
    image = np.full((_CELL, _CELL, 3), _BACKGROUND, np.uint8)
    for k in np.argsort(pixels[:, 2]):
        x, y = int(pixels[k, 0]), int(pixels[k, 1])
        image[y : y + 2, x : x + 2] = colours[k]
    return image
