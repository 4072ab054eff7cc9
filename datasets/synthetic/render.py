"""Images of the procedural shapes.

The camera looks at the origin from ``DISTANCE``; shapes must lie in the unit sphere.
"""

from __future__ import annotations

import numpy as np

from datasets.prepare import render as renderer
from datasets.synthetic.primitives import rotation

# The unit sphere fills the image: distance * sin(half field of view) is just above 1.
DISTANCE = 3.2
FOCAL = 2.95


def camera(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation (3,3) from the shape's axes to the camera's (right, up, backwards).

    Azimuth 0 looks at the front (+z); both angles are in degrees.
    """
    return rotation("x", elevation) @ rotation("y", -azimuth)


def project(points: np.ndarray, size: int) -> np.ndarray:
    """Points (N,3) in camera axes to (N,3): pixel x, pixel y (downwards), 1/depth."""
    return renderer.project(points, size, DISTANCE, FOCAL)


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
