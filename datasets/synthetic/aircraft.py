"""Procedural airplanes and rockets.

Each function adds the pieces of one random shape to a builder; part labels count from 0
within the category. Airplanes point to +z, rockets upwards.
"""

from __future__ import annotations

import numpy as np

from datasets.synthetic.parts import Builder, move, point, rotation

_DARK = (0.13, 0.13, 0.15)
_GLASS = (0.2, 0.26, 0.33)
_METAL = (0.72, 0.73, 0.76)


def airplane(b: Builder) -> None:
    """Parts: body, wing, tail, engine (optional)."""
    kind = b.pick("jet", "jet", "prop", "fighter")
    r = b.u(0.08, 0.13) if kind == "jet" else b.u(0.09, 0.125)
    nose = {"jet": 0.45, "prop": 0.75, "fighter": 0.1}[kind]
    long_nose = 0.62 if kind == "fighter" else 0.8
    end = 0.75 if kind == "fighter" else 0.2
    body = [(1.0, 0, -0.25 * r, 0.3 * nose * r, 0.3 * nose * r)]
    body += [(0.95, 0, -0.15 * r, nose * r + 0.15 * r, nose * r + 0.1 * r)]
    body += [(long_nose, 0, 0, 0.95 * r, r), (b.u(-0.3, -0.05), 0, 0, r, r)]
    body += [(-0.65, 0, 0.15 * r, (0.4 + end / 2) * r, (0.5 + end / 3) * r)]
    body += [(-1.0, 0, 0.4 * r, end * r, end * r)]
    b.spine(0, "z", body, n=18)
    cockpit = {"jet": 0.86, "prop": 0.35, "fighter": 0.45}[kind]
    height = {"jet": 0.42, "prop": 0.85, "fighter": 0.8}[kind] * r
    length = {"jet": 0.09, "prop": 0.2, "fighter": 0.25}[kind]
    b.ball(0, (0, height, cockpit), (0.62 * r, 0.6 * r, length), _GLASS)
    if kind == "jet":
        for side in (-1, 1):
            b.box(0, (side * 0.97 * r, 0.25 * r, 0.2), (0.08 * r, 0.2 * r, 1.0), _DARK)

    wing_y, wing_tip = _wings(b, kind, r)
    _airplane_tail(b, kind, r)
    if kind == "prop":
        b.spine(3, "z", [(0.88, 0, 0, 0.8 * r, 0.8 * r), (1.0, 0, 0, 0.9 * r, 0.9 * r)])
        b.spine(
            3, "z", [(1.0, 0, 0, 0.35 * r, 0.35 * r), (1.1, 0, 0, 0.03, 0.03)], _METAL
        )
        reach, turn = b.u(0.2, 0.3), rotation("z", b.u(0, 180))
        for extra in (0, 90) if b.chance(0.4) else (0,):
            blade = (0.045, 2 * reach, 0.02)
            b.box(3, (0, 0, 1.04), blade, _DARK, turn @ rotation("z", extra))
    elif kind == "fighter":
        if b.chance(0.7):
            for x in (-0.5 * r, 0.5 * r) if b.chance(0.5) else (0.0,):
                pipe = [(-0.9, x, 0.4 * r, 0.5 * r, 0.5 * r)]
                pipe += [(-1.1, x, 0.4 * r, 0.38 * r, 0.38 * r)]
                b.spine(3, "z", pipe, _DARK)
    elif b.chance(0.88):
        _jet_engines(b, r, wing_y, wing_tip)


def _wings(b: Builder, kind: str, r: float) -> tuple[float, tuple[float, float, float]]:
    """Both wings; returns the root's height and the tip's (x, y, front z)."""
    if kind == "jet":
        chord, span, sweep = b.u(0.3, 0.42), b.u(0.8, 1.05), b.u(0.3, 0.6)
        front, low = b.u(0.18, 0.35), b.pick(-0.55, -0.55, 0.7)
    elif kind == "prop":
        chord, span, sweep = b.u(0.26, 0.36), b.u(0.85, 1.1), b.u(-0.02, 0.1)
        front, low = b.u(0.35, 0.5), b.pick(-0.6, 0.95)
    else:
        chord, span, sweep = b.u(0.7, 1.0), b.u(0.45, 0.7), b.u(0.5, 0.75)
        front, low = b.u(0.15, 0.3), b.u(-0.2, 0.2)
    tip_chord = chord * (b.u(0.1, 0.25) if kind == "fighter" else b.u(0.3, 0.55))
    rise = b.u(0.02, 0.12) if kind != "fighter" else 0.0
    y, thick = low * r, 0.2 * r
    for side in (-1, 1):
        root = (0.0, front - chord, front, y - thick, y + thick)
        tip_front = front - sweep
        tip_y = y + rise
        tip = (
            side * span,
            tip_front - tip_chord,
            tip_front,
            tip_y - 0.01,
            tip_y + 0.01,
        )
        b.prism(1, "x", [root, tip])
        if kind == "prop" and low > 0:
            z = front - chord / 2
            b.rod(1, (side * 0.8 * r, -0.6 * r, z), (side * 0.5 * span, y, z), 0.012)
    if kind == "prop" and low < 0 and b.chance(0.3):  # a biplane
        top = y + b.u(0.26, 0.34)
        b.box(1, (0, top, front - chord / 2), (1.8 * span, 0.03, 0.9 * chord))
        for x in (-0.6 * span, 0.6 * span, -1.2 * r, 1.2 * r):
            for z in (front - 0.2 * chord, front - 0.8 * chord):
                b.rod(1, (x, y, z), (x, top, z), 0.01)
    return y, (span, y + rise, front - sweep)


def _airplane_tail(b: Builder, kind: str, r: float) -> None:
    fin, chord = b.u(0.24, 0.36), b.u(0.2, 0.28)
    lean, base = b.u(0.08, 0.2), 0.5 * r
    twin = kind == "fighter" and b.chance(0.5)
    for x in (-0.8 * r, 0.8 * r) if twin else (0.0,):
        top = base + fin
        root = (base, x - 0.018, x + 0.018, -0.96, -0.96 + chord)
        tip = (top, x - 0.01, x + 0.01, -0.98 - lean, -0.98 - lean + 0.5 * chord)
        b.prism(2, "y", [root, tip])
    high = kind == "jet" and b.chance(0.25)
    y = base + fin if high else 0.3 * r
    back = -0.98 - lean if high else -0.96
    half, depth, sweep = b.u(0.28, 0.42), 0.8 * chord, b.u(0.02, 0.16)
    for side in (-1, 1):
        root = (0, back, back + depth, y - 0.016, y + 0.016)
        tip = (
            side * half,
            back - sweep,
            back - sweep + depth / 2,
            y - 0.008,
            y + 0.008,
        )
        b.prism(2, "x", [root, tip])


def _jet_engines(b: Builder, r: float, wing_y: float, tip: tuple[float, ...]) -> None:
    radius, length = b.u(0.4, 0.6) * r, b.u(0.2, 0.32)
    where = b.pick((0.33,), (0.33,), (0.28, 0.55), ())
    spots = [(f * tip[0], wing_y + f * 0.1 - 1.15 * radius) for f in where]
    starts = [0.3 + f * (tip[2] - 0.3) + 0.1 for f in where]
    if not where:  # at the sides of the rear fuselage
        spots, starts = [(r + 1.1 * radius, 0.45 * r)], [-0.4]
    for (x, y), front in zip(spots, starts, strict=True):
        for side in (-1, 1):
            at = side * x
            shell = [(front, at, y, 0.85 * radius, 0.85 * radius)]
            shell += [(front - 0.08, at, y, radius, radius)]
            shell += [(front - length, at, y, 0.6 * radius, 0.6 * radius)]
            b.spine(3, "z", shell, n=14)
            intake = [(front - 0.01, at, y, 0.7 * radius, 0.7 * radius)]
            intake += [(front + 0.006, at, y, 0.7 * radius, 0.7 * radius)]
            b.spine(3, "z", intake, _DARK, n=14)


def rocket(b: Builder) -> None:
    """Parts: body, fin, nose; the nose points up."""
    kind = b.pick("missile", "bulgy", "launcher")
    r = {
        "missile": b.u(0.09, 0.15),
        "bulgy": b.u(0.2, 0.3),
        "launcher": b.u(0.13, 0.19),
    }[kind]
    waist = b.u(0.5, 0.75) if kind == "bulgy" else b.u(0.9, 1.0)
    tall = b.u(1.2, 1.6)
    shoulder = b.u(0.75, 0.95) if kind == "bulgy" else 1.0
    body = [
        (0.0, 0),
        (waist * r, 0),
        (0.5 * (1 + waist) * r, 0.2 * tall),
        (r, 0.45 * tall),
    ]
    body += [(0.5 * (1 + shoulder) * r, 0.8 * tall), (shoulder * r, tall)]
    b.lathe(0, body)
    top, cone = shoulder * r, b.u(1.6, 3.2) * r
    curve = b.u(1.0, 2.2)
    steps = np.linspace(0, 1, 8)
    b.lathe(2, [(top * (1 - t**curve), tall + cone * t) for t in steps])
    if b.chance(0.3):
        b.rod(2, (0, tall + 0.95 * cone, 0), (0, tall + 1.4 * cone, 0), 0.012, n=6)
    for height in (0.25, 0.9)[: int(b.rng.integers(0, 3))]:
        at = height * tall
        wide = float(np.interp(at, [y for _, y in body[1:]], [x for x, _ in body[1:]]))
        b.lathe(0, [(1.02 * wide, at), (1.02 * wide, at + 0.06)], colour=b.colours[1])
    if b.chance(0.5) and kind != "missile":
        y = 0.68 * tall
        wide = float(np.interp(y, [t for _, t in body[1:]], [x for x, _ in body[1:]]))
        b.ring(0, (0, y, wide), 0.4 * r, 0.02, "z", b.colours[2])
        b.ball(0, (0, y, wide - 0.01), (0.38 * r, 0.38 * r, 0.03), _GLASS, detail=1)
    b.lathe(0, [(0.4 * r, 0.02), (0.6 * r, -b.u(0.08, 0.16))], colour=_DARK)
    fins, reach, root = int(b.pick(3, 4, 4)), b.u(0.18, 0.4), b.u(0.3, 0.5)
    drop, tip = b.u(-0.15, 0.12), b.u(0.1, 0.5) * root
    spin = b.u(0, 90)
    shape = [
        (0.5 * waist * r, root),
        (waist * r + reach, tip - drop),
        (waist * r + reach, -drop),
    ]
    shape += [(0.5 * waist * r, 0)]
    small = kind == "missile" and b.chance(0.6)
    for k in range(fins):
        turn = rotation("y", spin + 360 * k / fins)
        normal = move(np.array([[0, 0, 0.03]]), turn)[0]
        corners = np.array([(x, y, 0) for x, y in shape])
        b.plate(1, move(corners, turn), normal)
        if small:
            b.plate(
                1, move(corners * 0.6 + point(0.4 * r, 0.75 * tall, 0), turn), normal
            )
    if kind == "launcher" and b.chance(0.7):
        width, high = b.u(0.4, 0.6) * r, b.u(0.45, 0.75) * tall
        for k in range(int(b.pick(2, 4))):
            at = move(
                np.array([[r + width, 0, 0]]), rotation("y", 45 + 90 * k + 90 * (k % 2))
            )[0]
            b.lathe(0, [(0.6 * width, -0.06), (width, 0.02), (width, high)], at)
            b.lathe(
                2,
                [(width, high), (0.6 * width, high + width), (0, high + 2 * width)],
                at,
            )
