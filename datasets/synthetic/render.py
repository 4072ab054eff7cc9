"""A small software renderer: z-buffer, perspective, Lambert shading, RGBA output.

The camera looks at the origin from ``DISTANCE``; shapes must lie in the unit sphere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from datasets.synthetic.primitives import rotate, rotation

# The unit sphere fills the image: distance * sin(half field of view) is just above 1.
DISTANCE = 3.2
FOCAL = 2.95
_SUPERSAMPLE = 2  # rendered pixels per image pixel, along each side
_AMBIENT = 0.42
_LIGHTS = (  # direction in camera axes (right, up, towards the camera), strength
    (np.array([-0.5, 0.75, 0.55]) / np.linalg.norm([-0.5, 0.75, 0.55]), 0.5),
    (np.array([0.85, 0.1, 0.5]) / np.linalg.norm([0.85, 0.1, 0.5]), 0.18),
)


@njit(cache=True)
def rasterise(corners, size):
    """Nearest face of each pixel, -1 if none, and its inverse depth: (size,size) each.

    ``corners`` (F,3,3) are triangles of (pixel x, pixel y, 1/depth).
    """
    face = np.full((size, size), -1, np.int32)
    nearest = np.zeros((size, size))
    for f in range(corners.shape[0]):
        x0, y0, w0 = corners[f, 0]
        x1, y1, w1 = corners[f, 1]
        x2, y2, w2 = corners[f, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-12:
            continue
        left = max(int(np.ceil(min(x0, x1, x2) - 0.5)), 0)
        right = min(int(np.floor(max(x0, x1, x2) - 0.5)), size - 1)
        top = max(int(np.ceil(min(y0, y1, y2) - 0.5)), 0)
        bottom = min(int(np.floor(max(y0, y1, y2) - 0.5)), size - 1)
        for row in range(top, bottom + 1):
            y = row + 0.5
            for column in range(left, right + 1):
                x = column + 0.5
                b1 = ((x - x0) * (y2 - y0) - (x2 - x0) * (y - y0)) / area
                b2 = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)) / area
                if b1 < 0.0 or b2 < 0.0 or b1 + b2 > 1.0:
                    continue
                # 1/depth is linear on the screen, depth itself is not.
                w = w0 + b1 * (w1 - w0) + b2 * (w2 - w0)
                if w > nearest[row, column]:
                    nearest[row, column] = w
                    face[row, column] = f
    return face, nearest


@njit(cache=True)
def _sum_blocks(face, colours, size):
    """Per block of pixels, (size,size,4): sum of the colours, and covered pixels."""
    total = np.zeros((size, size, 4))
    for i in range(size * _SUPERSAMPLE):
        for j in range(size * _SUPERSAMPLE):
            if face[i, j] >= 0:
                block = total[i // _SUPERSAMPLE, j // _SUPERSAMPLE]
                block[:3] += colours[face[i, j]]
                block[3] += 1
    return total


def camera(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation (3,3) from the shape's axes to the camera's (right, up, backwards).

    Azimuth 0 looks at the front (+z); both angles are in degrees.
    """
    return rotation("x", elevation) @ rotation("y", -azimuth)


def project(points: np.ndarray, size: int) -> np.ndarray:
    """Points (N,3) in camera axes to (N,3): pixel x, pixel y (downwards), 1/depth."""
    inverse = 1 / (DISTANCE - points[:, 2])
    half = size / 2
    x = half + half * FOCAL * points[:, 0] * inverse
    y = half - half * FOCAL * points[:, 1] * inverse
    return np.stack([x, y, inverse], axis=1)


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

    Args:
        vertices: (V,3).
        faces: (F,3) indices.
        colours: (F,3) RGB in [0,1].
        azimuth: degrees around the vertical axis, 0 in front (+z).
        elevation: degrees above the horizon.
        size: pixels, height and width.
    """
    seen = rotate(vertices, camera(azimuth, elevation))
    triangles = seen[faces]  # (F, 3, 3)
    normal = np.cross(
        triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    )
    normal /= np.sqrt((normal**2).sum(axis=1, keepdims=True)) + 1e-20
    # Both sides of a face are lit, since some surfaces are open (lampshades).
    to_camera = np.array([0, 0, DISTANCE]) - triangles.mean(axis=1)
    normal[(normal * to_camera).sum(axis=1) < 0] *= -1
    light = np.full(len(faces), _AMBIENT)
    for direction, strength in _LIGHTS:
        light += strength * np.maximum((normal * direction).sum(axis=1), 0)
    shaded = np.clip(colours * light[:, None], 0, 1)
    fine = size * _SUPERSAMPLE
    face, _ = rasterise(project(seen, fine)[faces], fine)
    image = _sum_blocks(face, shaded, size)
    image[..., :3] /= np.maximum(image[..., 3:], 1)
    image[..., 3] /= _SUPERSAMPLE**2
    return (255 * image + 0.5).astype(np.uint8)
