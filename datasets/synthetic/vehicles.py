"""Procedural cars, motorbikes and skateboards.

Each function adds the pieces of one random shape to a builder; part labels count from 0
within the category. Fronts point to +z.
"""

from __future__ import annotations

import numpy as np

from datasets.synthetic.parts import Builder, arc, move, point, rotation

_DARK = (0.13, 0.13, 0.15)
_GLASS = (0.2, 0.26, 0.33)
_METAL = (0.72, 0.73, 0.76)


def car(b: Builder) -> None:
    """Parts: roof, hood, wheel, body."""
    kind = b.pick("sedan", "sedan", "hatch", "suv", "van", "pickup", "sports")
    b.colours[2] = (0.12, 0.12, 0.13)
    b.colours[0] = b.colours[3] if b.chance(0.8) else b.colours[0]
    b.colours[1] = b.shade_of(3, 0.93)
    w = b.u(0.38, 0.46)
    wheel = b.u(0.165, 0.2) * (1.15 if kind in ("suv", "pickup") else 1)
    clear = 0.55 * wheel
    belt = (
        clear
        + b.u(0.27, 0.33)
        + {"van": 0.08, "suv": 0.08, "sports": -0.07}.get(kind, 0)
    )
    roof = belt + b.u(0.24, 0.3) + {"van": 0.16, "sports": -0.06}.get(kind, 0)
    # Cabin along z: windscreen foot and top, rear window top and foot.
    foot, top, rear_top, rear_foot = {
        "sedan": (b.u(0.35, 0.45), 0.1, -0.42, b.u(-0.72, -0.6)),
        "hatch": (b.u(0.38, 0.5), 0.12, -0.68, -0.9),
        "suv": (b.u(0.38, 0.5), 0.2, -0.86, -0.95),
        "van": (b.u(0.7, 0.8), 0.5, -0.92, -0.96),
        "pickup": (b.u(0.4, 0.5), 0.22, -0.12, -0.2),
        "sports": (b.u(0.3, 0.4), -0.08, -0.35, b.u(-0.8, -0.7)),
    }[kind]
    droop = b.u(0.02, 0.09) + (0.05 if kind == "sports" else 0)
    nose = belt - droop
    middle, tall = (clear + belt) / 2, (belt - clear) / 2
    low = (clear + nose) / 2, (nose - clear) / 2
    shell = [
        (1.0, 0, low[0] - 0.02, 0.86 * w, 0.75 * low[1]),
        (0.93, 0, low[0], w, low[1]),
    ]
    shell += [(foot, 0, middle, w, tall), (-0.9, 0, middle, w, tall)]
    shell += [(-1.0, 0, middle, 0.9 * w, 0.8 * tall)]
    b.spine(3, "z", shell, n=20, power=6)
    inset = 0.8 * w
    b.prism(
        3,
        "y",
        [
            (belt - 0.03, -0.97 * w, 0.97 * w, rear_foot, foot),
            (roof, -inset, inset, rear_top, top),
        ],
        _GLASS,
    )
    edge = [(roof - 0.01, -inset - 0.01, inset + 0.01, rear_top - 0.02, top + 0.03)]
    edge += [(roof + 0.03, 0.03 - inset, inset - 0.03, rear_top + 0.03, top - 0.04)]
    b.prism(0, "y", edge)
    pillars = [(foot, top), (rear_foot, rear_top), (0.5 * (foot + rear_foot),) * 2]
    for side in (-1, 1):
        for bottom_z, top_z in pillars:
            ends = (
                (side * 0.975 * w, belt - 0.02, bottom_z),
                (side * inset, roof, top_z),
            )
            b.rod(3, *ends, 0.022, n=6)
    hood = [(foot + 0.01, -0.86 * w, 0.86 * w, belt - 0.03, belt + 0.012)]
    hood += [(0.93, -0.8 * w, 0.8 * w, nose - 0.04, nose + 0.008)]
    b.prism(1, "z", hood)
    if kind == "pickup":
        b.box(3, (0, belt - 0.015, -0.58), (1.6 * w, 0.04, 0.68), _DARK)
        for side in (-1, 1):
            b.box(3, (side * 0.9 * w, belt + 0.04, -0.58), (0.2 * w, 0.1, 0.78))
        b.box(3, (0, belt + 0.04, -0.95), (1.8 * w, 0.1, 0.06))
    for side in (-1, 1):
        for z in (b.u(0.57, 0.6), -0.58):
            arch = [(side * (w - 0.02), z, wheel, 1.2 * wheel, 1.2 * wheel)]
            arch += [(side * (w + 0.004), z, wheel, 1.2 * wheel, 1.2 * wheel)]
            b.spine(3, "x", arch, b.shade_of(3, 0.35), n=18)
            b.wheel(2, (side * (w - 0.02), wheel, z), wheel, 0.14)
        lamp_y = clear + 0.62 * (nose - clear)
        b.box(
            3, (side * 0.66 * w, lamp_y, 0.985), (0.3 * w, 0.07, 0.05), (1, 0.95, 0.7)
        )
        b.box(
            3,
            (side * 0.72 * w, middle + 0.05, -0.99),
            (0.25 * w, 0.08, 0.05),
            (0.8, 0, 0),
        )
    b.box(3, (0, clear + 0.55 * (nose - clear), 0.985), (0.8 * w, 0.08, 0.04), _DARK)
    if kind == "sports" and b.chance(0.6):
        b.box(3, (0, belt + 0.1, -0.92), (1.8 * w, 0.02, 0.12))
        for x in (-0.6 * w, 0.6 * w):
            b.box(3, (x, belt + 0.03, -0.92), (0.03, 0.14, 0.06))


def motorbike(b: Builder) -> None:
    """Parts: gas tank, seat, wheel, handle, light, frame."""
    b.colours[1], b.colours[2], b.colours[3] = _DARK, (0.15,) * 3, (0.25,) * 3
    b.colours[4], b.colours[5] = (
        (0.95, 0.9, 0.7),
        b.pick((0.5,) * 3, (0.3,) * 3, b.paint()),
    )
    r, fat = b.u(0.3, 0.36), b.u(0.05, 0.085)
    rake, front, rear = b.u(0.18, 0.4), b.u(0.66, 0.8), -0.62
    neck = np.array([0, b.u(0.68, 0.8), front - rake])
    for z in (front, rear):
        b.ring(2, (0, r, z), r - fat, fat, n=22)
        b.ring(2, (0, r, z), r - 2.1 * fat, 0.025, colour=_METAL)
        for k in range(5):
            angle = np.pi * k / 5
            arm = (r - 2 * fat) * np.array([0, np.sin(angle), np.cos(angle)])
            b.rod(
                2, point(0, r, z) - arm, point(0, r, z) + arm, 0.014, colour=_METAL, n=5
            )
        b.rod(2, (-0.09, r, z), (0.09, r, z), 0.05, colour=_METAL, n=8)
    for x in (-0.1, 0.1):
        b.rod(5, (x, r, front), neck + point(x, 0.02, 0), 0.026, colour=_METAL, n=8)
        b.rod(5, (x, r, rear), (x, 0.38, -0.12), 0.03, n=8)
        b.rod(5, (x, r + 0.02, rear), (x, 0.62, -0.42), 0.025, n=8)
        path = np.array([neck, (x, 0.3, 0.24), (x, 0.2, 0), (x, 0.38, -0.2)])
        b.tube(5, path, 0.028)
    b.rod(5, neck - (0, 0.08, 0), (0, 0.55, -0.5), 0.035, n=8)
    b.box(5, (0, 0.33, 0.02), (0.2, 0.2, 0.34), (0.35, 0.35, 0.37))
    b.rod(5, (0, 0.38, 0.06), (0, 0.6, 0.14), 0.09, colour=_METAL, n=10)
    if b.chance(0.6):
        b.rod(5, (0, 0.38, -0.02), (0, 0.6, -0.12), 0.09, colour=_METAL, n=10)
    rise = b.u(0, 0.2)
    pipe = [(0.13, 0.45, 0.16), (0.15, 0.2, 0.12), (0.16, 0.18, -0.3)]
    b.tube(5, [*pipe, (0.17, 0.22 + rise, -0.95)], [0.03, 0.03, 0.04, 0.05], _METAL)

    tank_y, tank_z = neck[1] - 0.02, neck[2] - 0.26
    tank = [
        (tank_z + 0.26, 0, tank_y, 0.05, 0.06),
        (tank_z + 0.18, 0, tank_y + 0.02, 0.13, 0.1),
    ]
    tank += [(tank_z, 0, tank_y, b.u(0.13, 0.18), b.u(0.1, 0.14))]
    tank += [(tank_z - 0.22, 0, tank_y - 0.06, 0.08, 0.06)]
    b.spine(0, "z", tank, n=14, power=2.4)
    start = tank_z - 0.16
    kick, back = b.u(0.0, 0.16), b.u(-0.75, -0.6)
    seat = [(start, 0, tank_y - 0.08, 0.09, 0.05)]
    seat += [(start - 0.16, 0, tank_y - 0.13, 0.13, 0.05)]
    seat += [(back + 0.15, 0, tank_y - 0.1 + kick / 2, 0.12, 0.055)]
    seat += [(back, 0, tank_y - 0.06 + kick, 0.08, 0.03)]
    b.spine(1, "z", seat, n=12, power=3)

    up, pull, half = b.u(0.06, 0.3), b.u(0.1, 0.28), b.u(0.3, 0.4)
    for side in (-1, 1):
        grip = neck + point(side * half, up, -pull)
        bend = neck + point(side * 0.6 * half, up, -0.3 * pull)
        b.tube(3, [neck + point(0, 0.03, 0), bend, grip], 0.022, _METAL)
        b.rod(3, grip + point(-side * 0.12, 0, 0.03), grip, 0.034, n=8)
        if b.chance(0.5):
            b.rod(3, bend, bend + point(side * 0.08, 0.14, 0), 0.01, n=6)
            b.ball(3, bend + point(side * 0.08, 0.16, 0), (0.06, 0.04, 0.012), detail=1)
    lamp = neck + point(0, -0.03, 0.12)
    b.ball(4, lamp, (0.09, 0.09, 0.07))
    b.spine(
        4,
        "z",
        [(lamp[2] - 0.09, 0, lamp[1], 0.05, 0.05), (lamp[2], 0, lamp[1], 0.095, 0.095)],
        _METAL,
    )
    for z, start_angle in ((front, b.u(20, 50)), (rear, b.u(40, 70))):
        guard = arc((0, 0, 0), (r + 0.045,) * 2, start_angle, start_angle + 100, 8)
        # The arc lies in x-y; a quarter turn about y puts it into the wheel's plane.
        guard = move(guard, rotation("y", 90)) + point(0, r, z)
        b.tube(5, guard, 0.075, b.colours[0], flat=0.25)
    if b.chance(0.35):
        screen = [
            neck + point(x, y, z)
            for x, y, z in (
                (-0.13, 0, 0.2),
                (0.13, 0, 0.2),
                (0.09, 0.25, 0.06),
                (-0.09, 0.25, 0.06),
            )
        ]
        b.plate(5, screen, (0, 0.012, 0.012), b.colours[0])


def skateboard(b: Builder) -> None:
    """Parts: wheel, deck, truck."""
    w, kick, flat = b.u(0.22, 0.3), b.u(0.05, 0.2), b.u(0.55, 0.72)
    roundness = b.u(2.2, 5)
    thick, high = 0.025, 0.21
    grip = b.pick(b.shade_of(1, 0.6), (0.18, 0.18, 0.2))
    base, top = [], []
    for t in np.sin(np.linspace(-np.pi / 2, np.pi / 2, 21)):
        half = w * max(1 - abs(t) ** roundness, 0.0) ** 0.5 + 0.015
        y = high + kick * max((abs(t) - flat) / (1 - flat), 0) ** 1.5
        base.append((t, -half, half, y - thick, y + thick))
        top.append((t, -0.97 * half, 0.97 * half, y + thick, y + thick + 0.008))
    b.prism(1, "z", base)
    b.prism(1, "z", top, grip)
    for z in (flat, -flat):
        if b.chance(0.8):
            b.box(1, (0, high + thick + 0.008, z * 0.85), (0.1, 0.012, 0.14), _METAL)
    r, wide = b.u(0.07, 0.105), b.u(0.08, 0.12)
    place, reach = flat * b.u(0.82, 0.95), w * b.u(0.8, 1.0)
    b.colours[2] = _METAL
    for z in (-place, place):
        b.box(2, (0, high - 0.04, z), (0.14, 0.03, 0.2))
        b.prism(
            2,
            "y",
            [
                (r - 0.02, -0.12, 0.12, z - 0.03, z + 0.03),
                (high - 0.03, -0.04, 0.04, z - 0.05, z + 0.05),
            ],
        )
        b.rod(2, (-reach, r, z), (reach, r, z), 0.025, n=8)
        for side in (-1, 1):
            b.wheel(0, (side * reach, r, z), r, wide, hub=_DARK, n=14)
