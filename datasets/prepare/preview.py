"""A contact sheet of rendered shapes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from datasets.shapenet_files import list_views, rendering

SHAPES, VIEWS, CELL, CAPTION = 12, 6, 137, 18


def choose(shapes: Sequence[str], count: int) -> list[str]:
    """The first shape of every class, then the second, and so on, sorted at the end."""
    classes: dict[str, list[str]] = {}
    for shape in shapes:
        classes.setdefault(shape.split("/")[0], []).append(shape)
    turns = [s for row in zip_longest(*classes.values()) for s in row if s is not None]
    return sorted(turns[:count])


def contact_sheet(path: Path, data_root: Path, shapes: Sequence[str]) -> None:
    """Write a PNG: some of the shapes, two in a row, with their first views."""
    chosen = choose(shapes, SHAPES)
    width, height = VIEWS * CELL, CELL + CAPTION
    rows = (len(chosen) + 1) // 2
    sheet = Image.new("RGB", (2 * width + 8, rows * height), (246, 246, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, shape in enumerate(chosen):
        left, top = number % 2 * (width + 8), number // 2 * height
        draw.text((left + 4, top + 1), shape[:100], fill=(20, 20, 20), font=font)
        for view, name in enumerate(list_views(data_root, shape)[:VIEWS]):
            image = Image.open(Path(rendering(data_root, shape), name)).convert("RGBA")
            cell = image.resize((CELL, CELL))
            sheet.paste(cell, (left + view * CELL, top + CAPTION), cell)
    sheet.save(path)
