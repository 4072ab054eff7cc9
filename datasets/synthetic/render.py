"""What a camera sees of the procedural shapes: images, depth scans, a contact sheet.

The camera looks at the origin from ``DISTANCE``; shapes must lie in the unit sphere.
"""

import colorsys
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from datasets.prepare import render as renderer
from datasets.shapenet_part import CATEGORIES
from datasets.synthetic.primitives import rotate, rotation
from datasets.synthetic.shapes import Shape, make_shape
from datasets.transforms import center_and_scale
from utils.parallel.seed import SHAPE, generator

Pair = tuple[np.ndarray, np.ndarray]  # points, and the faces or the mask with them

# The unit sphere fills the image: distance * sin(half field of view) is just above 1.
DISTANCE = 3.2
FOCAL = 2.95
# Of a scan: pixels of its image, scale of the scene, mark of the background.
_PIXELS, _SHRINK, _BACKGROUND = 280, 0.7, -1
# Of the contact sheet: pixels of a cell, of a category's name; shapes in a row.
_CELL, _CAPTION, _SHAPES = 137, 100, 7


def camera(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation (3,3) from the shape's axes to the camera's (right, up, backwards).

    Azimuth 0 looks at the front (+z); both angles are in degrees.
    """
    return rotation("x", elevation) @ rotation("y", -azimuth)


# Points (N,3) in camera axes to (N,3): pixel x, pixel y (downwards), 1/depth.
project = partial(renderer.project, distance=DISTANCE, focal=FOCAL)


def unproject(pixels: np.ndarray, size: int) -> np.ndarray:
    """The inverse of :func:`project`."""
    depth = 1 / pixels[:, 2]
    half = size / 2
    x = (pixels[:, 0] - half) / (half * FOCAL) * depth
    y = (half - pixels[:, 1]) / (half * FOCAL) * depth
    return np.stack([x, y, DISTANCE - depth], axis=1)


def render(
    vertices: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray,
    azimuth: float,
    elevation: float,
    size: int,
) -> np.ndarray:
    """RGBA image (size,size,4) u1 of a mesh in the unit sphere; alpha 0 outside it.

    The colours (F,3) are RGB in [0,1] of each face, the angles those of :func:`camera`.
    """
    surface = renderer.Surface.plain(vertices, faces, colours)
    return renderer.render(surface, camera(azimuth, elevation), DISTANCE, FOCAL, size)


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
                rgb = np.array([colorsys.hsv_to_rgb(h, 0.85, 0.85) for h in hues])
                colours = rgb[part]
            mesh = shape.in_unit_sphere(), shape.faces, colours
            cell = Image.fromarray(render(*mesh, 35 + 105 * number, 27, _CELL))
            sheet.paste(cell, (_CAPTION + _CELL * column, top), cell)
        draw.line((0, top, width, top), fill=(215, 215, 220))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def scan(shape: Shape, count: int, rng: Generator) -> dict[str, Pair]:
    """A depth scan of a shape in the manner of ScanObjectNN, in its three variants.

    It shows one side of the shape, is noisy, rotated about the vertical, and includes
    points of a floor and sometimes of a wall.

    Returns, for each variant, points (count,3) f4 and a mask (count,) i4: -1
    background, 0 object.
    """
    turned = rotate(shape.in_unit_sphere(), rotation("y", rng.uniform(0, 360)))
    view = camera(rng.uniform(0, 360), rng.uniform(5, 40))
    floor, floor_faces = _surroundings(turned, view[2], rng)
    scene = np.concatenate([turned, floor])
    faces = np.concatenate([shape.faces, floor_faces + len(turned)])
    seen, face = _visible(scene, faces, view)
    # Floors and walls are axis-aligned: rotated, they do not reveal the sensor's side.
    seen = rotate(seen, rotation("y", rng.uniform(0, 360)))
    obj, behind = seen[face < len(shape.faces)], seen[face >= len(shape.faces)]

    noise = rng.uniform(0.004, 0.015)
    share = rng.uniform(0.1, 0.4) if len(behind) else 0.0
    alone = _draw(obj, count, noise, rng)
    strays = round(share * count)
    mixed = [_draw(obj, count - strays, noise, rng), _draw(behind, strays, noise, rng)]
    mask = np.repeat(np.array([0, _BACKGROUND], np.int32), [count - strays, strays])
    order = rng.permutation(count)
    points, mask = np.concatenate(mixed)[order], mask[order]
    return {
        "obj_only": (center_and_scale(alone), np.zeros(count, np.int32)),
        "obj_bg": (center_and_scale(points), mask),
        "pb_t50_rs": _perturb(points, mask, rng),
    }


def _surroundings(points: np.ndarray, to_sensor: np.ndarray, rng: Generator) -> Pair:
    """Vertices and faces of a floor below the shape and sometimes of a wall.

    The wall is on the side away from the sensor, so that it does not hide the shape.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    margin = rng.uniform(0.05, 0.3, 4)
    x0, x1 = low[0] - margin[0], high[0] + margin[1]
    z0, z1 = low[2] - margin[2], high[2] + margin[3]
    y = low[1] - 0.01
    quads = [[(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]]
    if rng.random() < 0.4:
        top = y + rng.uniform(0.3, 1.0) * (high[1] - y)
        side = x0 if to_sensor[0] > 0 else x1
        quads.append([(side, y, z0), (side, top, z0), (side, top, z1), (side, y, z1)])
    first = 4 * np.arange(len(quads))[:, None, None]
    faces = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return np.array(quads, float).reshape(-1, 3), faces


def _visible(scene: np.ndarray, faces: np.ndarray, view: np.ndarray) -> Pair:
    """The visible point (M,3) of each covered pixel, and its face (M,)."""
    # Scaled down to fit the image: the floor extends beyond the unit sphere.
    screen = project(rotate(scene * _SHRINK, view), _PIXELS)
    face, inverse = renderer.rasterise(screen[faces], _PIXELS)
    rows, columns = np.nonzero(face >= 0)
    pixels = np.stack([columns + 0.5, rows + 0.5, inverse[rows, columns]], axis=1)
    points = rotate(unproject(pixels, _PIXELS), view.T) / _SHRINK
    return points, face[rows, columns]


def _draw(points: np.ndarray, count: int, noise: float, rng: Generator) -> np.ndarray:
    """``count`` noisy points, drawn with replacement only where there are too few."""
    if len(points) == 0:
        return np.zeros((0, 3))
    chosen = rng.choice(len(points), count, replace=len(points) < count)
    return points[chosen] + rng.normal(0, noise, (count, 3))


def _perturb(points: np.ndarray, mask: np.ndarray, rng: Generator) -> Pair:
    """Shift the object's bounding box by up to half its size, then rotate and scale.

    Points outside the shifted box are lost; others are duplicated to keep the count.
    """
    obj = points[mask != _BACKGROUND]
    low, high = obj.min(axis=0), obj.max(axis=0)
    extent = high - low
    shift = rng.uniform(-0.5, 0.5, 3) * extent * (1, 0.3, 1)
    # Halve the shift until at least 30 % of the object is inside.
    while True:
        lower, upper = low + shift - 0.1 * extent, high + shift + 0.1 * extent
        inside = ((points >= lower) & (points <= upper)).all(axis=1)
        if (inside & (mask != _BACKGROUND)).sum() >= 0.3 * len(obj):
            break
        shift = shift / 2
    rows = np.nonzero(inside)[0]
    chosen = np.concatenate([rows, rng.choice(rows, len(points) - len(rows))])
    chosen = chosen[rng.permutation(len(chosen))]
    turned = rotate(points[chosen], rotation("y", rng.uniform(0, 360)))
    turned = rotate(turned, rotation("x", rng.uniform(-8, 8)))
    turned = center_and_scale(turned + rng.normal(0, 0.004, turned.shape))
    moved = turned * rng.uniform(0.75, 1.25) + rng.uniform(-0.1, 0.1, 3)
    return moved.astype(np.float32), mask[chosen]
