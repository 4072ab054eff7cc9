"""Procedural airplanes, cars, motorbikes, rockets and skateboards.

Fronts point to +z, rockets up.
"""

import numpy as np

from datasets.synthetic.primitives import (
    DARK,
    GLASS,
    METAL,
    Builder,
    arc,
    rotate,
    rotation,
    spokes,
)


def airplane(b: Builder) -> None:
    """Body, wing, tail and engine (optional) of a jet, propeller plane or fighter."""
    body, wing, tail, engine = range(4)
    kind, r = b.pick("jet", "jet", "prop", "fighter"), b.u(0.08, 0.13)
    nose, shoulder, end, cockpit, chord, span, sweep = {
        "jet": (0.35, 0.85, 0.2, 0.86, b.u(0.3, 0.42), b.u(0.8, 1.05), b.u(0.3, 0.6)),
        "prop": (0.75, 0.8, 0.2, 0.35, b.u(0.26, 0.36), b.u(0.85, 1.1), b.u(0, 0.1)),
        "fighter": (0.1, 0.6, 0.75, 0.45, b.u(0.7, 1), b.u(0.45, 0.7), b.u(0.5, 0.75)),
    }[kind]
    shape = [(1, nose), (shoulder, 1), (b.u(-0.3, -0.05), 1), (-1, end)]
    b.loft(body, "z", [(z, 0, 0.2 * r * (1 - f), f * r, f * r) for z, f in shape])
    b.ball(body, (0, 0.55 * r, cockpit), (0.6 * r, 0.6 * r, 0.6 * r + 0.08), GLASS)
    front, y = b.u(0.2, 0.4), b.pick(-0.55, -0.55, 0.7) * r
    tip, rise, depth = chord * b.u(0.1, 0.5), b.u(0, 0.12), b.u(0.2, 0.28)
    fin, half, back = b.u(0.24, 0.36), b.u(0.28, 0.42), b.u(-1.1, -0.98)
    level = fin if kind == "jet" and b.chance(0.25) else 0.3 * r
    for side in (-1, 1):
        root = (0, front - chord / 2, y, chord / 2, 0.2 * r)
        outer = (side * span, front - sweep - tip / 2, y + rise, tip / 2, 0.01)
        b.slab(wing, "x", [root, outer])
        root = (0, -0.88, level, depth / 2, 0.016)
        b.slab(tail, "x", [root, (side * half, back, level, depth / 4, 0.008)])
    for x in b.pick((0,), (-0.8 * r, 0.8 * r)) if kind == "fighter" else (0,):
        root = (0, x, -0.86, 0.018, depth / 2)
        b.slab(tail, "y", [root, (fin, x, back, 0.01, depth / 4)])
    if kind == "prop":
        hub = [(0.95, 0, 0, 0.8 * r, 0.8 * r), (1.1, 0, 0, 0.03, 0.03)]
        b.loft(engine, "z", hub, METAL)
        turn, blade = rotation("z", b.u(0, 180)), (0.045, b.u(0.4, 0.6), 0.02)
        for extra in b.pick((0,), (0, 90)):
            b.box(engine, (0, 0, 1.04), blade, DARK, turn @ rotation("z", extra))
    elif b.chance(0.85):
        size, long = b.u(0.4, 0.6) * r, b.u(0.2, 0.32)
        f = b.u(0.28, 0.5)
        at, y, z = f * span, y + f * rise - 1.15 * size, front - f * sweep + 0.1
        if kind == "fighter":
            at, y, z = b.u(0, 0.5) * r, 0.0, -0.85
        elif b.chance(0.25):  # beside the tail
            at, y, z = r + 1.1 * size, 0.45 * r, -0.4
        for x in sorted({-at, at}):
            shape = [(z, 0.85), (z - 0.08, 1), (z - long, 0.6)]
            b.loft(engine, "z", [(t, x, y, g * size, g * size) for t, g in shape])


def car(b: Builder) -> None:
    """Roof, hood, wheels, body."""
    roof, hood, wheel, body = range(4)
    b.colours[wheel], b.colours[hood] = DARK, b.shade(body, 0.93)
    if b.chance(0.8):
        b.colours[roof] = b.colours[body]
    # Along z: foot and top of the windscreen, top and foot of the rear window. Then the
    # additional height of the body and of the cabin.
    kinds = {
        "sedan": (0.4, 0.1, -0.42, -0.66, 0, 0),
        "hatch": (0.44, 0.12, -0.68, -0.9, 0, 0),
        "suv": (0.44, 0.2, -0.86, -0.95, 0.08, 0),
        "van": (0.75, 0.5, -0.92, -0.96, 0.08, 0.16),
        "pickup": (0.45, 0.22, -0.12, -0.2, 0.03, 0),
        "sports": (0.35, -0.08, -0.35, -0.75, -0.07, -0.06),
    }
    kind = b.pick(*kinds)
    foot, top, rear_top, rear, lift, extra = kinds[kind]
    foot, w, r = foot + b.u(-0.05, 0.05), b.u(0.38, 0.46), b.u(0.165, 0.22)
    low, belt = 0.55 * r, 0.55 * r + b.u(0.27, 0.33) + lift
    high, nose = belt + b.u(0.24, 0.3) + extra, belt - b.u(0.02, 0.12)
    half, front = (belt - low) / 2, (nose - low) / 2
    y = low + front
    shape = [(1, 0, y, 0.88 * w, 0.75 * front), (0.93, 0, y, w, front)]
    shape += [(foot, 0, low + half, w, half), (-0.9, 0, low + half, w, half)]
    b.loft(body, "z", [*shape, (-1, 0, low + half, 0.9 * w, 0.8 * half)], power=6)
    lid = (0, (top + rear_top) / 2, 0.81 * w, (top - rear_top) / 2)
    glass = (belt - 0.03, 0, (foot + rear) / 2, 0.97 * w, (foot - rear) / 2)
    b.slab(body, "y", [glass, (high, *lid)], GLASS)
    b.slab(roof, "y", [(high - 0.01, *lid), (high + 0.03, *lid)])
    b.slab(hood, "z", [(foot, 0, belt, 0.86 * w, 0.02), (0.93, 0, nose, 0.8 * w, 0.02)])
    b.box(body, (0, nose - 0.5 * front, 0.985), (1.5 * w, 0.08, 0.04), METAL)
    for side in (-1, 1):
        for z in (b.u(0.56, 0.6), -0.58):
            b.wheel(wheel, (side * (w - 0.02), r, z), r, 0.14)
        for z, z_top in ((foot, top), (rear, rear_top)):
            pillar = [(side * 0.97 * w, belt, z), (side * 0.81 * w, high, z_top)]
            b.tube(body, pillar, 0.022)
        b.ball(body, (side * 0.72 * w, belt - half, -0.98), 0.05, (0.8, 0, 0))
        if kind == "pickup":
            b.box(body, (side * 0.9 * w, belt + 0.04, -0.58), (0.2 * w, 0.1, 0.78))
    if kind == "sports" and b.chance(0.6):
        b.box(body, (0, belt + 0.1, -0.92), (1.8 * w, 0.02, 0.12))
        b.box(body, (0, belt + 0.03, -0.92), (1.2 * w, 0.14, 0.03))


def motorbike(b: Builder) -> None:
    """Gas tank, seat, wheels, handlebar, light, frame."""
    tank, seat, wheel, handle, light, frame = range(6)
    b.colours[[seat, wheel, handle, light]] = [DARK, DARK, METAL, (0.95, 0.9, 0.7)]
    b.colours[frame] = b.pick((0.5,) * 3, (0.3,) * 3, b.paint())
    r, fat, front, rear = b.u(0.3, 0.36), b.u(0.05, 0.085), b.u(0.66, 0.8), -0.62
    neck = np.array([0, b.u(0.68, 0.8), front - b.u(0.18, 0.4)])
    for z, start in ((front, b.u(20, 50)), (rear, b.u(40, 70))):
        hub, inner = (0, r, z), r - fat
        b.tube(wheel, arc("zy", hub, (inner, inner), 0, 360), fat)
        for angle in np.pi * np.arange(5) / 5:
            spoke = inner * np.array([0, np.sin(angle), np.cos(angle)])
            b.tube(wheel, [hub - spoke, hub + spoke], 0.016, METAL, n=5)
        guard = arc("zy", hub, (r + 0.045, r + 0.045), start, start + 100)
        b.tube(frame, guard, 0.075, b.colours[tank], flat=0.25)
    for x in (-0.1, 0.1):
        b.tube(frame, [(x, r, front), neck + np.array([x, 0.02, 0])], 0.026, METAL)
        b.tube(frame, [(x, r, rear), (x, 0.38, -0.12)], 0.03)
        b.tube(frame, [(x, r, rear), (x, 0.62, -0.42)], 0.025)
        b.tube(frame, [neck, (x, 0.3, 0.24), (x, 0.2, 0), (x, 0.38, -0.2)], 0.028)
    b.tube(frame, [neck, (0, 0.55, -0.5)], 0.035)
    b.box(frame, (0, 0.33, 0.02), (0.2, 0.2, 0.34), (0.35, 0.35, 0.37))
    for z in b.pick((0.12,), (-0.1, 0.12)):
        b.tube(frame, [(0, 0.38, z / 2), (0, 0.6, z)], 0.09, METAL)
    exhaust = [(0.13, 0.45, 0.16), (0.15, 0.2, 0.12), (0.17, 0.22 + b.u(0, 0.2), -0.95)]
    b.tube(frame, exhaust, [0.03, 0.03, 0.05], METAL)
    _, y, z = neck - (0, 0.02, 0.26)
    wide, kick, back = b.u(0.13, 0.18), b.u(0, 0.16), b.u(-0.75, -0.6)
    shape = [(z + 0.26, 0, y, 0.05, 0.06), (z + 0.18, 0, y + 0.02, 0.13, 0.1)]
    shape += [(z, 0, y, wide, b.u(0.1, 0.14)), (z - 0.22, 0, y - 0.06, 0.08, 0.06)]
    b.loft(tank, "z", shape, power=2.4)
    shape = [(z - 0.16, 0, y - 0.08, 0.09, 0.05), (z - 0.32, 0, y - 0.13, 0.13, 0.05)]
    b.loft(seat, "z", [*shape, (back, 0, y - 0.06 + kick, 0.08, 0.03)], power=3)
    up, pull, half = b.u(0.06, 0.3), b.u(0.1, 0.28), b.u(0.3, 0.4)
    mirrors = b.chance(0.5)
    for side in (-1, 1):
        grip, bend = (np.array([side * f * half, up, -f * f * pull]) for f in (1, 0.6))
        b.tube(handle, [neck, neck + bend, neck + grip], [0.022, 0.022, 0.034])
        if mirrors:
            b.ball(handle, neck + bend + (0, 0.14, 0), (0.06, 0.04, 0.012))
            b.tube(handle, [neck + bend, neck + bend + np.array([0, 0.14, 0])], 0.01)
    b.ball(light, neck - (0, 0.03, -0.1), (0.09, 0.09, 0.1))


def rocket(b: Builder) -> None:
    """Body, fins and nose of a missile, a bulging rocket or one with boosters."""
    body, fin, nose = range(3)
    kind = b.pick("missile", "bulging", "boosters")
    bulging = kind == "bulging"
    r = b.u(0.2, 0.3) if bulging else b.u(0.09, 0.17)
    waist, top = (b.u(0.5, 0.75), b.u(0.75, 0.95)) if bulging else (b.u(0.9, 1), 1)
    tall, cone, curve = b.u(1.2, 1.6), b.u(1.6, 3.2) * r, b.u(1, 2.2)
    radii = np.array([0, waist, (1 + waist) / 2, 1, top]) * r
    b.lathe(body, np.stack([radii, np.array([0, 0, 0.2, 0.45, 1]) * tall], axis=1))
    b.lathe(body, [(0.4 * r, 0.02), (0.6 * r, -b.u(0.08, 0.16))], colour=DARK)
    t = np.linspace(0, 1, 8)
    tip = [top * r * (1 - t**curve), tall + cone * t]
    b.lathe(nose, np.stack(tip, axis=1))
    for y in ((), (0.25,), (0.25, 0.45))[b.pick(0, 1, 2)]:
        b.lathe(body, [(1.02 * r, y * tall), (1.02 * r, y * tall + 0.06)], colour=GLASS)
    count, spin, root = b.pick(3, 4, 4), b.u(0, 90), b.u(0.3, 0.5)
    drop, inside, x = b.u(-0.15, 0.12), 0.5 * waist * r, waist * r + b.u(0.18, 0.4)
    outline = np.zeros((4, 3))
    outline[:, 0] = inside, x, x, inside
    outline[:, 1] = root, b.u(0.1, 0.5) * root - drop, -drop, 0
    canard = 0.6 * outline + (0.4 * r, 0.75 * tall, 0)
    fins = [outline, canard] if kind == "missile" and b.chance(0.6) else [outline]
    for k in range(count):
        turn = rotation("y", spin + 360 * k / count)
        for plate in fins:
            b.plate(fin, rotate(plate, turn), rotate((0, 0, 0.03), turn))
    if kind == "boosters":
        w, h = b.u(0.4, 0.6) * r, b.u(0.45, 0.75) * tall
        for at in spokes(b.pick(2, 4), (r + w, 0, 0), 45):
            b.lathe(body, [(0.6 * w, -0.06), (w, 0.02), (w, h)], at)
            b.lathe(nose, [(w, h), (0.6 * w, h + w), (0, h + 2 * w)], at)


def skateboard(b: Builder) -> None:
    """Wheels, deck, trucks (the axles with their mounts)."""
    wheel, deck, truck = range(3)
    w, kick, flat = b.u(0.22, 0.3), b.u(0.05, 0.2), b.u(0.55, 0.72)
    high, thick, power = 0.21, 0.025, b.u(2.2, 5)
    b.colours[truck] = METAL
    t = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 21))
    half = w * np.sqrt(np.maximum(1 - np.abs(t) ** power, 0)) + 0.015
    y = high + kick * np.maximum((np.abs(t) - flat) / (1 - flat), 0) ** 1.5
    grip = b.pick(b.shade(deck, 0.6), (0.18, 0.18, 0.2))
    for rise, scale, tall, colour in ((0, 1, thick, None), (thick, 0.97, 0.006, grip)):
        shape = [t, 0 * t, y + rise, scale * half, tall + 0 * t]
        b.slab(deck, "z", np.stack(shape, axis=1), colour)
    r, wide, reach = b.u(0.07, 0.105), b.u(0.08, 0.12), w * b.u(0.8, 1)
    place = flat * b.u(0.82, 0.95)
    for z in (-place, place):
        mount = [(r - 0.02, 0, z, 0.12, 0.03), (high - 0.03, 0, z, 0.05, 0.1)]
        b.slab(truck, "y", mount)
        b.tube(truck, [(-reach, r, z), (reach, r, z)], 0.025)
        for side in (-reach, reach):
            b.wheel(wheel, (side, r, z), r, wide)
