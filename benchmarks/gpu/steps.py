"""Ways to launch a pre-training step, for :mod:`benchmarks.gpu`: each is exact, each
is timed against the first.

``counted``: the GPU counts the distinct points, and the host synchronises with it.
``layout``: they come with the batch. ``padded``: to a fixed number of rows. ``two
streams``: padded, and images beside points. ``graph``: as ``--cuda_graph`` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import forms
from benchmarks.gpu.exact import NotRun, Place, Rows, need_kernels
from benchmarks.gpu.runs import same_losses
from benchmarks.gpu.speed import speed
from benchmarks.measure import Forms, Setting
from datasets.transforms import distinct_after_dropout
from utils.run.training import Precision

WAYS = ("layout", "padded", "two streams", "graph")
ON_GPU = ("two streams", "graph")
BATCHES = 4  # different ones, which take turns
# Of losses that rounding alone may change. A graph's are in float32, in which the
# image encoder's gradients do not repeat their bits on a GPU.
EXACT, ROUNDED = 1e-8, 1e-2


def training(setting: Setting, step: forms.Step, way: str) -> Callable[[], Tensor]:
    """What takes the next training step, and returns the loss."""
    device = setting.device
    if device.type != "cuda" and way in ON_GPU:
        raise NotRun("no GPU")
    inputs = step._replace(pairs=BATCHES * step.pairs).inputs()
    batches: list[Any] = [*zip(*(x.chunk(BATCHES) for x in inputs), strict=True)]
    if way != "counted":
        capacity = distinct_after_dropout(2 * step.pairs, step.points)
        rows = 0 if way == "layout" else capacity
        batches = [forms.with_layout(batch, rows) for batch in batches]
    model = step.model(ours=True)
    model.to(device, Precision(setting.precision, device).dtype)
    model.two_streams = way in ON_GPU
    return forms.crosspoint_step(model, batches, setting, graph=way == "graph")


def exact(place: Place, step: forms.Step, way: str, steps: int) -> str:
    """The losses are the counted way's; the text says whether bits are the same again.

    A graph is compared in float32: in float64 kNN synchronises with the GPU.
    """
    need_kernels(place)
    precision, allowed = ("fp32", ROUNDED) if way == "graph" else ("fp64", EXACT)
    runs = []
    for name in (way, way, "counted"):
        take_step = training(Setting(place.device, precision), step, name)
        losses = [take_step().detach().double().clone() for _ in range(steps)]
        runs.append(torch.stack(losses).cpu())
    first, second, expected = runs
    message = same_losses(first, expected, allowed)
    repeats = "equal bits" if torch.equal(first, second) else "other bits"
    return f"{message}; {repeats} when repeated"


def against_counted(setting: Setting, step: forms.Step, way: str) -> Forms:
    return {
        "reference": training(setting, step, "counted"),
        "ours": training(setting, step, way),
    }


def checks(gpu: bool) -> Rows:
    # Of fewer pairs BatchNorm's statistics amplify rounding from step to step.
    sizes = (256, 15, "resnet18", 64) if gpu else (64, 5, "resnet18", 32)
    step, steps = forms.Step(8, *sizes), 20 if gpu else 4
    for way in WAYS:
        name = f"{steps} steps, {way}, {step.pairs} pairs"
        yield name, partial(exact, step=step, way=way, steps=steps)


def speeds(gpu: bool) -> Rows:
    sizes = [forms.Step(20), forms.Step(128)]
    for step in sizes if gpu else [forms.Step(2, 256, 15, "resnet18", 64)]:
        for way in WAYS:
            name = f"pre-training step, {way}, {step.pairs} pairs"
            make = partial(against_counted, step=step, way=way)
            run = partial(speed, make=make, samples=step.pairs, unit="pairs")
            kind = "bf16" if gpu else "fp32"
            timed = partial(run, calls=2 * BATCHES if gpu else 1, precision=kind)
            yield name, partial(timed, other="counted")
