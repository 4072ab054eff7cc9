"""Exactness, for :mod:`benchmarks.gpu`: the fused form against the plain one.

A row's function returns a text, and the row has passed. It raises an error where it has
failed, and `NotRun` where it cannot be run. Sizes on a CPU are small: the same code.
"""

import importlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import forms
from benchmarks.kernel_inputs import kernel_arguments, moved
from benchmarks.roofline import Sizes, clouds
from models import point_encoder
from models.edgeconv import cloud_batch, edge_layer
from models.fused.batch import RaggedBatch, kernels_for, missing_kernels
from models.knn import knn
from models.losses import NTXentLoss, crosspoint_loss

Values = dict[str, Tensor]  # "<group> <name>": outputs, gradients, statistics
Rows = Iterator[tuple[str, Callable]]  # names, and functions of a Place

# What float32 may differ from float64 by, besides a multiple of the plain form's error.
# On a grid rounding decides between maxima alone. In a network it gives some points
# other neighbours, in each form different ones; half precision many more.
GRID = {"outputs": 1e-6, "statistics": 1e-6, "gradients": 5e-3}
NETWORK = {"outputs": 2e-3, "statistics": 5e-4, "gradients": 2e-2}
HALF = {"outputs": 2e-2, "statistics": 5e-3, "gradients": 2e-1}


class NotRun(Exception):
    """Why a row is not run here."""


class Place(NamedTuple):
    """Where a row runs: its device, the output folder, and the seconds it has."""

    device: torch.device
    out: Path
    seconds: float

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"


def need_kernels(place: Place) -> None:
    if problem := missing_kernels(place.device):
        raise NotRun(problem)


def available(place: Place) -> str:
    """On a GPU that Triton compiles for, the fused form must run."""
    if place.gpu and torch.cuda.get_device_capability(place.device)[0] < 8:
        need_kernels(place)
    problem = missing_kernels(place.device)
    assert not problem, problem
    return f"kernels: {kernels_for(place.device).__name__}"


def randomised(module: nn.Module) -> nn.Module:
    """Weights at random, those of BatchNorm with both signs."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        fan_in = p[0].numel() if p.dim() > 1 else 1
        nn.init.normal_(p, std=fan_in**-0.5, generator=generator)
    return module


def values_of(module: nn.Module, *outputs: Tensor) -> Values:
    """Outputs, gradients and running statistics after a backward pass."""
    torch.stack([x.double().sin().sum() for x in outputs]).sum().backward()
    values: dict[str, Any] = {f"outputs {i}": x for i, x in enumerate(outputs)}
    values |= {f"gradients {n}": p.grad for n, p in module.named_parameters()}
    buffers = dict(module.named_buffers())
    values |= {f"statistics {n}": x for n, x in buffers.items() if "running" in n}
    return {name: x.detach() for name, x in values.items()}


def network(
    place: Place,
    sizes: Sizes,
    form: str,
    dtype: torch.dtype = torch.float32,
    half: torch.dtype | None = None,
    strided: bool = False,
) -> Values:
    """A pass of a point encoder, forward and backward."""
    model = randomised(point_encoder(sizes.network, sizes.k, 256, form))
    model.to(place.device, dtype)
    x = clouds(sizes.batch, sizes.points, sizes.augmented).to(place.device, dtype)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if strided else x
    with torch.autocast(place.device.type, dtype=half, enabled=half is not None):
        projection, feature = model(x)
    return values_of(model, projection, feature)


def whole_points(batch: int, points: int) -> Tensor:
    """(B, 3, N) distinct points of an integer grid: distances are exact, and tie."""
    generator = torch.Generator().manual_seed(0)
    side = 2 + int((2 * points) ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3).T.double()
    chosen = (torch.randperm(side**3, generator=generator) for _ in range(batch))
    return torch.stack([grid[:, order[:points]] for order in chosen])


def on_grid(
    place: Place, sizes: Sizes, form: str, dtype: torch.dtype = torch.float32
) -> Values:
    """A pass of EdgeConv, of one layer or two, on points with exact ties."""
    widths = (6, 64) if sizes.network == "dgcnn" else (6, 64, 64)
    layers = [edge_layer(a, b) for a, b in itertools.pairwise(widths)]
    module: Any = randomised(nn.Sequential(*layers)).to(place.device, dtype)
    points = whole_points(sizes.batch, sizes.points).to(place.device, dtype)
    batch: Any = cloud_batch(points, sizes.k, form)
    return values_of(module, batch.per_point(batch.edge_conv(batch.points, *module)))


def error(actual: Tensor, expected: Tensor, least: float = 1e-300) -> float:
    """Norm of the difference over that of ``expected``."""
    difference = (actual.double() - expected.double()).norm()
    return (difference / expected.double().norm().clamp(min=least)).item()


def in_float64(place: Place, passed: Callable[..., Values], sizes: Sizes) -> str:
    """Every tensor of the fused form is the plain one's to 1e-8."""
    need_kernels(place)
    fused = passed(place, sizes, "fused", torch.float64)
    plain = passed(place, sizes, "plain", torch.float64)
    # A bias before BatchNorm has no gradient but rounding.
    gradients = [n for n in plain if n.startswith("gradients")]
    largest = max(plain[n].norm().item() for n in gradients)
    least = dict.fromkeys(gradients, 1e-6 * largest)
    errors = {n: error(fused[n], x, least.get(n, 1e-300)) for n, x in plain.items()}
    worst = max(errors, key=lambda n: (errors[n] != errors[n], errors[n]))  # NaN first
    message = f"{len(errors)} tensors, largest difference {errors[worst]:.1e}: {worst}"
    assert errors[worst] < 1e-8, f"{message}; allowed 1e-8"
    return message


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """TF32 in products and convolutions, or in neither."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_float32(
    place: Place,
    passed: Callable[..., Values],
    sizes: Sizes,
    allowed: dict[str, float],
    fast: bool = False,
    **half: torch.dtype,
) -> str:
    """The fused form is about as near to float64 as the plain one, or nearer."""
    need_kernels(place)
    exact = passed(place, sizes, "plain", torch.float64)
    with tf32(fast):
        fused = passed(place, sizes, "fused", torch.float32, **half)
        plain = passed(place, sizes, "plain", torch.float32, **half)
    parts, bad = [], []
    for group, least in allowed.items():
        names = [n for n in exact if n.startswith(group)]
        ours, theirs, expected = (
            torch.cat([values[n].double().flatten() for n in names])
            for values in (fused, plain, exact)
        )
        fused_error, plain_error = error(ours, expected), error(theirs, expected)
        parts.append(f"{group} {fused_error:.1e}, plain {plain_error:.1e}")
        if not fused_error <= 4 * plain_error + least:  # nor where it is NaN
            bad.append(f"{group} {least:g}")
    text = f"error against float64: {'; '.join(parts)}"
    assert not bad, f"{text}; allowed 4 times the plain form's and {', '.join(bad)}"
    return text


def different(first: Values, second: Values) -> list[str]:
    return [n for n, x in first.items() if not torch.equal(x, second[n])]


def equal_bits(first: Values, second: Values) -> str:
    names = different(first, second)
    parts = dict(Counter(n.split(".")[0] for n in names))
    largest = max((error(second[n], first[n]) for n in names), default=0.0)
    message = f"of {len(first)} tensors differ, by up to {largest:.1e}: {parts}"
    assert not names, f"{len(names)} {message}"
    return f"{len(first)} tensors equal bit for bit"


def twice(place: Place, sizes: Sizes, **changed: Any) -> str:
    """The same bits again, or from points in another memory layout."""
    need_kernels(place)
    first = network(place, sizes, "fused")
    return equal_bits(first, network(place, sizes, "fused", **changed))


def without_tf32(place: Place, sizes: Sizes) -> str:
    """EdgeConv gives the same bits with TF32 on and off."""
    need_kernels(place)
    results = []
    for enabled in (False, True):
        with tf32(enabled):
            results.append(on_grid(place, sizes, "fused"))
    return equal_bits(*results)


def step_twice(place: Place, step: forms.Step) -> str:
    """The same bits of a pre-training step, but for the image encoder's gradients.

    On a GPU PyTorch's convolutions and pooling add those up in any order.
    """
    results = []
    for _ in range(2):
        model = step.model(ours=True).to(place.device)
        z1, z2, z_image = model(*[x.to(place.device) for x in step.inputs()])
        loss, _, _ = crosspoint_loss(z1, z2, z_image, NTXentLoss())
        results.append(values_of(model, loss))
    first, second = results
    images = {n: first.pop(n) for n in [*first] if n.startswith("gradients image_")}
    message = equal_bits(first, second)
    largest = max(error(second[n], x) for n, x in images.items())
    return f"{message}; the image encoder's {len(images)} gradients to {largest:.1e}"


def graphs(place: Place, points: int, channels: int, k: int) -> str:
    """The neighbours' distances are the smallest; on a grid, the neighbours too."""
    need_kernels(place)
    kernels, device = kernels_for(place.device), place.device
    offsets = torch.tensor([0, points, max(k, points // 2), points]).cumsum(0)
    rows, worst = int(offsets[-1]), 0.0
    counts = torch.ones(rows, device=device)
    batch = RaggedBatch(offsets.to(device), counts, points, merged=False)
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(rows, channels, generator=generator)
    grid = whole_points(1, rows)[0].T.float()
    for x, ties in ((normal.to(device), False), (grid.to(device), True)):
        idx = kernels.knn(x, batch, k).long()
        for start, end in itertools.pairwise(offsets.tolist()):
            cloud, ids = x[start:end], idx[start:end] - start
            exact = cloud.double()
            square = exact.square().sum(1)
            d = square[:, None] + square - 2 * exact @ exact.T
            if ties:
                order = d.round().long() * len(d) + torch.arange(len(d), device=device)
                expected = order.topk(k, largest=False).indices
                assert torch.equal(ids, expected), "kernel: ties not by index"
                plain = knn(cloud.T[None], k)[0]
                assert torch.equal(plain, expected), "plain: ties not by index"
                continue
            ascending = ids.sort(dim=1).values
            assert (ascending.diff(dim=1) > 0).all(), "a neighbour occurs twice"
            least = d.topk(k, largest=False).values
            gap = ((d.gather(1, ids) - least).abs().max() / square.max()).item()
            assert gap < 1e-5, f"distances differ by {gap:.1e} of the largest |x|²"
            worst = max(worst, gap)
    return f"distances to {worst:.1e} of the largest |x|²; indices equal on a grid"


def kernel(place: Place, name: str) -> str:
    """A kernel of Triton's package gives what Numba's gives."""
    if place.gpu:
        need_kernels(place)
    elif os.environ.get("TRITON_INTERPRET") != "1":
        raise NotRun("no GPU")
    devices = {"numba": torch.device("cpu"), "triton": place.device}
    parts = []
    for dtype, allowed in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        results = []
        for package, device in devices.items():
            arguments = moved(kernel_arguments(dtype)[name], device)
            run = getattr(importlib.import_module(f"models.fused.{package}"), name)
            outputs = run(*arguments)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if name == "batch_affine":  # it updates the running statistics
                outputs += tuple(arguments[0].buffers())
            results.append(moved(outputs, devices["numba"]))
        worst = max(error(b, a) for a, b in zip(*results, strict=True))
        parts.append(f"{str(dtype)[6:]} {worst:.1e} (allowed {allowed:g})")
        assert worst < allowed, f"Triton's differs from Numba's: {parts[-1]}"
    return f"Triton's is Numba's: {', '.join(parts)}"


def rows(gpu: bool) -> Rows:
    """Names and functions, the most telling first."""
    if gpu:
        usual = [Sizes("dgcnn", 4, 2048, 15), Sizes("dgcnn_seg", 8, 2048, 40)]
        other = [Sizes("dgcnn_seg", 3, 33, 20), Sizes("dgcnn", 4, 1024, 40)]
        other += [Sizes("dgcnn", 2, 8192, 20), Sizes("dgcnn_seg", 2, 8192, 15)]
        shapes = [(2048, 64, 15), (8192, 3, 20), (2048, 128, 40), (1024, 64, 130)]
        step = forms.Step(20)
    else:
        usual = [Sizes("dgcnn", 3, 257, 15), Sizes("dgcnn_seg", 8, 64, 40)]
        other, shapes, step = [], [(300, 64, 40)], forms.Step(2, 64, 5, "resnet18", 32)
    grids, usual = usual, [s._replace(augmented=True) for s in usual]

    def label(s: Sizes) -> str:
        copies = ", duplicates" * s.augmented
        return f"{s.network}, {s.batch} x {s.points}, K={s.k}{copies}"

    yield "the fused form runs", available
    for s in usual:
        yield f"float64, {label(s)}", partial(in_float64, passed=network, sizes=s)
        yield f"same bits twice, {label(s)}", partial(twice, sizes=s)
    yield "same bits twice, pre-training step", partial(step_twice, step=step)
    for s in usual:
        run = partial(in_float32, passed=network, sizes=s)
        for fast in (False, True):
            name = f"float32, TF32 {'on' if fast else 'off'}, {label(s)}"
            yield name, partial(run, allowed=NETWORK, fast=fast)
        for half in (torch.bfloat16, torch.float16):
            name = f"autocast {str(half).removeprefix('torch.')}, {label(s)}"
            yield name, partial(run, allowed=HALF, half=half)
    for points, channels, k in (*shapes, (33, 3, 5)):
        name = f"kNN, {points} points, {channels} channels, K={k}"
        yield name, partial(graphs, points=points, channels=channels, k=k)
    for name in kernel_arguments(torch.float32):
        yield f"kernel {name}", partial(kernel, name=name)
    for s in grids:
        name = f"exact ties, {label(s)}"
        yield f"float64, {name}", partial(in_float64, passed=on_grid, sizes=s)
        run = partial(in_float32, passed=on_grid, sizes=s)
        yield f"float32, {name}", partial(run, allowed=GRID)
        yield f"EdgeConv without TF32, {name}", partial(without_tf32, sizes=s)
    for s in (Sizes("dgcnn", 3, 33, 5), *other):
        yield f"float64, {label(s)}", partial(in_float64, passed=network, sizes=s)
    for s in usual:
        yield f"strided points, {label(s)}", partial(twice, sizes=s, strided=True)
