"""A software renderer: z-buffer, perspective, textures, Lambert shading, RGBA output.

Ray casters (embree, mitsuba) need no display either, but took two to five times as
long at these sizes: benchmarks/README.md.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

SUPERSAMPLE = 2  # rendered pixels per image pixel, along each side
_AMBIENT = 0.42
_LIGHTS = (  # direction in camera axes (right, up, towards the camera), strength
    (np.array([-0.5, 0.75, 0.55]) / np.linalg.norm([-0.5, 0.75, 0.55]), 0.5),
    (np.array([0.85, 0.1, 0.5]) / np.linalg.norm([0.85, 0.1, 0.5]), 0.18),
)


@dataclass(frozen=True)
class Surface:
    """Triangles and their colours; of a texture, the nearest texel is taken."""

    vertices: np.ndarray  # (V,3)
    faces: np.ndarray  # (F,3) vertex indices
    colours: np.ndarray  # (F,3,3) RGB in [0,1] of each corner; a factor of textures
    uv: np.ndarray  # (F,3,2) of each corner, from the lower left; repeat outside [0,1]
    texture: np.ndarray  # (F,) which texture a face has, -1 for none
    textures: tuple[np.ndarray, ...] = ()  # (height,width,3) u1 each

    @staticmethod
    def plain(
        vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray
    ) -> "Surface":
        """Faces of one colour each, (F,3), without textures."""
        corners = np.repeat(np.asarray(colours, float)[:, None], 3, axis=1)
        uv, none = np.zeros((len(faces), 3, 2)), np.full(len(faces), -1)
        return Surface(vertices, faces, corners, uv, none)


@njit(cache=True)
def _span(corners, y):
    """Least and greatest x of a triangle (3,3) at height y, infinities for none."""
    low, high = np.inf, -np.inf
    for k in range(3):
        xa, ya = corners[k, :2]
        xb, yb = corners[(k + 1) % 3, :2]
        if min(ya, yb) > y or max(ya, yb) < y:
            continue
        if abs(yb - ya) < 1e-6:  # all of the edge: the quotient would be inaccurate
            low, high = min(low, xa, xb), max(high, xa, xb)
            continue
        x = xa + (y - ya) / (yb - ya) * (xb - xa)
        low, high = min(low, x), max(high, x)
    return low, high


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
            low, high = _span(corners[f], y)
            if low > high:
                continue
            # One pixel more on either side: the test below decides, not rounding here.
            first = max(left, int(np.ceil(low - 1.5)))
            last = min(right, int(np.floor(high + 0.5)))
            for column in range(first, last + 1):
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
def _shade(
    corners, face, nearest, light, colours, uv, texture, texels, layout, size, fine
):
    """Per block of pixels, (size,size,4): sum of the colours, and covered pixels.

    ``texels`` (T,3) are all textures, one after the other; ``layout`` has a row (first
    texel, height, width) of each.
    """
    total = np.zeros((size, size, 4))
    rgb = np.zeros(3)
    for row in range(fine * size):
        for column in range(fine * size):
            f = face[row, column]
            if f < 0:
                continue
            x0, y0 = corners[f, 0, :2]
            x1, y1, w1 = corners[f, 1]
            x2, y2, w2 = corners[f, 2]
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            x, y = column + 0.5 - x0, row + 0.5 - y0
            # Perspective: the weights of the corners in space, not on the screen.
            p1 = (x * (y2 - y0) - (x2 - x0) * y) / area * w1 / nearest[row, column]
            p2 = ((x1 - x0) * y - x * (y1 - y0)) / area * w2 / nearest[row, column]
            for c in range(3):
                first = colours[f, 0, c]
                rgb[c] = first + p1 * (colours[f, 1, c] - first)
                rgb[c] += p2 * (colours[f, 2, c] - first)
            if texture[f] >= 0:
                start, height, width = layout[texture[f]]
                u0, v0 = uv[f, 0]
                u = u0 + p1 * (uv[f, 1, 0] - u0) + p2 * (uv[f, 2, 0] - u0)
                v = v0 + p1 * (uv[f, 1, 1] - v0) + p2 * (uv[f, 2, 1] - v0)
                i = height - 1 - min(int((v - np.floor(v)) * height), height - 1)
                j = min(int((u - np.floor(u)) * width), width - 1)
                for c in range(3):
                    rgb[c] *= texels[start + i * width + j, c] / 255
            block = total[row // fine, column // fine]
            for c in range(3):
                block[c] += min(max(rgb[c] * light[f], 0.0), 1.0)
            block[3] += 1
    return total


def project(points: np.ndarray, size: int, distance: float, focal: float) -> np.ndarray:
    """Points (N,3) in camera axes to (N,3): pixel x, pixel y (downwards), 1/depth.

    Axes are right, up, backwards; the camera is at (0, 0, distance). `size` is height
    and width in pixels, `focal` 1 / tan(half the field of view).
    """
    inverse = 1 / (distance - points[:, 2])
    half = size / 2
    x = half + half * focal * points[:, 0] * inverse
    y = half - half * focal * points[:, 1] * inverse
    return np.stack([x, y, inverse], axis=1)


def render(
    surface: Surface, camera: np.ndarray, distance: float, focal: float, size: int
) -> np.ndarray:
    """RGBA image (size,size,4) u1 of a surface, all of it in front of the camera.

    A pixel's colour is the mean over the part of it that is covered, its alpha the size
    of that part. Where alpha is 0, the colour is black. `camera` is the rotation (3,3)
    from the surface's axes to the camera's, the rest as of :func:`project`.
    """
    # einsum instead of ``@``: BLAS may round differently with more threads.
    seen = np.einsum("nj,ij->ni", np.asarray(surface.vertices, float), camera)
    triangles = seen[surface.faces]  # (F, 3, 3)
    normal = np.cross(
        triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    )
    normal /= np.sqrt((normal**2).sum(axis=1, keepdims=True)) + 1e-20
    # Both sides of a face are lit: some surfaces are open, and windings may be wrong.
    to_camera = np.array([0, 0, distance]) - triangles.mean(axis=1)
    normal[(normal * to_camera).sum(axis=1) < 0] *= -1
    light = np.full(len(triangles), _AMBIENT)
    for direction, strength in _LIGHTS:
        light += strength * np.maximum((normal * direction).sum(axis=1), 0)
    fine = size * SUPERSAMPLE
    corners = project(seen, fine, distance, focal)[surface.faces]
    face, nearest = rasterise(corners, fine)
    sizes = [texture.shape[:2] for texture in surface.textures]
    first = np.cumsum([0, *(height * width for height, width in sizes)])
    layout = np.array([(f, *s) for f, s in zip(first, sizes, strict=False)], np.int64)
    texels = [texture.reshape(-1, 3) for texture in surface.textures]
    image = _shade(
        *(corners, face, nearest, light, surface.colours, surface.uv, surface.texture),
        np.concatenate([np.zeros((0, 3), np.uint8), *texels]),
        layout.reshape(-1, 3),
        *(size, SUPERSAMPLE),
    )
    image[..., :3] /= np.maximum(image[..., 3:], 1)
    image[..., 3] /= SUPERSAMPLE**2
    return (255 * image + 0.5).astype(np.uint8)
