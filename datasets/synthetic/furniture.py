"""Procedural chairs, lamps, laptops and tables."""

import itertools
from typing import Any

import numpy as np

from datasets.synthetic.primitives import (
    DARK,
    GOLD,
    METAL,
    Builder,
    rotate,
    rotation,
    spokes,
)


def _four_legs(
    b: Builder, part: int, corner: Any, radii: Any, splay: float, n: int
) -> None:
    """Legs from the floor to a ``corner`` and its mirror images, with n-sided ends."""
    x, h, z = corner
    for i, k in itertools.product((-1, 1), (-1, 1)):
        foot = (i * x * splay, 0, k * z * splay)
        b.tube(part, [foot, (i * x, h, k * z)], radii, n=n)


def chair(b: Builder) -> None:
    """Back, seat, legs, arms (optional); the back is at -z."""
    back, seat, leg, arm = range(4)
    w, d, h = b.u(0.38, 0.5), b.u(0.36, 0.48), b.u(0.65, 0.95)
    padded = b.chance(0.35)
    half, power = b.u(0.05, 0.1) if padded else b.u(0.025, 0.045), b.pick(3, 100, 100)
    if b.chance(0.5):
        b.colours[back] = b.colours[seat]
    top = h + 2 * half
    b.loft(seat, "y", [(h, 0, 0, w, d), (top, 0, 0, w, d)], power=power)
    tall, lean, z = b.u(0.65, 1.05), b.u(0.02, 0.22), 0.04 - d
    kind = "solid" if padded else b.pick("solid", "slats", "bars")
    if kind == "solid":
        end = (top + tall, 0, z - lean, w * b.u(0.8, 1.02), half)
        b.slab(back, "y", [(top, 0, z, w, half), end])
    else:
        slats, bars = (b.pick(3, 4, 5), 2) if kind == "slats" else (1, b.pick(4, 5, 6))
        for f in np.linspace(1, 0.3, slats):
            centre = (0, top + f * tall, z - f * lean)
            b.box(back, centre, (2 * w, 0.1 * tall, 0.035))
        for x in np.linspace(0.04 - w, w - 0.04, bars):
            b.tube(back, [(x, top - 0.05, z), (x, top + tall, z - lean)], 0.03)
    if b.chance(0.2):
        b.tube(leg, [(0, 0.12, 0), (0, h, 0)], 0.05)
        for tip in spokes(b.pick(4, 5), (b.u(0.4, 0.55), 0.05, 0), b.u(0, 90)):
            b.tube(leg, [(0, 0.16, 0), tip], [0.045, 0.035])
    else:
        r, splay, n = b.u(0.026, 0.05), 1 + b.u(0, 0.3), b.pick(4, 8)
        x, z, taper = w - 0.07, d - 0.07, b.u(0.5, 1)
        _four_legs(b, leg, (x, h, z), (r * taper, r), splay, n)
        for side in b.pick((), (-x, x)):
            b.tube(leg, [(side, 0.4 * h, -z), (side, 0.4 * h, z)], 0.6 * r)
    if b.chance(0.45):
        up, front, wide = b.u(0.28, 0.42), b.u(0.3, 0.9) * d, 0.07 + 0.09 * padded
        for x in (0.02 - w, w - 0.02):
            b.box(arm, (x, top + up, (front - d) / 2), (wide, 0.05, front + d))
            post = (wide, up, front + d if padded else wide)
            b.box(arm, (x, top + up / 2, front - post[2] / 2), post)


def lamp(b: Builder) -> None:
    """Base (hanging lamps need none), shade, tube, and bulb or ceiling mount."""
    base, shade, tube, bulb = range(4)
    kind = b.pick("table", "table", "floor", "hanging", "desk")
    b.colours[bulb], b.colours[shade] = (1.0, 0.93, 0.6), b.paint(0.75, 1)
    wide, deep, turn = b.u(0.32, 0.55), b.u(0.35, 0.6), np.eye(3)
    narrow, bend = wide * b.u(0.3, 0.95), b.u(0.75, 1.4)
    r, tall = b.u(0.2, 0.34), b.u(0.55, 1) * (2.2 if kind == "floor" else 1)
    top = np.array([0, 0 if kind == "hanging" else tall, 0])  # of the stand
    if kind == "hanging":
        narrow, end = 0.05, deep + tall
        b.tube(tube, [(0, 0.85 * deep, 0), (0, end, 0)], 0.022)
        b.lathe(bulb, [(0, end), (0.15, end), (0.13, end + 0.06), (0, end + 0.07)])
        if b.chance(0.5):
            b.tube(base, [(0, 0.9 * deep, 0), (0, deep + 0.14, 0)], [0.1, 0.05])
    elif kind == "desk":
        wide, narrow, deep = 0.5 * wide, 0.07, 0.7 * deep
        turn = rotation("x", b.u(-50, -15))
        tilt, reach = np.radians(b.u(-30, -8)), np.radians(b.u(30, 70))
        elbow = tall * np.array([0, np.cos(tilt), np.sin(tilt)])
        top = elbow + b.u(0.5, 0.7) * np.array([0, np.cos(reach), np.sin(reach)])
        b.tube(tube, [(0, 0.04, 0), elbow, top], 0.03)
        top = top - rotate((0, deep, 0), turn)
    else:
        b.tube(tube, [(0, 0.04, 0), (0, tall + 0.6 * deep, 0)], b.u(0.02, 0.04))
    if kind == "table" and b.chance(0.55):
        t = np.linspace(0, 1, 10)
        vase = 0.12 - 0.09 * t + b.u(0.18, 0.34) * np.sin(np.pi * t ** b.u(0.6, 1.4))
        b.lathe(base, [(0, 0), *zip(vase, 0.75 * tall * t, strict=True)])
    elif kind != "hanging":
        b.lathe(base, [(0, 0), (r, 0), (r, 0.05), (0.3 * r, 0.1), (0, 0.15)])
    f = np.linspace(0, 1, 9)
    radius = wide + (narrow - wide) * f ** (3 if kind == "hanging" else bend)
    angle = 2 * np.pi * np.arange(24) / 24
    circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=1)
    rings = radius[:, None, None] * circle + (deep * f)[:, None, None] * (0, 1, 0)
    b.rings(shade, rotate(rings, turn) + top, caps=False)
    b.ball(bulb, rotate((0, 0.4 * deep, 0), turn) + top, 0.22 * wide + 0.03)


def laptop(b: Builder) -> None:
    """Keyboard and screen; the lid opens about the rear edge."""
    keyboard, screen = range(2)
    w, d, thick = b.u(0.65, 0.85), b.u(0.45, 0.58), b.u(0.02, 0.05)
    if b.chance(0.7):
        b.colours[screen] = b.colours[keyboard]
    b.box(keyboard, (0, thick / 2, 0), (2 * w, thick, 2 * d))
    keys, step = DARK if b.colours[0].mean() > 0.35 else METAL, 1.76 * w / 12
    for z in np.linspace(-0.72, -0.04, 5) * d:
        for x in (np.arange(12) - 5.5) * step:
            b.box(keyboard, (x, thick, z), (0.8 * step, 0.028, 0.13 * d), keys)
    pad = (b.u(0.4, 0.6) * w, 0.012, 0.42 * d)
    b.box(keyboard, (0, thick, 0.55 * d), pad, b.shade(keyboard, 0.7))
    turn, tall, lid = rotation("x", b.u(-45, 10)), d * b.u(1.8, 2.1), b.u(0.025, 0.04)
    centre = np.add(rotate((0, tall / 2, 0), turn), (0, thick, -d))
    edge = 2 * b.u(0.04, 0.09)
    b.box(screen, centre, (2 * w, tall, lid), turn=turn)
    colour, centre = b.paint(0.1, 0.7), centre + rotate((0, 0, lid / 2), turn)
    b.box(screen, centre, (2 * w - edge, tall - edge, 0.01), colour, turn)


def table(b: Builder) -> None:
    """Top, legs, and optional support: an apron, a stretcher, a shelf or drawers."""
    top, leg, support = range(3)
    kind = b.pick("plain", "plain", "plain", "round", "desk")
    h, thick, inset = b.u(0.4, 0.95), b.u(0.04, 0.1), b.u(0.05, 0.12)
    w, d, power = b.u(0.55, 1), b.u(0.4, 0.6), 100.0
    b.colours[support] = b.shade(leg, 0.8)
    if kind == "round":
        w, d, power, inset = d + 0.05, d + b.pick(0.05, -0.1), 2, 0.2
    x, z = w - inset, d - inset
    b.loft(top, "y", [(h, 0, 0, w, d), (h + thick, 0, 0, w, d)], power=power)
    if kind == "round" and b.chance(0.6):
        r, foot = b.u(0.06, 0.1), 0.6 * d
        b.lathe(leg, [(1.6 * r, 0.05), (r, 0.25 * h), (r, 0.7 * h), (1.8 * r, h)])
        if b.chance(0.5):
            b.lathe(leg, [(0, 0), (foot, 0), (foot, 0.04), (r, 0.08)])
        else:
            for tip in spokes(4, (foot, 0.03, 0), 45):
                b.tube(leg, [(0, 0.2 * h, 0), tip], [0.06, 0.03])
        if b.chance(0.5):
            b.lathe(support, [(0.5 * d, h - 0.05), (0.5 * d, h)])
        return
    if kind == "desk" and b.chance(0.4):
        for side in (-x, x):
            b.box(leg, (side, h / 2, 0), (0.06, h, 2 * z))
    else:
        r, taper, splay = b.u(0.04, 0.08), b.u(0.45, 1), 1 + b.u(0, 0.08)
        _four_legs(b, leg, (x, h, z), (r * taper, r), splay, b.pick(4, 8))
    if kind == "desk":
        half, deep = b.u(0.22, 0.34) * w, b.u(0.35, 0.85) * h
        for side in b.pick((x - half,), (half - x, x - half)):
            b.box(support, (side, h - deep / 2, 0), (2 * half, deep, 1.9 * z))
            for y in h - deep * np.array([1, 3, 5]) / 6:
                front = (1.8 * half, 0.26 * deep, 0.02)
                b.box(support, (side, y, 0.96 * z), front, b.colours[top])
                b.ball(support, (side, y, 0.98 * z), 0.025, GOLD)
        return
    apron, y, bar = b.u(0.06, 0.13), b.u(0.12, 0.4) * h, 0.04
    extra = b.pick("none", "shelf", "stretcher")
    frames = [(h - apron / 2, apron, 0.03)] if b.chance(0.6) else []
    if extra == "shelf":
        b.box(support, (0, y, 0), (2 * x, 0.035, 2 * z))
    for level, high, wide in frames + [(y, bar, bar)] * (extra == "stretcher"):
        for side in (-1, 1):
            b.box(support, (0, level, side * z), (2 * x, high, wide))
            b.box(support, (side * x, level, 0), (wide, high, 2 * z))
