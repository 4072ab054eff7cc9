"""Procedural bags, caps, earphones and mugs.

Each function adds the pieces of one random shape to a builder; part labels count from 0
within the category. Fronts face +z.
"""

from __future__ import annotations

import numpy as np

from datasets.synthetic.parts import Builder, arc

_DARK = (0.13, 0.13, 0.15)
_METAL = (0.75, 0.76, 0.79)
_GOLD = (0.85, 0.7, 0.3)


def bag(b: Builder) -> None:
    """Parts: handle, body."""
    kind = b.pick("handbag", "handbag", "tote", "briefcase")
    w, h, d = b.u(0.45, 0.65), b.u(0.5, 0.8), b.u(0.14, 0.26)
    b.colours[0] = b.shade_of(1, 0.6) if b.chance(0.6) else b.colours[0]
    if kind == "briefcase":
        d, h = 0.7 * d, 0.85 * h
        b.spine(
            1,
            "z",
            [(-d, 0, h / 2, 0.97 * w, h / 2), (d, 0, h / 2, 0.97 * w, h / 2)],
            n=28,
            power=8,
        )
        b.spine(
            1,
            "z",
            [(-0.03, 0, h / 2, w, 0.53 * h), (0.03, 0, h / 2, w, 0.53 * h)],
            b.shade_of(1, 0.6),
            n=28,
            power=8,
        )
        for side in (-1, 1):
            b.box(1, (side * 0.55 * w, 0.9 * h, d), (0.1, 0.1, 0.04), _GOLD)
        half, up = b.u(0.2, 0.3) * w + 0.06, b.u(0.12, 0.2)
        path = [(-half, h, 0), (-half, h + up, 0), (half, h + up, 0), (half, h, 0)]
        b.tube(0, path, 0.035)
        return
    if kind == "tote":
        w, h = 0.85 * w, b.u(0.8, 1.1)
        flare = b.u(0.95, 1.15)
        b.prism(1, "y", [(0, -w, w, -d, d), (h, -w * flare, w * flare, -d, d)])
        # The mouth: a dark sheet just above the closed top reads as the open inside.
        b.box(
            1,
            (0, h + 0.004, 0),
            (1.92 * w * flare, 0.008, 1.86 * d),
            b.shade_of(1, 0.35),
        )
        stripe = b.u(0.2, 0.6) * h
        if b.chance(0.5):
            b.box(
                1, (0, stripe, 0), (2.06 * w * max(flare, 1), 0.12, 2.06 * d), b.paint()
            )
    else:
        taper, pinch = b.u(0.65, 0.95), b.u(0.25, 0.5)
        sides = [
            (0, 0, 0, 0.97 * w, 0.95 * d),
            (0.06, 0, 0, w, d),
            (0.5 * h, 0, 0, 0.5 * (1 + taper) * w, 0.85 * d),
        ]
        sides += [(h, 0, 0, taper * w, pinch * d)]
        b.spine(1, "y", sides, n=24, power=5)
        b.box(1, (0, h, 0), (1.7 * taper * w, 0.03, 0.03), _GOLD)
        if b.chance(0.65):
            drop = b.u(0.35, 0.6) * h
            flap = [(taper * w, h, pinch * d), (0.95 * taper * w, h - drop, 0.93 * d)]
            flap += [
                (0, h - 1.15 * drop, 0.97 * d),
                (-0.95 * taper * w, h - drop, 0.93 * d),
            ]
            flap += [(-taper * w, h, pinch * d)]
            b.plate(1, flap, (0, 0.01, 0.05), b.shade_of(1, 0.7))
            b.box(1, (0, h - drop, d), (0.12, 0.12, 0.05), _GOLD)
        w *= taper
    half, up, fat = b.u(0.4, 0.7) * w, b.u(0.25, 0.6), b.u(0.018, 0.035)
    twin = kind == "tote" or b.chance(0.5)
    for z in (
        (-0.75 * d, 0.75 * d) if kind == "tote" else (-0.08, 0.08) if twin else (0.0,)
    ):
        b.tube(0, arc((0, h - 0.03, z), (half, up), 0, 180, 15), fat, flat=b.u(1, 1.6))


def cap(b: Builder) -> None:
    """Parts: panels, peak."""
    high, long = b.u(0.62, 0.9), b.u(1.0, 1.2)
    boxy = b.u(0.55, 0.85)
    b.colours[1] = b.colours[0] if b.chance(0.4) else b.colours[1]
    second = b.pick(b.colours[0], b.shade_of(0, 0.8), b.paint())
    rise = np.radians(np.linspace(0, 90, 9))
    out, up = np.cos(rise) ** boxy, high * np.sin(rise)
    out[-1] = 0.0  # cos(90°) is a rounding error above zero, its root is not
    for gore in range(6):
        phi = np.radians(np.linspace(60 * gore, 60 * gore + 60, 6))
        grid = np.stack(
            [
                out[:, None] * np.sin(phi),
                np.broadcast_to(up[:, None], (9, 6)),
                long * out[:, None] * np.cos(phi),
            ],
            axis=-1,
        )
        index = np.arange(54).reshape(9, 6)
        a, c, d, e = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        faces = [np.stack(t, -1).reshape(-1, 3) for t in ((a, c, d), (a, d, e))]
        colour = b.colours[0] if gore % 2 else second
        b.mesh(0, grid.reshape(-1, 3), np.concatenate(faces), colour)
        seam = [(1.005 * x, 1.005 * y, 1.005 * z) for x, y, z in grid[:, 0]]
        b.tube(0, seam, 0.012, b.shade_of(0, 0.5), n=5)
    b.ball(0, (0, high, 0), (0.08, 0.05, 0.08), b.colours[1], detail=1)
    if b.chance(0.6):
        b.ball(0, (0, 0.5 * high, 0.88 * long), (0.25, 0.2, 0.1), b.paint(), detail=2)
    reach, droop, bend = b.u(0.65, 1.0), b.u(0.05, 0.3), b.u(0.0, 0.3)
    width = np.radians(b.u(62, 80))
    rings = []
    for f in np.linspace(-1, 1, 15):
        phi = f * width
        s = np.linspace(0, 1, 7)
        x = np.sin(phi) * (1 + 0.02 * s)
        z = long * np.cos(phi) + s * reach * np.cos(f * np.pi / 2) ** 0.7
        y = -droop * s**2 - bend * f**2 * s
        top = np.stack([x, y, z], axis=1)
        rings.append(np.concatenate([top, top[::-1] - (0, 0.04, 0)]))
    b.loft(1, rings)


def earphone(b: Builder) -> None:
    """Parts: earphone, headband (headphones only), wire."""
    b.colours[2] = b.pick(_DARK, (0.85, 0.85, 0.85))
    if b.chance(0.15):
        return _earbuds(b)
    w, h = b.u(0.55, 0.68), b.u(0.75, 0.95)
    flat, fat = b.u(1.0, 3.0), b.u(0.03, 0.05)
    b.tube(1, arc((0, 0, 0), (w, h), -8, 188, 25), fat, flat=flat)
    if b.chance(0.7):  # the cushion under the crown
        crown = arc((0, -0.02, 0), (0.94 * w, 0.95 * h), 45, 135, 12)
        b.tube(1, crown, 1.5 * fat, b.shade_of(1, 0.6), flat=flat)
    r, thick, oval = b.u(0.22, 0.34), b.u(0.09, 0.16), b.u(1.0, 1.3)
    y = -0.12
    tilt = b.u(0, 0.05)
    for side in (-1, 1):
        shell = [(side * (w + thick), 0, y - tilt, 0.7 * r, 0.7 * r * oval)]
        shell += [(side * (w + 0.7 * thick), 0, y, 0.95 * r, 0.95 * r * oval)]
        shell += [(side * (w - 0.1 * thick), 0, y, r, r * oval)]
        b.spine(0, "x", shell, n=22)
        pad = [(side * (w - 0.1 * thick), 0, y, 0.98 * r, 0.98 * r * oval)]
        pad += [(side * (w - 0.9 * thick), 0, y, 0.9 * r, 0.9 * r * oval)]
        pad += [(side * (w - 1.1 * thick), 0, y, 0.6 * r, 0.6 * r * oval)]
        b.spine(0, "x", pad, _DARK, n=22)
        disc = [(side * (w + thick), 0, y, 0.4 * r, 0.4 * r)]
        disc += [(side * (w + 1.1 * thick), 0, y, 0.35 * r, 0.35 * r)]
        b.spine(0, "x", disc, _METAL, n=16)
    if b.chance(0.35):
        boom = [
            (w, y - 0.5 * r, 0.1),
            (w, y - 1.1 * r, 0.35),
            (0.6 * w, y - 1.3 * r, 0.55),
        ]
        b.tube(2, boom, 0.02)
        b.ball(2, boom[-1], (0.07, 0.04, 0.04), _DARK, detail=1)
    if b.chance(0.6):
        t = np.linspace(0, 1, 14)
        sway, drop = b.u(0.05, 0.3), b.u(0.5, 0.9)
        path = [t * 0, y - 0.9 * r - drop * t, sway * np.sin(5 * t)]
        path[0] = w - 0.9 * w * t**2
        b.tube(2, np.stack(path, axis=1), 0.018, n=6)
        b.rod(
            2,
            (path[0][-1], path[1][-1], path[2][-1]),
            (path[0][-1], path[1][-1] - 0.12, path[2][-1]),
            0.03,
            colour=_METAL,
        )
    return None


def _earbuds(b: Builder) -> None:
    half, drop = b.u(0.3, 0.5), b.u(0.5, 0.8)
    r = b.u(0.13, 0.18)
    for side in (-1, 1):
        x = side * half
        b.ball(0, (x, 0, 0), (0.8 * r, r, r))
        b.ball(0, (x - side * 0.7 * r, 0, 0.5 * r), (0.6 * r, 0.6 * r, 0.6 * r), _DARK)
        b.rod(0, (x, 0, 0), (x + side * 0.03, -0.4, 0), 0.05, 0.04)
        t = np.linspace(0, 1, 12)
        bend = x * (1 - t**2) + side * 0.03 * (1 - t)
        path = np.stack([bend, -0.4 - drop * t, 0.1 * np.sin(np.pi * t)], axis=1)
        b.tube(2, path, 0.018, n=6)
    y = -0.4 - drop
    t = np.linspace(0, 1, 12)
    sway = b.u(0.05, 0.2)
    tail = np.stack([sway * np.sin(6 * t), y - 0.7 * t, 0 * t], axis=1)
    b.tube(2, tail, 0.02, n=6)
    b.rod(2, (0, y + 0.04, 0), (0, y - 0.06, 0), 0.04)
    b.rod(2, tail[-1], tail[-1] - (0, 0.16, 0), 0.035, colour=_METAL)


def mug(b: Builder) -> None:
    """Parts: handle, cup."""
    r, h = b.u(0.34, 0.46), b.u(0.7, 1.1)
    foot, belly, wall = b.u(0.65, 1.02), b.u(-0.04, 0.12), b.u(0.03, 0.05)
    if b.chance(0.6):
        b.colours[0] = b.colours[1]
    t = np.linspace(0, 1, 12)
    outer = r * (foot + (1 - foot) * t**0.7) + belly * np.sin(np.pi * t)
    profile = [(0, 0), *zip(outer, h * t, strict=True)]
    b.lathe(1, profile, n=40)
    inner = [(x - wall, max(y, 0.05)) for x, y in profile[:0:-1]]
    b.lathe(
        1,
        [(outer[-1], h), (outer[-1] - wall, h), *inner[1:], (0, 0.05)],
        colour=b.shade_of(1, 0.8),
        n=40,
    )
    if b.chance(0.5):
        low = int(b.rng.integers(1, 8))
        high = low + int(b.rng.integers(1, 4))
        band = [(1.012 * outer[k], h * t[k]) for k in range(low, high + 1)]
        b.lathe(1, band, colour=b.paint(), n=40)
    top, bottom = b.u(0.75, 0.9), b.u(0.15, 0.35)
    middle, half = (top + bottom) / 2 * h, (top - bottom) / 2 * h
    edge = float(np.interp(middle / h, t, outer)) - 0.02
    reach, fat = b.u(0.26, 0.42), b.u(0.04, 0.065)
    angle = np.radians(np.linspace(-90, 90, 15))
    square = b.pick(1.0, 1.0, 0.6)
    x = edge + reach * np.abs(np.cos(angle)) ** square
    y = middle + half * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** square
    x[[0, -1]] = [float(np.interp(v / h, t, outer)) - 0.02 for v in (y[0], y[-1])]
    b.tube(0, np.stack([x, y, 0 * x], axis=1), fat, n=10, flat=b.u(1, 1.5))
