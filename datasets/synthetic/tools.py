"""Procedural guitars, knives and pistols.

Each function adds the pieces of one random shape to a builder; part labels count from 0
within the category. Guitars stand upright, knives and pistols point to +z.
"""

from __future__ import annotations

import numpy as np

from datasets.synthetic.parts import Builder, arc, move, point, rotation

_DARK = (0.13, 0.13, 0.15)
_METAL = (0.75, 0.76, 0.79)
_GOLD = (0.85, 0.7, 0.3)


def guitar(b: Builder) -> None:
    """Parts: head, neck, body; upright, strings to the front."""
    kind = b.pick("acoustic", "acoustic", "electric", "electric", "flying")
    b.colours[1] = b.pick((0.35, 0.22, 0.13), (0.2, 0.14, 0.1), (0.7, 0.5, 0.3))
    b.colours[0] = b.colours[1] if b.chance(0.6) else b.colours[2]
    long, neck_long = b.u(0.75, 0.95), b.u(0.75, 1.0)
    d = b.u(0.09, 0.14) if kind == "acoustic" else b.u(0.035, 0.05)
    if kind == "flying":
        long *= 0.9
        spread, tip = b.u(0.35, 0.5), b.u(0.08, 0.14)
        for side in (-1, 1):
            wing = [(0.06 * side, long, 0), (0.16 * side, 0.85 * long, 0)]
            wing += [((spread + tip) * side, 0, 0), ((spread - tip) * side, 0.02, 0)]
            wing += [(-0.04 * side, 0.4 * long, 0)]
            b.plate(2, wing, (0, 0, 2 * d))
    else:
        _guitar_body(b, kind, long, d)
    top = long + neck_long
    start = long - (0.12 if kind == "acoustic" else 0.25)
    b.prism(
        1,
        "y",
        [
            (start, -0.05, 0.05, d - 0.02, d + 0.03),
            (top, -0.036, 0.036, d - 0.02, d + 0.03),
        ],
    )
    for f in np.linspace(0.05, 0.98, 12):
        y = start + f * (top - start)
        b.box(1, (0, y, d + 0.03), (0.08, 0.01, 0.008), _METAL)
    wide, high = b.u(0.06, 0.085), b.u(0.22, 0.3)
    lean = 0.08
    head = [
        (top, -0.04, 0.04, d - 0.02, d + 0.03),
        (top + 0.06, -wide, wide, d - 0.04, d),
    ]
    head += [
        (top + high, -wide * b.u(0.6, 1.1), wide, d - 0.02 - lean, d + 0.02 - lean)
    ]
    b.prism(0, "y", head)
    sides = (-1, 1) if b.chance(0.6) else (1,)
    for side in sides:
        for k in range(3 if len(sides) == 2 else 6):
            y = top + 0.08 + (high - 0.1) * k / (2 if len(sides) == 2 else 5)
            at = (side * wide, y, d - 0.03)
            b.rod(0, at, (side * (wide + 0.05), y, d - 0.03), 0.012, colour=_METAL, n=6)
            b.ball(
                0,
                (side * (wide + 0.05), y, d - 0.03),
                (0.02, 0.014, 0.02),
                _METAL,
                detail=1,
            )
    b.box(2, (0, 0.24 * long, d + 0.01), (0.2, 0.04, 0.03), _DARK)
    if kind == "acoustic":
        hole = [
            (d - 0.01, 0, 0.62 * long, 0.115, 0.115),
            (d + 0.006, 0, 0.62 * long, 0.115, 0.115),
        ]
        b.spine(2, "z", hole, _DARK, n=20)
        b.ring(2, (0, 0.62 * long, d), 0.125, 0.012, "z", b.shade_of(2, 1.5))
    else:
        for y in (0.36, 0.5)[: int(b.rng.integers(1, 3))]:
            b.box(2, (0, y * long, d + 0.01), (0.18, 0.06, 0.03), (0.9, 0.9, 0.88))
    for k in range(4):
        x = 0.018 * (k - 1.5)
        b.rod(
            1,
            (1.6 * x, 0.24 * long, d + 0.035),
            (x, top, d + 0.04),
            0.004,
            colour=(0.9,) * 3,
            n=4,
        )


def _guitar_body(b: Builder, kind: str, long: float, d: float) -> None:
    lower, upper, waist = b.u(0.33, 0.42), b.u(0.24, 0.32), b.u(0.2, 0.25)
    if kind == "electric":
        lower, upper, waist = 0.85 * lower, 0.85 * upper, 0.85 * waist
    low, mid, high = b.u(0.27, 0.32), b.u(0.56, 0.62), b.u(0.78, 0.83)
    t = (1 - np.cos(np.linspace(0, np.pi, 27))) / 2
    # Cosine steps between the bouts and the waist, elliptic ends.
    down = 0.5 - 0.5 * np.cos(np.pi * np.clip((t - low) / (mid - low), 0, 1))
    up = 0.5 - 0.5 * np.cos(np.pi * np.clip((t - mid) / (high - mid), 0, 1))
    width = lower + (waist - lower) * down + (upper - waist) * up
    width *= np.sqrt(np.maximum(1 - np.clip((low - t) / low, 0, 1) ** 2.3, 0))
    width *= np.sqrt(np.maximum(1 - np.clip((t - high) / (1 - high), 0, 1) ** 2.3, 0))
    inside = t <= (high if kind == "electric" else 1.0)
    t, width = t[inside], width[inside]
    edge = _DARK if b.chance(0.5) else b.shade_of(2, 0.7)
    stations = [(y * long, -x, x, -d, d) for y, x in zip(t, width, strict=True)]
    b.prism(2, "y", stations, edge)
    face = [(y, 0.96 * x0, 0.96 * x1, d, d + 0.004) for y, x0, x1, _, _ in stations]
    b.prism(2, "y", face)
    if kind == "electric":
        for side, horn in ((-1, b.u(0.12, 0.3)), (1, b.u(0.05, 0.2))):
            x, y = side * 0.8 * width[-1], t[-1] * long
            root, tip = (0.45 * x, y - 0.18, 0), (1.05 * x, y + 0.6 * horn * long, 0)
            path = [root, (0.9 * x, y, 0), (1.15 * x, y + 0.06, 0), tip]
            b.tube(2, path, [0.13, 0.09, 0.075, 0.03], edge, flat=0.4)


def knife(b: Builder) -> None:
    """Parts: blade, handle; the edge is down, the tip points to +z."""
    kind = b.pick("chef", "chef", "dagger", "cleaver", "table")
    b.colours[0] = b.u(0.7, 0.9) + point(0, 0.01, 0.04)
    b.colours[1] = b.paint((0.15, 0.7))
    long, handle = b.u(0.8, 1.2), b.u(0.5, 0.7)
    tall = {
        "chef": b.u(0.16, 0.28),
        "dagger": b.u(0.1, 0.16),
        "cleaver": b.u(0.34, 0.46),
        "table": b.u(0.1, 0.15),
    }[kind]
    grip = min(b.u(0.055, 0.085), 0.6 * tall)
    if kind == "cleaver":
        long *= 0.75
    t = np.linspace(0, 1, 14)
    if kind == "chef":
        top = grip - b.u(0, 0.3) * tall * t**2
        low = grip - tall * (1 - t ** b.u(2.2, 4))
        low, top = np.minimum(low, top - 0.004), top
        low[-1], top[-1] = top[-1] - 0.005, top[-1]
    elif kind == "dagger":
        half = tall * np.minimum(1, (1 - t) / b.u(0.35, 0.8)) * 0.75
        low, top = -half, half
    elif kind == "cleaver":
        top = np.full(14, grip)
        low = np.full(14, grip - tall) - 0.05 * t
    else:
        top = grip * np.sqrt(np.maximum(1 - t**6, 0))
        low = -tall * np.sqrt(np.maximum(1 - t**3, 0)) * (0.6 + 0.4 * t)
    # A wedge: thick at the back, thin at the edge, so that it catches the light.
    rings = []
    for f, y0, y1 in zip(t, low, top, strict=True):
        back, middle = 0.02 * (1 - 0.5 * f), 0.5 * (y0 + y1)
        half = back if kind == "dagger" else 0.7 * back
        corners = [
            (0.003, y0),
            (half, middle),
            (0.003 if kind == "dagger" else back, y1),
        ]
        ring = [(x, y, f * long) for x, y in corners]
        ring += [(-x, y, f * long) for x, y in reversed(corners)]
        rings.append(ring)
    b.loft(0, rings)
    if kind == "cleaver" and b.chance(0.7):
        for x in (-0.022, 0.022):
            b.ball(
                0, (x, grip - 0.07, 0.88 * long), (0.005, 0.035, 0.035), _DARK, detail=1
            )
    swell, curve = b.u(1.0, 1.3), b.u(-0.06, 0.02)
    stations: list[tuple[float, ...]]
    stations = [(0.02, 0, 0, 0.035, grip), (-0.06, 0, 0, 0.042, 0.9 * grip)]
    stations += [(-0.5 * handle, 0, curve / 2, 0.05, swell * grip)]
    stations += [
        (-0.9 * handle, 0, curve, 0.045, 1.1 * grip),
        (-handle, 0, curve, 0.03, 0.8 * grip),
    ]
    b.spine(1, "z", stations, n=14, power=2.8)
    if kind in ("chef", "cleaver", "table") and b.chance(0.7):
        for f in (0.2, 0.5, 0.8):
            for side in (-1, 1):
                y = np.interp(f, [0, 1], [0, curve])
                b.ball(
                    1,
                    (side * 0.046, y, -f * handle),
                    (0.012, 0.022, 0.022),
                    _METAL,
                    detail=1,
                )
    if kind == "dagger" or b.chance(0.25):
        b.box(1, (0, 0, 0.0), (0.09, b.u(3.2, 4.5) * grip, 0.05), b.pick(_GOLD, _METAL))
        b.ball(1, (0, curve, -handle), (0.06, 1.2 * grip, 0.06), _GOLD, detail=1)


def pistol(b: Builder) -> None:
    """Parts: barrel, handle, trigger (with its guard)."""
    b.colours[0] = np.full(3, b.u(0.25, 0.7))
    b.colours[1] = b.pick(_DARK, (0.4, 0.25, 0.15), b.paint((0.2, 0.6)))
    b.colours[2] = b.shade_of(0, 0.7)
    long, tall, half = b.u(0.75, 1.15), b.u(0.1, 0.15), b.u(0.05, 0.075)
    revolver = b.chance(0.4)
    if revolver:
        r = b.u(0.05, 0.07)
        b.rod(0, (0, 0.04, 0.05), (0, 0.04, long), r)
        b.rod(0, (0, 0.04, long), (0, 0.04, long + 0.003), 0.6 * r, colour=_DARK)
        b.box(0, (0, 0.05 + r, long / 2 + 0.1), (0.03, 0.04, long - 0.25))
        b.box(0, (0, 0.06 + 1.2 * r, long - 0.06), (0.02, 0.06, 0.08), _DARK)
        drum, size = b.u(0.12, 0.15), b.u(0.22, 0.3)
        b.spine(
            0,
            "z",
            [(-size / 2, 0, 0.0, drum, drum), (size / 2, 0, 0.0, drum, drum)],
            n=12,
        )
        for k in range(6):
            x, y = (
                0.62 * drum * np.cos(k * np.pi / 3),
                0.62 * drum * np.sin(k * np.pi / 3),
            )
            b.rod(
                0, (x, y, size / 2), (x, y, size / 2 + 0.006), 0.032, colour=_DARK, n=8
            )
        b.box(0, (0, 0.16, 0), (0.06, 0.04, 0.42))
        b.box(0, (0, -0.13, 0.02), (0.07, 0.06, 0.42))
        b.box(0, (0, 0.03, -0.2), (0.09, 0.3, 0.12))
        b.prism(
            0,
            "y",
            [(0.14, -0.02, 0.02, -0.3, -0.22), (0.27, -0.02, 0.02, -0.37, -0.28)],
        )
        back, top = -0.2, -0.05
    else:
        b.prism(
            0,
            "z",
            [
                (-0.38, -half, half, -tall * 0.9, tall),
                (long - 0.04, -half, half, -tall * 0.8, tall),
                (long, -0.8 * half, 0.8 * half, -0.7 * tall, 0.9 * tall),
            ],
        )
        b.rod(
            0,
            (0, 0.25 * tall, long - 0.02),
            (0, 0.25 * tall, long + b.u(0.01, 0.1)),
            0.5 * half,
            colour=_DARK,
        )
        frame = long * b.u(0.6, 0.95)
        b.box(
            0,
            (0, -tall, frame / 2 - 0.16),
            (1.8 * half, 0.7 * tall, frame + 0.32),
            b.shade_of(0, 0.75),
        )
        b.box(0, (0, tall, long - 0.08), (0.03, 0.06, 0.05), _DARK)
        b.box(0, (0, tall, -0.3), (0.06, 0.06, 0.05), _DARK)
        for k in range(4):
            for side in (-1, 1):
                b.box(
                    0,
                    (side * half, 0.1 * tall, -0.34 + 0.045 * k),
                    (0.012, 1.2 * tall, 0.02),
                    _DARK,
                )
        b.box(0, (half, 0.45 * tall, 0.22), (0.012, 0.5 * tall, 0.2), _DARK)
        back, top = -0.22, -0.8 * tall
    drop, lean = b.u(0.5, 0.75), b.u(0.1, 0.3)
    width = b.u(0.11, 0.14)
    wood = half if not revolver else 0.05
    grip = []
    for f in np.linspace(0, 1, 6):
        z = back - lean * (f**1.6 if revolver else f)
        fat = width * (0.85 + (0.45 if revolver else 0.2) * f)
        grip.append((top - drop * f, 0, z, wood * (1 + 0.15 * np.sin(np.pi * f)), fat))
    b.spine(1, "y", grip, n=16, power=3.5)
    if not revolver:
        f = -drop + top
        b.box(
            1,
            (0, f - 0.015, grip[-1][2]),
            (2 * wood, 0.04, 2.2 * width),
            b.shade_of(1, 0.6),
        )
    low = -1.3 * tall if not revolver else -0.16
    size, centre = b.u(0.12, 0.16), 0.06
    loop = arc((0, 0, 0), (size * 1.15, size), 0, -180, 14)
    loop = move(loop, rotation("y", 90)) + point(0, low, centre)
    b.tube(2, loop, 0.022, n=6)
    hook = [
        (0, low + 0.03, centre + 0.02),
        (0, low - 0.05, centre - 0.02),
        (0, low - 0.1, centre + 0.02),
    ]
    b.tube(2, hook, [0.03, 0.025, 0.015], _METAL, n=6)
