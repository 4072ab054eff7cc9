"""Procedural chairs, lamps, laptops and tables.

Each function adds the pieces of one random shape to a builder; part labels count from 0
within the category. Fronts face +z.
"""

from __future__ import annotations

import numpy as np

from datasets.synthetic.parts import Builder, move, point, rotation

_DARK = (0.13, 0.13, 0.15)


def chair(b: Builder) -> None:
    """Parts: back, seat, leg, arm (optional)."""
    w, d, h = b.u(0.38, 0.5), b.u(0.36, 0.48), b.u(0.65, 0.95)
    padded = b.chance(0.35)
    thick = b.u(0.1, 0.2) if padded else b.u(0.05, 0.09)
    if b.chance(0.5):
        b.colours[0] = b.colours[1]
    if b.chance(0.25) and not padded:
        b.spine(
            1, "y", [(h, 0, 0, w, d), (h + thick, 0, 0, w, d)], n=20, power=b.u(2.2, 4)
        )
    else:
        b.prism(
            1,
            "y",
            [(h, -w, w, -d, d), (h + thick, -w * 0.97, w * 0.97, -d, d * 0.98)],
        )
    _chair_back(b, w, d, h + thick, padded)
    _chair_legs(b, w, d, h)
    if b.chance(0.45):
        up, front = b.u(0.28, 0.42), b.u(0.3, 0.9) * d
        size = 0.16 if padded else 0.07
        for side in (-1, 1):
            x = side * (w - 0.02)
            b.box(3, (x, h + thick + up, (front - d) / 2), (size, 0.05, front + d))
            if padded:
                b.box(3, (x, h + up / 2, (front - d) / 2), (size, up + 0.2, front + d))
            else:
                b.rod(3, (x, h, front - 0.06), (x, h + thick + up, front - 0.06), 0.03)


def _chair_back(b: Builder, w: float, d: float, seat: float, padded: bool) -> None:
    tall, lean = b.u(0.65, 1.05), b.u(0.02, 0.22)
    kind = "solid" if padded else b.pick("solid", "slats", "bars", "round")
    z, top = -d + 0.04, seat + tall
    if kind == "solid":
        low = seat if padded else seat + b.u(0, 0.2)
        t, shrink = b.u(0.12, 0.18) if padded else 0.05, b.u(0.8, 1.02)
        start = z - lean * (low - seat) / tall
        sections = [(low, -w, w, start - t / 2, start + t / 2)]
        sections += [(top, -w * shrink, w * shrink, z - lean - t / 2, z - lean + t / 2)]
        b.prism(0, "y", sections)
        posts = () if low == seat else (-0.7 * w, 0.7 * w)
    elif kind == "round":
        middle = np.array([0, seat + 0.62 * tall, z - 0.62 * lean])
        turn = rotation("x", -np.degrees(np.arctan2(lean, tall)))
        b.ball(0, middle, (0.95 * w, 0.4 * tall, 0.045), turn=turn)
        posts = (-0.3 * w, 0.3 * w)
    else:
        posts = (-w + 0.04, w - 0.04)
        count = int(b.rng.integers(3, 6))
        for k in range(count):
            if kind == "slats":
                f = 0.25 + 0.75 * k / (count - 1)
                size = (2 * w - 0.04, 0.5 * tall / count, 0.035)
                b.box(0, (0, seat + f * (tall - 0.06), z - f * lean), size)
            else:
                x = (2 * (k + 1) / (count + 1) - 1) * (w - 0.04)
                b.rod(0, (x, seat - 0.02, z), (x, top, z - lean), 0.022, n=8)
        if kind == "bars":
            b.box(0, (0, top, z - lean), (2 * w, b.u(0.08, 0.2), 0.05))
    for x in posts:
        b.rod(0, (x, seat - 0.05, z), (x, top - 0.02, z - lean), 0.034, n=8)


def _chair_legs(b: Builder, w: float, d: float, h: float) -> None:
    kind = b.pick("four", "four", "four", "star", "sled")
    if kind == "star":
        b.rod(2, (0, 0.12, 0), (0, h, 0), 0.05)
        spokes = b.pick(4, 5, 5)
        reach, spin = b.u(0.4, 0.55), b.u(0, 90)
        for k in range(spokes):
            tip = move(
                np.array([[reach, 0.07, 0]]), rotation("y", spin + 360 * k / spokes)
            )
            b.rod(2, (0, 0.16, 0), tip[0], 0.045, 0.03, n=8)
            b.ball(2, tip[0] - (0, 0.02, 0), (0.05, 0.05, 0.05), _DARK, detail=1)
        return
    r, splay, taper = b.u(0.026, 0.05), b.u(0.0, 0.12), b.u(0.5, 1.0)
    square = b.chance(0.5)
    for sx in (-1, 1):
        for sz in (-1, 1):
            x, z = sx * (w - 0.07), sz * (d - 0.07)
            foot_x, foot_z = x + sx * splay, z + sz * splay
            if kind == "sled":
                foot_x, foot_z = x, sz * d
            if square and kind == "four":
                low, high = r * taper, r * 1.15
                foot = (0, foot_x - low, foot_x + low, foot_z - low, foot_z + low)
                b.prism(2, "y", [foot, (h, x - high, x + high, z - high, z + high)])
            else:
                b.rod(2, (foot_x, 0, foot_z), (x, h, z), r * taper, r, n=8)
        if kind == "sled":
            b.rod(2, (sx * (w - 0.07), 0.02, -d), (sx * (w - 0.07), 0.02, d), r, n=8)
        elif b.chance(0.3):
            y = b.u(0.25, 0.5) * h
            at = sx * (w - 0.07 + splay * (1 - y / h))
            b.rod(2, (at, y, -d + 0.07), (at, y, d - 0.07), 0.6 * r, n=6)


def lamp(b: Builder) -> None:
    """Parts: base, shade, tube, bulb or canopy."""
    kind = b.pick("table", "floor", "pendant", "desk", "table")
    b.colours[3] = (1.0, 0.93, 0.6)
    b.colours[1] = b.paint((0.75, 1.0))
    if kind == "desk":
        return _desk_lamp(b)
    wide = b.u(0.32, 0.55)
    narrow, deep = wide * b.u(0.3, 0.95), b.u(0.35, 0.6)
    if kind == "pendant":
        cord = b.u(0.4, 1.3)
        dome = b.chance(0.5)
        t = np.linspace(0.01, 1, 9)
        curve = np.sqrt(1 - (1 - t) ** 2) if dome else t
        shell = [(wide * c, deep * (1 - f)) for c, f in zip(curve, t, strict=True)]
        b.lathe(1, shell)
        b.lathe(1, [(x * 0.97, y) for x, y in shell], colour=b.shade_of(1, 1.1))
        b.rod(2, (0, 0.85 * deep, 0), (0, deep + cord, 0), 0.022, n=8)
        top = deep + cord
        b.lathe(
            3,
            [(0, top), (0.15, top), (0.13, top + 0.05), (0, top + 0.07)],
            colour=b.colours[0],
        )
        b.ball(3, (0, 0.22 * deep, 0), (0.13, 0.16, 0.13))
        if b.chance(0.5):  # the fitting above the shade
            b.rod(0, (0, 0.9 * deep, 0), (0, deep + 0.14, 0), 0.1, 0.05)
        return None
    tall = b.u(0.55, 1.0) if kind == "table" else b.u(1.5, 2.1)
    r = b.u(0.18, 0.32)
    vase = kind == "table" and b.chance(0.55)
    if vase:
        belly, neck = b.u(0.18, 0.34), 0.75 * tall
        t = np.linspace(0, 1, 9)
        power = b.u(0.6, 1.4)
        swell = np.sin(np.pi * t**power)
        body = [
            (0.09 * (1 - f) + 0.03 + belly * s, neck * f)
            for f, s in zip(t, swell, strict=True)
        ]
        b.lathe(0, [(0, 0), *body], n=24)
        b.rod(2, (0, neck, 0), (0, tall + 0.6 * deep, 0), 0.028)
    else:
        b.lathe(0, [(0, 0), (r, 0), (r, 0.04), (0.3 * r, b.u(0.06, 0.15)), (0, 0.15)])
        b.rod(2, (0, 0.04, 0), (0, tall + 0.6 * deep, 0), b.u(0.02, 0.04))
        if kind == "floor" and b.chance(0.3):
            for k in range(3):  # a tripod
                foot = move(np.array([[0.45, 0, 0]]), rotation("y", 120 * k))[0]
                b.rod(2, foot, (0, 0.6 * tall, 0), 0.03, n=8)
    shell = [(wide, tall), (narrow, tall + deep)]
    if b.chance(0.3):
        middle = 0.5 * (wide + narrow) * b.u(0.75, 1.2)
        shell = [(wide, tall), (middle, tall + deep / 2), (narrow, tall + deep)]
    b.lathe(1, shell, n=24)
    b.lathe(1, [(x * 0.97, y) for x, y in shell], colour=b.shade_of(1, 1.1), n=24)
    for radius, y in (shell[0], shell[-1]):
        b.ring(1, (0, y, 0), radius, 0.012, "y", b.shade_of(1, 0.6))
    b.ball(3, (0, tall + 0.6 * deep, 0), (0.09, 0.13, 0.09), detail=1)
    return None


def _desk_lamp(b: Builder) -> None:
    r, lower, upper = b.u(0.24, 0.34), b.u(0.6, 0.8), b.u(0.5, 0.7)
    b.lathe(0, [(0, 0), (r, 0), (r, 0.06), (0, 0.1)])
    tilt, reach = np.radians(b.u(8, 30)), np.radians(b.u(20, 60))
    elbow = np.array([0, 0.06 + lower * np.cos(tilt), -lower * np.sin(tilt)])
    wrist = elbow + point(0, upper * np.sin(reach), upper * np.cos(reach))
    for x in (-0.035, 0.035) if b.chance(0.5) else (0,):
        b.tube(2, [(x, 0.06, 0), elbow + point(x, 0, 0)], 0.024)
        b.tube(2, [elbow + point(x, 0, 0), wrist + point(x, 0, 0)], 0.024)
    b.ball(2, elbow, (0.06, 0.06, 0.06), detail=1)
    turn = rotation("x", b.u(-50, -15))
    wide, deep = b.u(0.2, 0.28), b.u(0.28, 0.4)
    t = np.linspace(0.0, 1, 7)
    angle = 2 * np.pi * np.arange(20) / 20
    rings = []
    for f in t:
        radius = 0.07 + (wide - 0.07) * np.sqrt(f) * (0.6 + 0.4 * f)
        ring = [radius * np.cos(angle), np.full(20, -deep * f), radius * np.sin(angle)]
        rings.append(move(np.stack(ring, axis=1), turn) + wrist)
    b.loft(1, rings, caps=False)
    b.loft(1, rings[:1] * 2)
    bulb = move(np.array([[0, -0.75 * deep, 0]]), turn)[0] + wrist
    b.ball(3, bulb, (0.1, 0.1, 0.1), detail=1)


def laptop(b: Builder) -> None:
    """Parts: keyboard, screen."""
    w, d, thick = b.u(0.65, 0.85), b.u(0.45, 0.58), b.u(0.02, 0.05)
    b.colours[1] = b.colours[0] if b.chance(0.7) else b.colours[1]
    b.box(0, (0, thick / 2, 0), (2 * w, thick, 2 * d))
    keys = _DARK if b.colours[0].mean() > 0.35 else (0.75, 0.75, 0.75)
    rows, columns = 5, 12
    left, right = -0.88 * w, 0.88 * w
    for row in range(rows):
        z = -0.72 * d + 0.17 * d * row
        step = (right - left) / columns
        wide_keys = (3, 4, 5, 6, 7, 8) if row == rows - 1 else ()
        for column in range(columns):
            if column in wide_keys[1:]:
                continue
            span = len(wide_keys) if column in wide_keys else 1
            x = left + step * (column + span / 2)
            size = (step * (span - 0.2), 0.016, 0.13 * d)
            b.box(0, (x, thick + 0.006, z), size, keys)
    pad = b.u(0.4, 0.6) * w
    b.box(0, (0, thick, 0.55 * d), (pad, 0.012, 0.42 * d), b.shade_of(0, 0.7))
    # The lid opens about the rear edge; 90 degrees is upright.
    tilt = rotation("x", -(b.u(80, 135) - 90))
    tall, lid = 2 * d * b.u(0.9, 1.05), b.u(0.025, 0.04)
    hinge = np.array([0, thick, -d])

    def on_lid(y: float, z: float) -> np.ndarray:
        return move(np.array([[0, y, z]]), tilt)[0] + hinge

    b.box(1, on_lid(tall / 2, 0), (2 * w, tall, lid), turn=tilt)
    bezel = b.u(0.04, 0.09)
    face = (2 * w - 2 * bezel, tall - 2 * bezel, 0.006)
    colour = b.pick((0.1, 0.12, 0.16), (0.25, 0.45, 0.7), b.paint())
    b.box(1, on_lid(tall / 2, lid / 2 + 0.004), face, colour, tilt)
    b.rod(1, (-0.6 * w, thick, -d), (0.6 * w, thick, -d), 0.03, colour=_DARK, n=8)


def table(b: Builder) -> None:
    """Parts: top, leg, support (an apron, a stretcher, a shelf or drawers)."""
    kind = b.pick("rectangle", "rectangle", "rectangle", "round", "desk")
    h, thick = b.u(0.4, 0.95), b.u(0.04, 0.1)
    w, d = b.u(0.55, 1.0), b.u(0.4, 0.6)
    b.colours[2] = b.shade_of(1, 0.8)
    if kind == "round":
        w = b.u(0.45, 0.75)
        d = w if b.chance(0.6) else 0.7 * w
        b.spine(0, "y", [(h, 0, 0, w, d), (h + thick, 0, 0, w, d)], n=28)
    else:
        b.box(0, (0, h + thick / 2, 0), (2 * w, thick, 2 * d))
    if kind == "round" and b.chance(0.6):
        r = b.u(0.06, 0.1)
        b.lathe(1, [(1.6 * r, 0.05), (r, 0.25 * h), (r, 0.7 * h), (1.8 * r, h)])
        reach = 0.6 * d
        if b.chance(0.5):
            b.lathe(1, [(0, 0), (reach, 0), (reach, 0.04), (1.5 * r, 0.08)])
        else:
            for k in range(4):
                tip = move(np.array([[reach, 0.03, 0]]), rotation("y", 45 + 90 * k))[0]
                b.rod(1, (0, 0.2 * h, 0), tip, 0.06, 0.03, n=8)
        if b.chance(0.5):
            b.lathe(2, [(0.5 * d, h - 0.05), (0.5 * d, h)], caps=True)
        return
    inset = 0.35 if kind == "round" else b.u(0.05, 0.12)
    x, z = w - inset * (0.75 if kind == "round" else 1), d - inset
    if kind == "round":
        x, z = 0.62 * w, 0.62 * d
    r, taper, splay = b.u(0.03, 0.065), b.u(0.45, 1), b.u(0, 0.06)
    panel = kind == "desk" and b.chance(0.4)
    for sx in (-1, 1):
        if panel:
            b.box(1, (sx * x, h / 2, 0), (0.06, h, 2 * z))
            continue
        for sz in (-1, 1):
            low, foot_x, foot_z = r * taper, sx * (x + splay), sz * (z + splay)
            foot = (0, foot_x - low, foot_x + low, foot_z - low, foot_z + low)
            head = (h, sx * x - r, sx * x + r, sz * z - r, sz * z + r)
            if kind == "round":
                b.rod(1, (foot_x, 0, foot_z), (sx * x, h, sz * z), low, r, n=8)
            else:
                b.prism(1, "y", [foot, head])
    if kind == "desk":
        drawer, knob = b.u(0.22, 0.34) * w, (0.85, 0.8, 0.6)
        deep = b.u(0.35, 0.85) * h
        for side in (-1, 1) if b.chance(0.5) else (1,):
            at = side * (x - drawer)
            b.box(2, (at, h - deep / 2, 0), (2 * drawer, deep, 1.9 * z))
            for k in range(3):
                y = h - deep * (k + 0.5) / 3
                b.box(
                    2,
                    (at, y, 0.96 * z),
                    (1.8 * drawer, 0.26 * deep, 0.02),
                    b.colours[0],
                )
                b.ball(2, (at, y, 0.98 * z), (0.025, 0.025, 0.03), knob, detail=1)
        return
    if b.chance(0.6):
        apron = b.u(0.06, 0.13)
        for side in (-1, 1):
            b.box(2, (0, h - apron / 2, side * z), (2 * x, apron, 0.03))
            b.box(2, (side * x, h - apron / 2, 0), (0.03, apron, 2 * z))
    extra = b.pick("none", "shelf", "stretcher")
    y = b.u(0.12, 0.4) * h
    if extra == "shelf":
        b.box(2, (0, y, 0), (2 * x, 0.035, 2 * z))
    elif extra == "stretcher":
        for side in (-1, 1):
            b.rod(2, (side * x, y, -z), (side * x, y, z), 0.025, n=8)
        b.rod(2, (-x, y, 0), (x, y, 0), 0.025, n=8)
