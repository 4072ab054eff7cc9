"""Speed, for :mod:`benchmarks.gpu`: rows return numbers and a "text"; none can fail.

And ways to launch a pre-training step, each of which is exact, and timed against the
first. ``counted``: the GPU counts the distinct points, and the host synchronises with
it. ``layout``: they come with the batch. ``padded``: to a fixed number of rows. ``two
streams``: padded, and images beside points. ``graph``: as ``--cuda_graph`` does it.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from benchmarks import forms
from benchmarks.gpu.exact import NotRun, Place, Rows, need_kernels, tf32
from benchmarks.gpu.runs import same_losses
from benchmarks.measure import Case, Forms, Setting, Work, synchronise, take_turns
from benchmarks.roofline import Sizes
from datasets.transforms import distinct_after_dropout
from models import ENCODERS
from utils.run.training import Precision

# Pairs a second of a pre-training step in bf16 on one H200, by the batch.
PREDICTED, AIM = {20: 950, 128: 1230}, {20: 1600, 128: 2000}


def profile(run: Callable[[], object], place: Place) -> tuple[int, float, list]:
    """Launches, busy seconds and the ten longest kernels, or operations on a CPU."""
    with torch.profiler.profile() as seen:
        run()
        synchronise(place.device)
    events: list[Any] = list(seen.events() or [])
    times: Counter[str] = Counter()
    busy = end = 0.0  # microseconds; kernels of two streams may overlap
    if place.gpu:
        events = [e for e in events if e.device_type == DeviceType.CUDA]
        events = [e for e in events if not getattr(e, "is_user_annotation", False)]
        for e in sorted(events, key=lambda e: e.time_range.start):
            times[e.name] += e.time_range.elapsed_us()
            busy += max(0.0, e.time_range.end - max(end, e.time_range.start))
            end = max(end, e.time_range.end)
    else:
        for e in events:
            times[e.name] += e.self_cpu_time_total
    total = sum(times.values()) or 1.0
    longest = [(name[:90], us / 1e3, us / total) for name, us in times.most_common(10)]
    return len(events), busy / 1e6, longest


def speed(
    place: Place,
    make: Callable[[Setting], Forms],
    samples: int,
    calls: int = 1,
    precision: str = "fp32",
    plain: bool = True,
    unit: str = "clouds",
    other: str = "plain",
) -> dict[str, Any]:
    """Fused against plain: samples a second, memory, launches, time without work.

    Args:
        place: device.
        make: the two forms of the work.
        samples: of one call, called ``unit``.
        calls: in a row, without waiting for the GPU between them.
        precision: ``bf16``; ``tf32``, also in products; ``fp32``, PyTorch's default:
            TF32 in convolutions alone.
        plain: measure the plain form too, which is called ``other``.
    """

    def several(run: Callable[[], object]) -> None:
        for _ in range(calls):
            run()

    with tf32(True) if precision == "tf32" else nullcontext():
        made = make(Setting(place.device, "bf16" if precision == "bf16" else "fp32"))
        repeated = {name: partial(several, run) for name, run in made.items()}
        if not plain and "ours" in repeated:
            del repeated["reference"]
        case, note = Case("", make, Work), ""
        try:
            measured = take_turns(repeated, 3, place.device, case)
        except torch.OutOfMemoryError:
            if len(repeated) == 1:
                raise
            note = ", plain out of memory"
        if note:  # outside of `except`, whose traceback keeps the tensors
            torch.cuda.empty_cache()
            measured = take_turns({"ours": repeated["ours"]}, 3, place.device, case)
        form = [*measured.seconds][-1]  # the plain form where it is the only one
        launches, busy, longest = profile(made[form], place)
    seconds = {name: sorted(s)[1] / calls for name, s in measured.seconds.items()}
    rates = {name: samples / s for name, s in seconds.items()}
    extra = measured.extra[form]
    text = f"{rates[form]:.1f} {unit}/s" + note
    if len(rates) == 2:
        text += f", {other} {rates['reference']:.1f}"
        text += f", ratio {rates['ours'] / rates['reference']:.2f}"
    text += "" if extra is None else f"; {extra:.0f} MiB more"
    values = {"per_second": rates, "extra_mib": measured.extra, "longest": longest}
    if place.gpu:
        idle = max(0.0, 1 - busy / seconds[form])
        values |= {"launches": launches, "idle": idle}
        text += f"; {launches} launches, GPU idle {idle:.0%}"
    return values | {"text": text}


def step_speed(place: Place, step: forms.Step, precision: str, **of: Any) -> dict:
    """A pre-training step, beside what was predicted and what is aimed at."""
    make = partial(forms.pretraining, step=step)
    row = speed(place, make, step.pairs, precision=precision, unit="pairs", **of)
    if precision == "bf16" and step.pairs in PREDICTED:
        row["predicted"], row["aim"] = PREDICTED[step.pairs], AIM[step.pairs]
        row["text"] += "; on an H200 predicted {predicted}, aim {aim}".format(**row)
    return row


def svm_speed(place: Place, train: int, plain: bool) -> dict[str, Any]:
    """Fit and test; scikit-learn takes minutes, so each once."""
    made, seconds = forms.linear_svm(Setting(place.device), train, train // 4, 40), {}
    for name in ("ours", "reference")[: 1 + plain]:
        start = time.perf_counter()
        made[name]()
        seconds[name] = time.perf_counter() - start
    text = ", plain ".join(f"{s:.2f} s" for s in seconds.values())
    return {"seconds": seconds, "text": text}


# Pre-training steps on a GPU: precision, pairs, calls in a row, the plain form too.
GPU_STEPS = (
    *(("bf16", 20, 5, True), ("bf16", 128, 2, True)),
    *(("bf16", 256, 2, False), ("bf16", 512, 1, False)),
    *(("fp32", 20, 5, True), ("tf32", 20, 5, False)),
    *(("fp32", 128, 2, True), ("tf32", 128, 2, False)),
)
CPU_STEPS = (("bf16", 2, 1, True), ("fp32", 2, 1, True))


def rows(gpu: bool) -> Rows:
    for precision, pairs, calls, plain in GPU_STEPS if gpu else CPU_STEPS:
        small = forms.Step(pairs, 256, backbone="resnet18", size=64)
        step = forms.Step(pairs) if gpu else small
        name = f"pre-training step, {precision}, {pairs} pairs, {step.backbone}"
        row = partial(step_speed, step=step, precision=precision)
        yield name, partial(row, calls=calls, plain=plain)
    clouds, points = (40, 2048) if gpu else (2, 256)
    run = partial(speed, samples=clouds, calls=5)
    for network in ENCODERS:
        for training, task in ((True, "step"), (False, "features")):
            sizes = Sizes(network, clouds, points, 15, augmented=training)
            make = partial(forms.encoder, sizes=sizes, training=training)
            yield f"{network} {task}, {clouds} x {points}", partial(run, make=make)
    graphs = partial(forms.graphs, k=15, batch=clouds, points=points)
    for channels in (3, 64):
        make = partial(graphs, channels=channels)
        yield f"kNN, {clouds} x {points}, {channels} channels", partial(run, make=make)
    for train, plain in [(2460, True), (9840, False)] if gpu else [(400, True)]:
        name = f"linear SVM, {train} x 2048, 40 classes"
        yield name, partial(svm_speed, train=train, plain=plain)


# Ways to launch a step

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


def exact_losses(place: Place, step: forms.Step, way: str, steps: int) -> str:
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


def step_checks(gpu: bool) -> Rows:
    # Of fewer pairs BatchNorm's statistics amplify rounding from step to step.
    sizes = (256, 15, "resnet18", 64) if gpu else (64, 5, "resnet18", 32)
    step, steps = forms.Step(8, *sizes), 20 if gpu else 4
    for way in WAYS:
        name = f"{steps} steps, {way}, {step.pairs} pairs"
        yield name, partial(exact_losses, step=step, way=way, steps=steps)


def step_speeds(gpu: bool) -> Rows:
    sizes = [forms.Step(20), forms.Step(128)]
    kind, calls = ("bf16", 2 * BATCHES) if gpu else ("fp32", 1)
    run = partial(speed, calls=calls, precision=kind, unit="pairs", other="counted")
    for step in sizes if gpu else [forms.Step(2, 256, 15, "resnet18", 64)]:
        for way in WAYS:
            name = f"pre-training step, {way}, {step.pairs} pairs"
            make = partial(against_counted, step=step, way=way)
            yield name, partial(run, make=make, samples=step.pairs)
