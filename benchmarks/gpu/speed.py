"""Speed, for :mod:`benchmarks.gpu`: rows return numbers and a "text"; none can fail."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks import forms
from benchmarks.gpu.exact import Place, Rows, tf32
from benchmarks.measure import Case, Forms, Setting, Work, synchronise, take_turns
from benchmarks.roofline import Sizes
from models import ENCODERS

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
        samples: of one call.
        calls: in a row, without waiting for the GPU between them.
        precision: ``bf16``; ``tf32``, also in products; ``fp32``, PyTorch's default:
            TF32 in convolutions alone.
        plain: measure the plain form too.
        unit: name of the samples.
        other: name of the first form.
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
        if note:
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
    for channels in (3, 64):
        make = partial(
            forms.graphs, channels=channels, k=15, batch=clouds, points=points
        )
        yield f"kNN, {clouds} x {points}, {channels} channels", partial(run, make=make)
    for train, plain in [(2460, True), (9840, False)] if gpu else [(400, True)]:
        name = f"linear SVM, {train} x 2048, 40 classes"
        yield name, partial(svm_speed, train=train, plain=plain)
