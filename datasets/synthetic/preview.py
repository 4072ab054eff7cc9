"""A contact sheet of the procedural shapes, one row per category."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.shapenet_part import CATEGORIES
from datasets.synthetic.render import render
from datasets.synthetic.shapes import make_shape
from utils.parallel.seed import SHAPE, generator

_CELL, _CAPTION, _SHAPES = 137, 100, 7


def contact_sheet(path: Path, seed: int, stream: int) -> None:
    """Write a PNG: seven shapes per category, the last one also coloured by part."""
    width = _CAPTION + _CELL * (_SHAPES + 1)
    sheet = Image.new("RGB", (width, _CELL * len(CATEGORIES)), (246, 246, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for category, name in enumerate(CATEGORIES):
        top = category * _CELL
        draw.text((6, top + _CELL // 2 - 8), name, fill=(20, 20, 20), font=font)
        for column in range(_SHAPES + 1):
            number = min(column, _SHAPES - 1)
            rng = generator(SHAPE, seed, stream, number * len(CATEGORIES) + category)
            shape = make_shape(category, rng)
            colours = shape.face_colour
            if column == _SHAPES:
                present, part = np.unique(shape.face_part, return_inverse=True)
                hues = np.arange(len(present)) / len(present)
                colours = np.array([colorsys.hsv_to_rgb(h, 0.85, 0.85) for h in hues])
                colours = colours[part]
            mesh = shape.in_unit_sphere(), shape.faces, colours
            cell = Image.fromarray(render(*mesh, 35 + 105 * number, 27, _CELL))
            sheet.paste(cell, (_CAPTION + _CELL * column, top), cell)
        draw.line((0, top, width, top), fill=(215, 215, 220))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
