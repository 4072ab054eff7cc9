"""Simulated depth scans in the manner of ScanObjectNN.

A scan shows one side of a shape. It is noisy, rotated about the vertical, and includes
points of a floor and sometimes of a wall.
"""

from __future__ import annotations

import numpy as np

from datasets.prepare.render import rasterise
from datasets.synthetic.primitives import rotate, rotation
from datasets.synthetic.render import camera, project, unproject
from datasets.synthetic.shapes import Shape
from datasets.transforms import center_and_scale

_PIXELS = 280
_SHRINK = 0.7
_BACKGROUND = -1


def scan(
    shape: Shape, count: int, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One scan of a shape in the variants ``obj_only``, ``obj_bg`` and ``pb_t50_rs``.

    Returns:
        For each variant, points (count,3) f4 and a mask (count,) i4: -1 background, 0
        object.
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


def _surroundings(
    points: np.ndarray, to_sensor: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
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


def _visible(
    scene: np.ndarray, faces: np.ndarray, view: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The visible point (M,3) of each covered pixel, and its face (M,)."""
    # Scaled down to fit the image: the floor extends beyond the unit sphere.
    screen = project(rotate(scene * _SHRINK, view), _PIXELS)
    face, inverse = rasterise(screen[faces], _PIXELS)
    rows, columns = np.nonzero(face >= 0)
    pixels = np.stack([columns + 0.5, rows + 0.5, inverse[rows, columns]], axis=1)
    points = rotate(unproject(pixels, _PIXELS), view.T) / _SHRINK
    return points, face[rows, columns]


def _draw(
    points: np.ndarray, count: int, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """``count`` noisy points, drawn with replacement only where there are too few."""
    if len(points) == 0:
        return np.zeros((0, 3))
    chosen = rng.choice(len(points), count, replace=len(points) < count)
    return points[chosen] + rng.normal(0, noise, (count, 3))


def _perturb(
    points: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
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
