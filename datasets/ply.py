"""Clouds in PLY files, ASCII or binary."""

from __future__ import annotations

import os

import numpy as np
from plyfile import PlyData

from datasets.files import fail, open_file, points_all_equal


def read_ply(path: str | os.PathLike) -> np.ndarray:
    """The vertices of a PLY file, ASCII or binary of either byte order.

    Other vertex properties and other elements are ignored.

    Returns:
        (N, 3) float32, N >= 1, in the file's units and order.

    Raises:
        DataError: if the file is missing, empty, truncated or no PLY, if it lacks
            vertices or x, y or z, if a coordinate is not finite, or if all of several
            points are equal.
    """
    with open_file(path) as stream:
        try:
            # Mapped into memory: plyfile reads other streams value by value.
            vertex = PlyData.read(stream)["vertex"].data
            columns = [vertex[axis] for axis in "xyz"]
            # An overflow becomes an infinity, which is refused below.
            with np.errstate(over="ignore"):
                points = np.stack(columns, axis=1).astype(np.float32)
        except Exception as error:  # plyfile raises whatever the damage leads to
            problem = f"not a readable PLY file ({type(error).__name__}: {error})"
            fail(path, problem)
    if len(points) == 0:
        fail(path, "holds no vertices")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        fail(path, f"vertex {bad.argmax()} has a non-finite coordinate")
    if points_all_equal(points):
        fail(path, f"all of its {len(points)} points are equal")
    return points
