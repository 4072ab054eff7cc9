"""Ways to launch a pre-training step, for :mod:`benchmarks.gpu`: each is exact, each
is timed against the first.

``counted``: the GPU counts the distinct points, and the host waits. ``layout``: they
come with the batch. ``padded``: to a fixed number of rows. ``two streams``: padded, and
images beside points. ``graph``: all of that as ``--cuda_graph`` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import forms
from benchmarks.gpu_exact import NotRun, Place, Rows, need_kernels
from benchmarks.gpu_runs import speed
from benchmarks.measure import Forms, Setting
from benchmarks.roofline import clouds
from datasets.transforms import distinct_after_dropout
from models.fused.batch import distinct_points
from models.losses import NTXentLoss, crosspoint_loss
from utils.run.cuda_graph import GraphedStep
from utils.run.training import Precision, to_device

WAYS = ("layout", "padded", "two streams", "graph")
ON_GPU = ("two streams", "graph")
BATCHES = 4  # different ones, which take turns
# Of losses that rounding alone may change. A graph's are in float32, in which the
# image encoder's gradients do not repeat their bits on a GPU.
EXACT, ROUNDED = 1e-8, 1e-2


def batches(step: forms.Step, way: str) -> list[tuple[Any, ...]]:
    """Views, images and, but for ``counted``, the layout, as the loader gives them."""
    points = clouds(BATCHES * 2 * step.pairs, step.points, augmented=True)
    images = torch.Generator().manual_seed(0)
    capacity = distinct_after_dropout(2 * step.pairs, step.points)
    found: list[tuple[Any, ...]] = []
    for both in points.chunk(BATCHES):
        size = (step.pairs, 3, step.size, step.size)
        batch = (*both.chunk(2), torch.randn(size, generator=images))
        layout = distinct_points(both, 0 if way == "layout" else capacity)
        found.append(batch if way == "counted" else (*batch, layout))
    return found


def training(setting: Setting, step: forms.Step, way: str) -> Callable[[], Tensor]:
    """What takes the next training step, and returns the loss."""
    device = setting.device
    if device.type != "cuda" and way in ON_GPU:
        raise NotRun("no GPU")
    precision = Precision(setting.precision, device)
    model: Any = step.model(ours=True).to(device, precision.dtype)
    model.two_streams = way in ON_GPU
    update = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-6, fused=True)
    criterion = NTXentLoss()
    given = to_device(batches(step, way), device, precision.dtype)

    def forward_backward(*batch: Any) -> tuple[Tensor, ...]:
        with precision.autocast():
            z1, z2, z_image = model(*batch)
            loss, _, _ = crosspoint_loss(z1, z2, z_image, criterion)
        update.zero_grad(set_to_none=True)
        loss.backward()
        return (loss,)

    run: Callable[..., tuple[Tensor, ...]] = forward_backward
    if way == "graph":
        run = GraphedStep(forward_backward, model.parameters())
    done = 0

    def next_step() -> Tensor:
        nonlocal done
        (loss,) = run(*given[done % BATCHES])
        update.step()
        done += 1
        return loss

    return next_step


def losses(
    place: Place, step: forms.Step, way: str, precision: str, steps: int
) -> Tensor:
    """(steps,) losses from the same start, float64."""
    take = training(Setting(place.device, precision), step, way)
    return torch.stack([take().detach().double().clone() for _ in range(steps)]).cpu()


def same_losses(place: Place, step: forms.Step, way: str, steps: int) -> str:
    """The losses are the counted way's; the text says whether bits are the same again.

    A graph is compared in float32: in float64 the host waits for the neighbours.
    """
    need_kernels(place)
    precision, allowed = ("fp32", ROUNDED) if way == "graph" else ("fp64", EXACT)
    found, again, wanted = (
        losses(place, step, name, precision, steps) for name in (way, way, "counted")
    )
    apart = (found / wanted - 1).abs()
    worst = apart.max().item() if apart.isfinite().all() else float("nan")
    repeats = "equal bits" if torch.equal(found, again) else "other bits"
    said = f"{steps} losses, {wanted[0]:.4f} to {wanted[-1]:.4f}, differ by {worst:.1e}"
    assert worst < allowed, f"{said}; allowed {allowed:g}"
    return f"{said}; {repeats} when repeated"


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
        yield name, partial(same_losses, step=step, way=way, steps=steps)


def speeds(gpu: bool) -> Rows:
    sizes = [forms.Step(20), forms.Step(128)]
    for step in sizes if gpu else [forms.Step(2, 256, 15, "resnet18", 64)]:
        for way in WAYS:
            name = f"pre-training step, {way}, {step.pairs} pairs"
            make = partial(against_counted, step=step, way=way)
            run = partial(speed, make=make, samples=step.pairs, unit="pairs")
            kind = "bf16" if gpu else "fp32"
            more = partial(run, calls=2 * BATCHES if gpu else 1, precision=kind)
            yield name, partial(more, other="counted")
