"""Building blocks of the procedural shapes: lofts, tubes, lathes, boxes, balls.

Every block carries a part label and a colour. Lengths are in the shape's own unit; y is
the vertical axis, x points to the left and z to the front of a shape.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import trimesh
from numpy.typing import ArrayLike

Colour = Iterable[float] | None  # RGB in [0, 1]; None for that of the part
Stations = Sequence[Sequence[float]]  # what they are, each method says

# For a loft along an axis: which coordinates are (along, across a, across b).
_AXES = {"x": (0, 2, 1), "y": (1, 0, 2), "z": (2, 0, 1)}


@cache
def _unit_ball(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    return np.asarray(ball.vertices), np.asarray(ball.faces)


@cache
def _unit_box() -> tuple[np.ndarray, np.ndarray]:
    box = trimesh.creation.box(extents=(1, 1, 1))
    return np.asarray(box.vertices), np.asarray(box.faces)


def point(x: float, y: float, z: float) -> np.ndarray:
    """The vector (3,)."""
    return np.array([x, y, z], float)


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Right-handed rotation matrix (3,3) about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (N,3) times the rotation ``matrix`` (3,3).

    einsum instead of ``@``: BLAS may round differently with its number of threads, and
    the data must be the same bytes on every machine setting.
    """
    return np.einsum("nj,ij->ni", points, matrix)


def arc(
    centre: Sequence[float], radii: Sequence[float], start: float, stop: float, n: int
) -> np.ndarray:
    """``n`` points (n,3) of an ellipse arc in the x-y plane, angles in degrees."""
    t = np.radians(np.linspace(start, stop, n))
    flat = np.stack([radii[0] * np.cos(t), radii[1] * np.sin(t), 0 * t], axis=1)
    return flat + np.asarray(centre, float)


class Builder:
    """Collects labelled, coloured pieces of one shape.

    Attributes:
        rng: the generator every random proportion is drawn from.
        colours: one RGB colour in [0,1] a part, (parts,3); pieces use their part's
            colour unless another is given.
    """

    def __init__(self, rng: np.random.Generator, parts: int) -> None:
        self.rng = rng
        self.colours = np.array([self.paint() for _ in range(parts)])
        self._pieces: list[tuple[np.ndarray, np.ndarray, int, np.ndarray]] = []

    def u(self, low: float, high: float) -> float:
        """A uniform number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, *choices: Any) -> Any:
        """One of the choices, each as likely as the others."""
        return choices[int(self.rng.integers(len(choices)))]

    def paint(self, value: tuple[float, float] = (0.35, 0.95)) -> np.ndarray:
        """A random RGB colour (3,) whose HSV value lies in the given range."""
        hue, saturation = self.rng.random(), self.rng.uniform(0.05, 0.8)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, self.rng.uniform(*value)))

    def shade_of(self, part: int, factor: float) -> np.ndarray:
        """A darker (factor < 1) or lighter variant of a part's colour, (3,)."""
        return np.clip(self.colours[part] * factor, 0, 1)

    def mesh(
        self,
        part: int,
        vertices: np.ndarray,
        faces: np.ndarray,
        colour: Iterable[float] | None = None,
    ) -> None:
        """Add any mesh: vertices (V,3), faces (F,3)."""
        rgb = self.colours[part] if colour is None else np.asarray(colour, float)
        self._pieces.append((np.asarray(vertices, float), np.asarray(faces), part, rgb))

    def loft(
        self, part: int, rings: ArrayLike, colour: Colour = None, caps: bool = True
    ) -> None:
        """The skin through closed ``rings`` (R,K,3); ``caps`` closes both ends."""
        rings = np.asarray(rings, float)
        count, size, _ = rings.shape
        first = np.arange(count - 1)[:, None] * size
        here, following = np.arange(size), (np.arange(size) + 1) % size
        a, b = first + here, first + following
        c, d = a + size, b + size
        faces = np.concatenate(
            [np.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))]
        )
        vertices = rings.reshape(-1, 3)
        if caps:
            ends = np.stack([rings[0].mean(0), rings[-1].mean(0)])
            low, high = count * size, count * size + 1
            last = (count - 1) * size
            fans = [
                np.stack([np.full(size, low), following, here], -1),
                np.stack([np.full(size, high), last + here, last + following], -1),
            ]
            vertices = np.concatenate([vertices, ends])
            faces = np.concatenate([faces, *fans])
        self.mesh(part, vertices, faces, colour)

    def prism(
        self, part: int, axis: str, stations: Stations, colour: Colour = None
    ) -> None:
        """Rectangular sections along an axis: stations (t, a_lo, a_hi, b_lo, b_hi).

        (a, b) are (z, y) along x, (x, z) along y, (x, y) along z.
        """
        rings = np.zeros((len(stations), 4, 3))
        t_axis, a_axis, b_axis = _AXES[axis]
        for ring, (t, a_low, a_high, b_low, b_high) in zip(
            rings, stations, strict=True
        ):
            ring[:, t_axis] = t
            ring[:, a_axis] = (a_low, a_high, a_high, a_low)
            ring[:, b_axis] = (b_low, b_low, b_high, b_high)
        self.loft(part, rings, colour)

    def spine(
        self,
        part: int,
        axis: str,
        stations: Stations,
        colour: Colour = None,
        n: int = 16,
        power: float = 2.0,
        caps: bool = True,
    ) -> None:
        """Superellipse sections along an axis: stations (t, a, b, radius_a, radius_b).

        ``power`` 2 gives ellipses, larger values rounder and rounder rectangles.
        """
        t_axis, a_axis, b_axis = _AXES[axis]
        angle = 2 * np.pi * (np.arange(n) + 0.5) / n
        cos, sin = np.cos(angle), np.sin(angle)
        unit_a = np.sign(cos) * np.abs(cos) ** (2 / power)
        unit_b = np.sign(sin) * np.abs(sin) ** (2 / power)
        rings = np.zeros((len(stations), n, 3))
        for ring, (t, a, b, radius_a, radius_b) in zip(rings, stations, strict=True):
            ring[:, t_axis] = t
            ring[:, a_axis] = a + radius_a * unit_a
            ring[:, b_axis] = b + radius_b * unit_b
        self.loft(part, rings, colour, caps)

    def lathe(
        self,
        part: int,
        profile: Stations,
        centre: Sequence[float] = (0, 0, 0),
        colour: Colour = None,
        n: int = 20,
        caps: bool = False,
    ) -> None:
        """A profile of (radius, y) pairs turned about the vertical through centre."""
        x, y, z = centre
        stations = [(y + height, x, z, r, r) for r, height in profile]
        self.spine(part, "y", stations, colour, n=n, caps=caps)

    def box(
        self,
        part: int,
        centre: ArrayLike,
        size: ArrayLike,
        colour: Colour = None,
        turn: np.ndarray | None = None,
    ) -> None:
        """A box of full edge lengths ``size``, turned by the matrix ``turn`` (3,3)."""
        vertices, faces = _unit_box()
        vertices = vertices * np.asarray(size, float)
        if turn is not None:
            vertices = move(vertices, turn)
        self.mesh(part, vertices + np.asarray(centre, float), faces, colour)

    def ball(
        self,
        part: int,
        centre: ArrayLike,
        radii: ArrayLike,
        colour: Colour = None,
        detail: int = 2,
        turn: np.ndarray | None = None,
    ) -> None:
        """An ellipsoid with the three radii."""
        vertices, faces = _unit_ball(detail)
        vertices = vertices * np.asarray(radii, float)
        if turn is not None:
            vertices = move(vertices, turn)
        self.mesh(part, vertices + np.asarray(centre, float), faces, colour)

    def tube(
        self,
        part: int,
        path: ArrayLike,
        radius: ArrayLike,
        colour: Colour = None,
        n: int = 8,
        caps: bool = True,
        flat: float = 1.0,
    ) -> None:
        """A tube along ``path`` (P,3); radius a number or one a point.

        The frame is carried along the path, so bends do not twist it. ``flat``
        multiplies the radius across the first frame direction.
        """
        path = np.asarray(path, float)
        radius = np.broadcast_to(np.asarray(radius, float), len(path))
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
        # The coordinate axis least along the tube is a safe first frame direction.
        side = np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))]
        angle = 2 * np.pi * np.arange(n) / n
        rings = []
        for point, along, r in zip(path, tangent, radius, strict=True):
            side = side - along * (side * along).sum()
            side /= np.sqrt((side * side).sum()) + 1e-12
            other = np.cross(along, side)
            circle = (
                np.cos(angle)[:, None] * side * flat + np.sin(angle)[:, None] * other
            )
            rings.append(point + r * circle)
        self.loft(part, rings, colour, caps)

    def rod(
        self,
        part: int,
        start: ArrayLike,
        end: ArrayLike,
        radius: float,
        end_radius: float | None = None,
        colour: Colour = None,
        n: int = 12,
    ) -> None:
        """A straight round rod or, with another ``end_radius``, a truncated cone."""
        radii = (radius, radius if end_radius is None else end_radius)
        self.tube(part, np.array([start, end], float), radii, colour, n)

    def wheel(
        self,
        part: int,
        centre: Sequence[float],
        radius: float,
        width: float,
        hub: Colour = None,
        n: int = 18,
    ) -> None:
        """A wheel about the x axis, with a hub disc that stands out on both sides."""
        x, y, z = centre
        half = width / 2
        rim = 0.92 * radius
        rings = [(-half, rim), (-0.7 * half, radius), (0.7 * half, radius), (half, rim)]
        self.spine(part, "x", [(x + t, z, y, r, r) for t, r in rings], n=n)
        colour = (0.75, 0.75, 0.78) if hub is None else hub
        disc = [
            (x + t, z, y, 0.55 * radius, 0.55 * radius)
            for t in (-1.1 * half, 1.1 * half)
        ]
        self.spine(part, "x", disc, colour, n=n)

    def plate(
        self, part: int, outline: ArrayLike, thickness: ArrayLike, colour: Colour = None
    ) -> None:
        """A flat plate: ``outline`` (K,3) in one plane, star-shaped about its mean.

        Args:
            part: the part label.
            outline: corners in order.
            thickness: vector (3,) from one side of the plate to the other.
            colour: RGB, the part's own by default.
        """
        middle, half = np.asarray(outline, float), np.asarray(thickness, float) / 2
        self.loft(part, np.stack([middle - half, middle + half]), colour)

    def ring(
        self,
        part: int,
        centre: ArrayLike,
        radius: float,
        thickness: float,
        axis: str = "x",
        colour: Colour = None,
        n: int = 20,
    ) -> None:
        """A torus about a coordinate axis; ``thickness`` is the radius of its tube."""
        t_axis, a_axis, b_axis = _AXES[axis]
        big = 2 * np.pi * np.arange(n + 1) / n
        small = 2 * np.pi * np.arange(8) / 8
        reach = radius + thickness * np.cos(small)[None, :]  # (1, 8)
        rings = np.zeros((n + 1, 8, 3))
        rings[..., t_axis] = thickness * np.sin(small)
        rings[..., a_axis] = np.cos(big)[:, None] * reach
        rings[..., b_axis] = np.sin(big)[:, None] * reach
        self.loft(part, rings + np.asarray(centre, float), colour, caps=False)

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """vertices (V,3) f8, faces (F,3) i8, part of each face (F,), its RGB (F,3)."""
        vertices, faces, parts, colours, offset = [], [], [], [], 0
        for piece_vertices, piece_faces, part, rgb in self._pieces:
            vertices.append(piece_vertices)
            faces.append(piece_faces + offset)
            parts.append(np.full(len(piece_faces), part))
            colours.append(np.tile(rgb, (len(piece_faces), 1)))
            offset += len(piece_vertices)
        skin = np.concatenate(vertices), np.concatenate(faces)
        return *skin, np.concatenate(parts), np.concatenate(colours)
