"""Primitives from which the procedural shapes are built.

Each adds a labelled, coloured mesh: a box, an ellipsoid, a tube along a path (also a
cylinder, cone or torus), a solid of revolution, or a loft through cross-sections. y is
the vertical axis and shapes face +z. Lengths are relative: shapes are scaled later.
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import trimesh
from numpy.typing import ArrayLike

Colour = ArrayLike | None  # RGB in [0,1]; None: the colour of the part

DARK = (0.13, 0.13, 0.15)
GLASS = (0.2, 0.26, 0.33)
GOLD = (0.85, 0.7, 0.3)
METAL = (0.74, 0.75, 0.78)

# The coordinates (t, a, b) of a loft along an axis: along it, and the two across.
_AXES = {"x": (0, 2, 1), "y": (1, 0, 2), "z": (2, 0, 1)}

_BOX = trimesh.creation.box()
_BALL = trimesh.creation.icosphere(subdivisions=2)


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Right-handed rotation matrix (3,3) about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def rotate(points: ArrayLike, matrix: np.ndarray) -> np.ndarray:
    """Rotate points (...,3) by ``matrix`` (3,3).

    einsum instead of ``@``: the rounding of BLAS may depend on the number of threads,
    and the data must be the same bytes for any number.
    """
    return np.einsum("...j,ij->...i", np.asarray(points, float), matrix)


def spokes(count: int, tip: ArrayLike, start: float = 0) -> np.ndarray:
    """Copies (count,3) of a point, evenly spaced about the vertical axis."""
    turns = [rotation("y", start + 360 * k / count) for k in range(count)]
    return np.stack([rotate(tip, turn) for turn in turns])


def arc(
    plane: str, centre: ArrayLike, radii: Sequence[float], start: float, stop: float
) -> np.ndarray:
    """15 points of an elliptical arc in the plane "xy", "zy" or "xz"; degrees."""
    t = np.radians(np.linspace(start, stop, 15))
    points = np.zeros((15, 3))
    points[:, "xyz".index(plane[0])] = radii[0] * np.cos(t)
    points[:, "xyz".index(plane[1])] = radii[1] * np.sin(t)
    return points + np.asarray(centre, float)


class Builder:
    """Collects the primitives of one shape."""

    def __init__(self, rng: np.random.Generator, parts: int) -> None:
        self.rng = rng  # source of all randomness
        # RGB in [0,1] of each part, (parts,3)
        self.colours = np.array([self.paint() for _ in range(parts)])
        self._meshes: list[tuple[np.ndarray, np.ndarray, int, np.ndarray]] = []

    def u(self, low: float, high: float) -> float:
        """A uniform random number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def paint(self, darkest: float = 0.35, brightest: float = 0.95) -> np.ndarray:
        """A random RGB colour (3,) with an HSV value in the given range."""
        hsv = self.u(0, 1), self.u(0.05, 0.8), self.u(darkest, brightest)
        return np.array(colorsys.hsv_to_rgb(*hsv))

    def shade(self, part: int, factor: float) -> np.ndarray:
        """A darker (factor < 1) or lighter shade (3,) of the colour of a part."""
        return np.clip(self.colours[part] * factor, 0, 1)

    def _add(
        self, part: int, vertices: np.ndarray, faces: np.ndarray, colour: Colour
    ) -> None:
        """Add any mesh: vertices (V,3), faces (F,3)."""
        rgb = np.asarray(self.colours[part] if colour is None else colour, float)
        self._meshes.append((vertices, faces, part, rgb))

    def box(
        self, part: int, centre: Any, size: Any, colour: Colour = None, turn: Any = None
    ) -> None:
        """A box with edge lengths ``size`` (3,), rotated by ``turn`` (3,3)."""
        corners = rotate(_BOX.vertices * size, np.eye(3) if turn is None else turn)
        self._add(part, corners + np.asarray(centre, float), _BOX.faces, colour)

    def ball(self, part: int, centre: Any, radii: Any, colour: Colour = None) -> None:
        """A sphere, or an ellipsoid with three ``radii``."""
        vertices = _BALL.vertices * radii + np.asarray(centre, float)
        self._add(part, vertices, _BALL.faces, colour)

    def rings(
        self, part: int, rings: Any, colour: Colour = None, caps: bool = True
    ) -> None:
        """The surface through closed ``rings`` (R,K,3); ``caps`` closes both ends."""
        rings = np.asarray(rings, float)
        count, size, _ = rings.shape
        first, here = np.arange(count - 1)[:, None] * size, np.arange(size)
        following = (here + 1) % size
        a, b = (first + here).ravel(), (first + following).ravel()
        columns = [(a, b, b + size), (a, b + size, a + size)]
        vertices = rings.reshape(-1, 3)
        if caps:
            vertices = np.concatenate([vertices, rings[[0, -1]].mean(axis=1)])
            centre, last = np.full(size, count * size), (count - 1) * size
            columns += [(centre, following, here)]
            columns += [(centre + 1, last + here, last + following)]
        faces = np.concatenate([np.stack(column, axis=1) for column in columns])
        self._add(part, vertices, faces, colour)

    def loft(
        self,
        part: int,
        axis: str,
        sections: Any,
        colour: Colour = None,
        power: float = 2.0,
        n: int = 20,
        caps: bool = True,
    ) -> None:
        """Superellipse cross-sections (t, a, b, half_a, half_b) along an axis.

        (a, b) are (z, y) along x, (x, z) along y, (x, y) along z. ``power`` 2 gives
        ellipses; a larger one gives rectangles with rounded corners.
        """
        angle = 2 * np.pi * (np.arange(n) + 0.5) / n
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        unit = np.sign(unit) * np.abs(unit) ** (2 / power)
        table = np.asarray(sections, float)[:, None]
        rings = np.zeros((len(table), n, 3))
        rings[..., _AXES[axis][0]] = table[..., 0]
        rings[..., _AXES[axis][1:]] = table[..., 1:3] + table[..., 3:5] * unit
        self.rings(part, rings, colour, caps)

    def slab(self, part: int, axis: str, sections: Any, colour: Colour = None) -> None:
        """A loft with rectangular cross-sections."""
        self.loft(part, axis, sections, colour, power=np.inf, n=4)

    def lathe(
        self, part: int, profile: Any, at: Any = (0, 0, 0), colour: Colour = None
    ) -> None:
        """A solid of revolution about the vertical axis through ``at``: (radius, y)."""
        sections = [(at[1] + y, at[0], at[2], r, r) for r, y in profile]
        self.loft(part, "y", sections, colour, n=24, caps=False)

    def tube(
        self,
        part: int,
        path: Any,
        radius: Any,
        colour: Colour = None,
        n: int = 8,
        flat: float = 1.0,
    ) -> None:
        """A tube along ``path`` (P,3); one radius, or one per point.

        The frame is carried along the path, so bends do not twist the tube. ``flat``
        scales the radius along the first axis of the frame.
        """
        path = np.array([np.asarray(point, float) for point in path])
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
        # The coordinate axis that the path follows least is never parallel to it.
        side = np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))]
        angle = 2 * np.pi * np.arange(n)[:, None] / n
        cos, sin, rings = flat * np.cos(angle), np.sin(angle), []
        radii = np.broadcast_to(np.asarray(radius, float), len(path))
        for point, along, r in zip(path, tangent, radii, strict=True):
            side = side - along * (side * along).sum()
            side /= np.sqrt((side * side).sum()) + 1e-12
            rings.append(point + r * (cos * side + sin * np.cross(along, side)))
        self.rings(part, rings, colour)

    def plate(
        self, part: int, outline: Any, thickness: Any, colour: Colour = None
    ) -> None:
        """A flat plate: ``outline`` (K,3) extruded by the vector ``thickness`` (3,)."""
        middle, half = np.asarray(outline, float), np.asarray(thickness, float) / 2
        self.rings(part, [middle - half, middle + half], colour)

    def wheel(self, part: int, centre: Any, radius: float, width: float) -> None:
        """A wheel about the x axis with a protruding hub."""
        x, y, z = centre
        for half, r, colour in ((0.5, radius, None), (0.56, 0.55 * radius, METAL)):
            ends = [(x + s * half * width, z, y, r, r) for s in (-1, 1)]
            self.loft(part, "x", ends, colour)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (V,3), faces (F,3), and of each face its part (F,) and RGB (F,3)."""
        vertices, faces, parts, colours = zip(*self._meshes, strict=True)
        counts = [len(f) for f in faces]
        return (
            *trimesh.util.append_faces(vertices, faces),
            np.repeat(parts, counts),
            np.repeat(colours, counts, axis=0),
        )
