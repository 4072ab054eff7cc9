"""Procedural bags, caps, earphones, guitars, knives, mugs and pistols."""

import numpy as np

from datasets.synthetic.primitives import DARK, GOLD, METAL, Builder, arc


def bag(b: Builder) -> None:
    """Handle and body of a handbag, tote bag or briefcase."""
    handle, body = range(2)
    kind = b.pick("handbag", "handbag", "tote", "briefcase")
    w, h, d = b.u(0.45, 0.65), b.u(0.5, 0.8), b.u(0.14, 0.26)
    if b.chance(0.6):
        b.colours[handle] = b.shade(body, 0.6)
    if kind == "briefcase":
        seam = (0.03, 1.03, b.shade(body, 0.6))
        for half, grow, colour in ((0.7 * d, 1, None), seam):
            ends = [(z, 0, h / 2, w * grow, h / 2 * grow) for z in (-half, half)]
            b.loft(body, "z", ends, colour, power=8)
        x, y = b.u(0.2, 0.3) * w + 0.06, h + b.u(0.12, 0.2)
        b.tube(handle, [(-x, h, 0), (-x, y, 0), (x, y, 0), (x, h, 0)], 0.035)
        return
    top, pinch, power = b.u(0.65, 0.95), b.u(0.25, 0.5), 5
    if kind == "tote":
        w, h, top, pinch, power = 0.85 * w, 1.4 * h, b.u(0.95, 1.15), 1, 100
        # A dark sheet on the closed top looks like the opening.
        mouth = (1.92 * w * top, 0.01, 1.86 * d)
        b.box(body, (0, h + 0.004, 0), mouth, b.shade(body, 0.35))
    elif b.chance(0.65):
        drop, x = b.u(0.35, 0.6) * h, top * w
        flap = [(-x, h, pinch * d), (x, h, pinch * d)]
        flap += [(0.95 * x, h - drop, 0.93 * d), (-0.95 * x, h - drop, 0.93 * d)]
        b.plate(body, flap, (0, 0.01, 0.05), b.shade(body, 0.7))
        b.box(body, (0, h - drop, 0.95 * d), (0.12, 0.12, 0.05), GOLD)
    ends = [(0, 0, 0, w, d), (h, 0, 0, top * w, pinch * d)]
    b.loft(body, "y", ends, power=power)
    reach, up, gap = b.u(0.4, 0.7) * top * w, b.u(0.25, 0.6), b.pick(0, 0.08)
    gap = 0.75 * d if kind == "tote" else gap
    fat, flat = b.u(0.018, 0.035), b.u(1, 1.6)
    for z in sorted({-gap, gap}):
        b.tube(handle, arc("xy", (0, h - 0.03, z), (reach, up), 0, 180), fat, flat=flat)


def cap(b: Builder) -> None:
    """Panels and peak of a baseball cap."""
    panels, peak = range(2)
    high, long, boxy = b.u(0.62, 0.9), b.u(1, 1.2), b.u(0.55, 0.85)
    if b.chance(0.4):
        b.colours[peak] = b.colours[panels]
    rise = np.radians(np.linspace(0, 90, 10))
    out, up = np.maximum(np.cos(rise), 0) ** boxy, high * np.sin(rise)
    dome = [(y, 0, 0, r, long * r) for y, r in zip(up, out, strict=True)]
    b.loft(panels, "y", dome, n=36, caps=False)
    for phi in np.radians(np.arange(0, 360, 60)):
        seam = np.stack([out * np.sin(phi), up, long * out * np.cos(phi)], axis=1)
        b.tube(panels, 1.005 * seam, 0.012, b.shade(panels, 0.5), n=5)
    b.ball(panels, (0, high, 0), (0.08, 0.05, 0.08), b.colours[peak])
    reach, droop, bend = b.u(0.65, 1), b.u(0.05, 0.3), b.u(0, 0.3)
    width, s, rings = np.radians(b.u(62, 80)), np.linspace(0, 1, 7), []
    for f in np.linspace(-1, 1, 15):
        z = long * np.cos(f * width) + s * reach * np.cos(f * 0.499 * np.pi) ** 0.7
        x, y = np.sin(f * width) + 0 * s, -droop * s**2 - bend * f**2 * s
        top = np.stack([x, y, z], axis=1)
        rings.append(np.concatenate([top, top[::-1] - (0, 0.04, 0)]))
    b.rings(peak, rings)


def earphone(b: Builder) -> None:
    """Earphones; headband (of headphones); wire (optional on headphones)."""
    earphone, headband, wire = range(3)
    b.colours[wire] = b.pick(DARK, (0.85, 0.85, 0.85))
    t, sway, drop, y = np.linspace(0, 1, 13), b.u(0.05, 0.3), b.u(0.5, 0.9), -0.12
    if b.chance(0.15):
        r = b.u(0.13, 0.18)
        for x in b.u(0.3, 0.5) * np.array([-1, 1]):
            b.ball(earphone, (x, 0, 0), (0.8 * r, r, r))
            b.ball(earphone, (0.75 * x, 0, 0.5 * r), 0.6 * r, DARK)
            b.tube(earphone, [(x, 0, 0), (x, -0.4, 0)], [0.05, 0.04])
            path = [x * (1 - t**2), -0.4 - drop * t, 0.1 * np.sin(np.pi * t)]
            b.tube(wire, np.stack(path, axis=1), 0.018)
        path = [sway * np.sin(5 * t), -0.4 - drop - 0.7 * t, 0 * t]
        b.tube(wire, np.stack(path, axis=1), 0.02)
        return
    w, h, flat, fat = b.u(0.55, 0.68), b.u(0.75, 0.95), b.u(1, 3), b.u(0.03, 0.05)
    b.tube(headband, arc("xy", (0, 0, 0), (w, h), -8, 188), fat, flat=flat)
    r, thick, oval = b.u(0.22, 0.34), b.u(0.09, 0.16), b.u(1, 1.3)
    shell = (None, [(1, 0.7), (0.7, 0.95), (-0.1, 1)])
    cushion = (DARK, [(-0.1, 0.98), (-0.9, 0.9), (-1.1, 0.6)])
    for side in (-1, 1):
        for colour, profile in (shell, cushion, (METAL, [(1, 0.4), (1.1, 0.35)])):
            ends = [(side * (w + f * thick), g * r, g * r * oval) for f, g in profile]
            b.loft(earphone, "x", [(x, 0, y, *radii) for x, *radii in ends], colour)
    if b.chance(0.35):  # a microphone
        boom = [(w, -0.5, 0.1), (w, -1.1, 0.35), (0.6 * w, -1.3, 0.55)]
        b.tube(wire, [(x, y + f * r, z) for x, f, z in boom], [0.02, 0.02, 0.05])
    if b.chance(0.6):
        path = [w - 0.9 * w * t**2, y - 0.9 * r - drop * t, sway * np.sin(5 * t)]
        b.tube(wire, np.stack(path, axis=1), 0.018)


def guitar(b: Builder) -> None:
    """Head, neck and body; upright, strings to +z."""
    head, neck, body = range(3)
    kind = b.pick("acoustic", "acoustic", "electric", "electric", "flying")
    b.colours[neck] = b.pick((0.35, 0.22, 0.13), (0.2, 0.14, 0.1), (0.7, 0.5, 0.3))
    b.colours[head] = b.colours[b.pick(neck, body)]
    acoustic, long = kind == "acoustic", b.u(0.75, 0.95)
    d, scale = (b.u(0.09, 0.14), 1) if acoustic else (b.u(0.035, 0.05), 0.85)
    if kind == "flying":
        x = np.array([0.06, 0.16, 0.1, -0.1, 0])
        x[2:4] += b.u(0.35, 0.5)
        y = long * np.array([1, 0.85, 0, 0.02, 0.4])
        for side in (-1, 1):
            wing = np.stack([side * x, y, 0 * x], axis=1)
            b.plate(body, wing, (0, 0, 2 * d))
    else:
        low, high = scale * b.u(0.33, 0.42), scale * b.u(0.24, 0.32)
        y = long * np.array([0, 0.03, 0.12, 0.28, 0.45, 0.6, 0.7, 0.8, 0.9, 0.97, 1])
        half = np.array([0.1, 0.6, 0.92, 1, 0.8, 0, 0.9, 1, 0.9, 0.6, 0.1])
        half *= np.where(np.arange(11) < 5, low, high)
        half[5] = scale * b.u(0.2, 0.25)  # the waist
        outline = list(zip(y, half, strict=True))[: None if acoustic else 8]
        b.slab(body, "y", [(y, 0, 0, x, d) for y, x in outline], b.shade(body, 0.6))
        b.slab(body, "y", [(y, 0, d, 0.96 * x, 0.004) for y, x in outline])
        for side in () if acoustic else (-1, 1):  # horns
            horn = (side * high, (0.9 + b.u(0, 0.15)) * long, 0)
            base = (side * 0.5 * high, 0.7 * long, 0)
            b.tube(body, [base, horn], [0.12, 0.04], flat=0.4)
    top, up, wide = long + b.u(0.75, 1), b.u(0.22, 0.3), b.u(0.06, 0.085)
    b.slab(neck, "y", [(0.8 * long, 0, d, 0.05, 0.025), (top, 0, d, 0.036, 0.025)])
    tip = (top + up, 0, d - 0.08, wide * b.u(0.6, 1.1), 0.02)
    b.slab(head, "y", [(top, 0, d, 0.04, 0.025), (top + 0.06, 0, d, wide, 0.02), tip])
    for y in np.linspace(top + 0.08, top + up - 0.02, 3):
        b.box(head, (0, y, d - 0.04), (2 * wide + 0.1, 0.03, 0.03), METAL)
    b.box(body, (0, 0.24 * long, d), (0.2, 0.04, 0.04), DARK)
    if acoustic:
        b.ball(body, (0, 0.62 * long, d), (0.115, 0.115, 0.01), DARK)
    else:
        b.box(body, (0, 0.42 * long, d), (0.18, b.u(0.05, 0.15), 0.04), METAL)


def knife(b: Builder) -> None:
    """Blade and handle; the tip points to +z, the edge down."""
    blade, handle = range(2)
    kind = b.pick("chef", "chef", "dagger", "cleaver", "table")
    b.colours[blade], b.colours[handle] = b.u(0.7, 0.9), b.paint(0.15, 0.7)
    tall = {"chef": 0.22, "dagger": 0.13, "cleaver": 0.4, "table": 0.125}[kind]
    long, back, tall = b.u(0.8, 1.2), b.u(0.5, 0.7), tall * b.u(0.75, 1.25)
    grip, t = min(b.u(0.055, 0.085), 0.6 * tall), np.linspace(0, 1, 14)
    if kind == "chef":
        top = grip - b.u(0, 0.3) * tall * t**2
        low = np.minimum(grip - tall * (1 - t ** b.u(2.2, 4)), top - 0.004)
    elif kind == "dagger":
        top = 0.75 * tall * np.minimum(1, (1 - t) / b.u(0.35, 0.8))
        low = -top
    elif kind == "cleaver":
        long, top, low = 0.75 * long, grip + 0 * t, grip - tall - 0.05 * t
    else:
        top = grip * np.sqrt(1 - t**6)
        low = -tall * np.sqrt(1 - t**3) * (0.6 + 0.4 * t)
    # The cross-section is a wedge: thin at the edge, thick at the back.
    x = np.array([-0.003, 0.003, 0.013, -0.013])
    y = np.stack([low, low, top, top], axis=1)
    z = np.broadcast_to(t[:, None] * long, y.shape)
    b.rings(blade, np.stack([np.outer(1 - 0.5 * t, x), y, z], axis=2))
    swell, curve = b.u(1, 1.3), b.u(-0.06, 0.02)
    shape = [(0.02, 0, 0.035, 1), (-0.5 * back, curve / 2, 0.05, swell)]
    shape += [(-0.9 * back, curve, 0.045, 1.1), (-back, curve, 0.03, 0.8)]
    b.loft(handle, "z", [(z, 0, y, x, f * grip) for z, y, x, f in shape], power=2.8)
    if kind == "dagger" or b.chance(0.25):
        guard = (0.09, b.u(3.2, 4.5) * grip, 0.05)
        b.box(handle, (0, 0, 0), guard, b.pick(GOLD, METAL))
        b.ball(handle, (0, curve, -back), (0.06, 1.2 * grip, 0.06), GOLD)


def mug(b: Builder) -> None:
    """Handle and cup; the handle points to +x."""
    handle, cup = range(2)
    r, h, wall = b.u(0.34, 0.46), b.u(0.7, 1.1), b.u(0.03, 0.05)
    foot, belly, t = b.u(0.65, 1.02), b.u(-0.04, 0.12), np.linspace(0, 1, 12)
    if b.chance(0.6):
        b.colours[handle] = b.colours[cup]
    outer = r * (foot + (1 - foot) * t**0.7) + belly * np.sin(np.pi * t)
    b.lathe(cup, [(0, 0), *zip(outer, h * t, strict=True), (outer[-1] - wall, h)])
    inner = zip(outer[::-1] - wall, np.maximum(h * t[::-1], 0.05), strict=True)
    b.lathe(cup, [*inner, (0, 0.05)], colour=b.shade(cup, 0.8))
    if b.chance(0.5):
        low = b.pick(1, 3, 5, 7)
        band = [(1.012 * outer[k], h * t[k]) for k in range(low, low + b.pick(2, 3, 4))]
        b.lathe(cup, band, colour=b.paint())
    top, bottom, square = b.u(0.75, 0.9), b.u(0.15, 0.35), b.pick(1, 1, 0.6)
    unit = arc("xy", (0, 0, 0), (1, 1), -90, 90)
    unit = np.sign(unit) * np.abs(unit) ** square
    y = h * ((top + bottom) / 2 + (top - bottom) / 2 * unit[:, 1])
    x = np.interp(y / h, t, outer) - 0.02 + b.u(0.22, 0.36) * unit[:, 0]
    b.tube(handle, np.stack([x, y, 0 * x], axis=1), b.u(0.04, 0.065), flat=b.u(1, 1.5))


def pistol(b: Builder) -> None:
    """Barrel, handle, and trigger with its guard; the muzzle points to +z."""
    barrel, handle, trigger = range(3)
    b.colours[barrel] = b.u(0.25, 0.7)
    b.colours[handle] = b.pick(DARK, (0.4, 0.25, 0.15), b.paint(0.2, 0.6))
    b.colours[trigger] = b.shade(barrel, 0.7)
    long, tall, half = b.u(0.75, 1.15), b.u(0.1, 0.15), b.u(0.05, 0.075)
    if b.chance(0.4):  # a revolver
        drum, size = b.u(0.12, 0.15), b.u(0.11, 0.15)
        low, half, top, flare, bend = -0.16, 0.05, -0.05, 0.45, 1.6
        b.tube(barrel, [(0, 0.04, 0.05), (0, 0.04, long)], b.u(0.05, 0.07), n=12)
        b.loft(barrel, "z", [(z, 0, 0, drum, drum) for z in (-size, size)], n=12)
        b.box(barrel, (0, 0.14, long / 2 - 0.1), (0.04, 0.04, long - 0.2))
        b.box(barrel, (0, -0.13, 0.02), (0.07, 0.06, 0.42))
        b.box(barrel, (0, 0.03, -0.2), (0.09, 0.3, 0.12))
        b.box(barrel, (0, 0.2, -0.28), (0.04, 0.12, 0.09))  # the hammer
    else:
        slide = [(-0.38, 0, 0, half, tall), (long, 0, 0, 0.9 * half, 0.85 * tall)]
        b.slab(barrel, "z", slide)
        end = (0, 0.25 * tall, long + b.u(0.01, 0.1))
        b.tube(barrel, [(0, 0.25 * tall, long - 0.02), end], 0.5 * half, DARK)
        frame = (1.8 * half, 0.7 * tall, long * b.u(0.6, 0.95) + 0.32)
        b.box(barrel, (0, -tall, frame[2] / 2 - 0.32), frame, b.shade(barrel, 0.75))
        for z in (long - 0.08, -0.3):
            b.box(barrel, (0, tall, z), (0.04, 0.06, 0.05), DARK)
        low, top, flare, bend = -1.3 * tall, -0.8 * tall, 0.2, 1
    f, drop, lean = np.linspace(0, 1, 6), b.u(0.5, 0.75), b.u(0.1, 0.3)
    grip = [top - drop * f, 0 * f, -0.21 - lean * f**bend, half + 0 * f]
    grip += [b.u(0.11, 0.14) * (0.85 + flare * f)]
    b.loft(handle, "y", np.stack(grip, axis=1), power=3.5)
    size = b.u(0.12, 0.16)
    b.tube(trigger, arc("zy", (0, low, 0.06), (1.15 * size, size), 0, -180), 0.022)
    hook = [(0, low + 0.03, 0.08), (0, low - 0.05, 0.04), (0, low - 0.1, 0.08)]
    b.tube(trigger, hook, [0.03, 0.025, 0.015], METAL)
