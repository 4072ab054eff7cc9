"""Whole runs of the script, and speed, for :mod:`benchmarks.gpu`.

Functions of `runs` return a text, as in :mod:`benchmarks.gpu_exact`; those of `speeds`
and `epochs` return numbers and a "text", which have no limit to fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks import forms
from benchmarks.gpu_exact import (
    NotRun,
    Place,
    Rows,
    Values,
    different,
    equal_bits,
    tf32,
)
from benchmarks.measure import Case, Forms, Setting, Work, synchronise, take_turns
from benchmarks.roofline import Sizes
from datasets.prepare.pack import pack
from datasets.synthetic import generate
from models import ENCODERS
from utils.run.bookkeeping import LAST
from utils.run.run_folder import CHECKPOINTS, read_metrics

SCRIPT = Path(__file__).resolve().parents[1] / "train_crosspoint.py"
SHAPES = 43_783  # of ShapeNetRender
# Pairs a second of a pre-training step in bf16 on one H200, by the batch.
PREDICTED, AIM = {20: 950, 128: 1230}, {20: 1600, 128: 2000}
STEPS = 20  # of a run: four epochs of 40 shapes
RUN = (
    "--num_points 256 --emb_dims 256 --batch_size 8 --epochs 4 --precision fp64 "
    "--image_encoder resnet18 --image_size 64 --print_freq 1 --checkpoint_steps 3 "
    "--num_workers 2 --svm_every 0 --wandb disabled"
)


def data(place: Place, shapes: int, copies: int = 1) -> Path:
    """A packed ``--data_root`` of synthetic shapes, so many times each; made once."""
    folder = place.out / f"data_{shapes * copies}"
    if folder.exists():
        return folder
    new = folder.with_suffix(".partial")
    shutil.rmtree(new, ignore_errors=True)
    generate(new, shapes, seed=0)
    for ply in [*new.glob("ShapeNet/*/*.ply")] if copies > 1 else []:
        views = new / "ShapeNetRendering" / ply.parent.name / ply.stem / "rendering"
        for number in range(1, copies):
            name = f"{ply.stem}_{number}"
            os.link(ply, ply.with_stem(name))
            twin = views.parent.with_name(name) / "rendering"
            twin.mkdir(parents=True)
            for view in sorted(views.iterdir())[:2]:
                os.link(view, twin / view.name)
    pack(new)
    new.rename(folder)
    return folder


def train(
    place: Place,
    name: str,
    data_root: Path,
    words: str,
    processes: int = 0,
    cpu: bool = False,
    until: Callable[[], bool] = lambda: False,
) -> Path:
    """Run ``train_crosspoint.py`` to its end, or kill it; returns the run folder.

    Args:
        place: its folder gets the run, as ``checkpoints/<name>``, and the output.
        name: of the run.
        data_root: of the run.
        words: its other flags.
        processes: under torchrun; 0 without it.
        cpu: hide the GPUs.
        until: kill it by SIGKILL as soon as this holds.
    """
    program: list[str | Path] = [sys.executable]
    if processes:
        launcher = f"-m torch.distributed.run --standalone --nproc_per_node={processes}"
        program += launcher.split()
    program += [SCRIPT, "--data_root", data_root, "--exp_name", name, *words.split()]
    output = place.out / f"{name}.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            program + ["--overwrite"] * ("--resume" not in words),
            cwd=place.out,
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if cpu else {}),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not until():
                time.sleep(0.01)
        finally:  # also where the row is out of time
            ended = process.poll()
            if ended is None and processes:
                process.terminate()  # by which torchrun ends its ranks
                time.sleep(3)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    last = " / ".join(output.read_text().strip().splitlines()[-3:])
    assert not ended, f"exit status {ended}: {last}; see {output}"
    return place.out / CHECKPOINTS / name


# Whole runs


def twenty_steps(place: Place, name: str, words: str = "", **options: Any) -> Path:
    return train(place, name, data(place, 40), f"{RUN} {words}", **options)


def undisturbed(place: Place) -> Path:
    """The run that others are compared with, on this device; once a process."""
    if place.out not in _undisturbed:
        _undisturbed[place.out] = twenty_steps(place, "undisturbed")
    return _undisturbed[place.out]


_undisturbed: dict[Path, Path] = {}


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run) if "step" in record]


def same_losses(place: Place, name: str, gpus: int = 0, **options: Any) -> str:
    """20 steps in float64 elsewhere have the undisturbed run's losses to 1e-7."""
    if torch.cuda.device_count() < gpus:
        raise NotRun(f"{gpus} GPUs needed, {torch.cuda.device_count()} here")
    wanted = undisturbed(place)
    return agreement(twenty_steps(place, name, **options), wanted)


def agreement(one: Path, other: Path) -> str:
    found, wanted = losses(one), losses(other)
    assert len(found) == len(wanted) == STEPS, f"{len(found)} and {len(wanted)} steps"
    worst = max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True))
    said = f"{STEPS} losses, {wanted[0]:.4f} to {wanted[-1]:.4f}, differ by {worst:.1e}"
    assert worst < 1e-7, f"{said}; allowed 1e-7"
    return said


def state(run: Path) -> Values:
    """The tensors of a run's last checkpoint: weights and optimiser."""
    parts = torch.load(run / LAST, map_location="cpu", weights_only=True)
    of_optimizer = parts["optimizer"]["state"].items()
    found = {f"optimizer {i} {n}": x for i, s in of_optimizer for n, x in s.items()}
    return {**parts["model"], **found}


def killed_and_resumed(place: Place) -> str:
    """SIGKILL inside an epoch, then --resume: the undisturbed run's bits."""
    wanted, run = undisturbed(place), place.out / CHECKPOINTS / "killed"
    shutil.rmtree(run, ignore_errors=True)
    # A checkpoint is written after every third step, and an epoch has five.
    twenty_steps(place, "killed", until=lambda: len(losses(run)) >= 8)
    done = len(losses(run))
    if done == STEPS:
        raise NotRun("the run had ended before it was killed")
    twenty_steps(place, "killed", "--resume")
    assert "resuming from its checkpoint" in (run / "run.log").read_text()
    said = f"killed after step {done} of {STEPS}; "
    bits = state(wanted)
    if different(bits, state(run)):
        again = twenty_steps(place, "again")
        if different(bits, state(again)):  # then rounding is all that can be asked
            return f"{said}no run repeats its bits here; {agreement(run, wanted)}"
    return said + equal_bits(bits, state(run))


def runs(gpu: bool) -> Rows:
    name = f"{STEPS} steps in float64, "
    two = partial(same_losses, name="two", processes=2)
    if gpu:
        yield f"{name}GPU and CPU", partial(same_losses, name="cpu", cpu=True)
        yield "killed and resumed", killed_and_resumed
        yield f"{name}1 and 2 GPUs", partial(two, gpus=2)
    else:
        yield f"{name}1 and 2 processes on the CPU", two
        yield "killed and resumed", killed_and_resumed


# Speed


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
        both = {name: partial(several, run) for name, run in made.items()}
        if not plain and "ours" in both:
            del both["reference"]
        case, note = Case("", make, Work), ""
        try:
            measured = take_turns(both, 3, place.device, case)
        except torch.OutOfMemoryError:
            if len(both) == 1:
                raise
            note = ", plain out of memory"
        if note:
            torch.cuda.empty_cache()
            measured = take_turns({"ours": both["ours"]}, 3, place.device, case)
        own = [*measured.seconds][-1]  # the plain form where it is the only one
        launches, busy, longest = profile(made[own], place)
    seconds = {name: sorted(s)[1] / calls for name, s in measured.seconds.items()}
    rates = {name: samples / s for name, s in seconds.items()}
    extra = measured.extra[own]
    text = f"{rates[own]:.1f} {unit}/s" + note
    if len(rates) == 2:
        text += f", {other} {rates['reference']:.1f}"
        text += f", ratio {rates['ours'] / rates['reference']:.2f}"
    text += "" if extra is None else f"; {extra:.0f} MiB more"
    found = {"per_second": rates, "extra_mib": measured.extra, "longest": longest}
    if place.gpu:
        idle = max(0.0, 1 - busy / seconds[own])
        found |= {"launches": launches, "idle": idle}
        text += f"; {launches} launches, GPU idle {idle:.0%}"
    return found | {"text": text}


def step_speed(place: Place, step: forms.Step, precision: str, **of: Any) -> dict:
    """A pre-training step, beside what was predicted and what is aimed at."""
    make = partial(forms.pretraining, step=step)
    found = speed(place, make, step.pairs, precision=precision, unit="pairs", **of)
    if precision == "bf16" and step.pairs in PREDICTED:
        found["predicted"], found["aim"] = PREDICTED[step.pairs], AIM[step.pairs]
        found["text"] += "; on an H200 predicted {predicted}, aim {aim}".format(**found)
    return found


def svm_speed(place: Place, train: int, plain: bool) -> dict[str, Any]:
    """Fit and test; scikit-learn takes minutes, so each once."""
    both, seconds = forms.linear_svm(Setting(place.device), train, train // 4, 40), {}
    for name in ("ours", "reference")[: 1 + plain]:
        start = time.perf_counter()
        both[name]()
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


def speeds(gpu: bool) -> Rows:
    for precision, pairs, calls, plain in GPU_STEPS if gpu else CPU_STEPS:
        small = forms.Step(pairs, 256, backbone="resnet18", size=64)
        step = forms.Step(pairs) if gpu else small
        name = f"pre-training step, {precision}, {pairs} pairs, {step.backbone}"
        row = partial(step_speed, step=step, precision=precision)
        yield name, partial(row, calls=calls, plain=plain)
    clouds, points = (40, 2048) if gpu else (2, 256)
    run = partial(speed, samples=clouds, calls=5)
    for network in ENCODERS:
        for training, what in ((True, "step"), (False, "features")):
            sizes = Sizes(network, clouds, points, 15, augmented=training)
            make = partial(forms.encoder, sizes=sizes, training=training)
            yield f"{network} {what}, {clouds} x {points}", partial(run, make=make)
    for channels in (3, 64):
        make = partial(
            forms.graphs, channels=channels, k=15, batch=clouds, points=points
        )
        yield f"kNN, {clouds} x {points}, {channels} channels", partial(run, make=make)
    for train, plain in [(2460, True), (9840, False)] if gpu else [(400, True)]:
        name = f"linear SVM, {train} x 2048, 40 classes"
        yield name, partial(svm_speed, train=train, plain=plain)


# An epoch


def epoch(place: Place, shapes: int, copies: int, words: str) -> dict[str, Any]:
    """Pairs a second with the loader, without the first fifth of the epoch."""
    words += " --packed --epochs 1 --svm_every 0 --wandb disabled"
    run = train(place, "epoch", data(place, shapes, copies), words)
    steps = [r for r in read_metrics(run) if "step" in r]
    steps = steps[1 + len(steps) // 5 :]
    # Every record is of as many pairs: seconds for each, and those waited for data.
    seconds = [1 / r["samples_per_second"] for r in steps]
    waited = sum(s * r["data_wait"] for s, r in zip(seconds, steps, strict=True))
    rate, share = len(steps) / sum(seconds), waited / sum(seconds)
    hours = 100 * SHAPES / rate / 3600
    text = f"{rate:.0f} pairs/s, {share:.0%} of the time waiting for data; "
    text += f"100 epochs of {SHAPES} shapes: {hours:.1f} h"
    return {"per_second": rate, "data_wait": share, "hours": hours, "text": text}


def epochs(gpu: bool) -> Rows:
    if not gpu:
        words = "--num_points 256 --image_encoder resnet18 --image_size 64"
        run = partial(epoch, shapes=40, copies=1)
        yield (
            "40 shapes, batch 4",
            partial(run, words=f"{words} --batch_size 4 --print_freq 2"),
        )
        return
    workers = max(1, min(14, (os.cpu_count() or 1) - 2))
    for batch in (128, 20):
        words = f"--batch_size {batch} --precision bf16 --num_workers {workers}"
        run = partial(epoch, shapes=1024, copies=8, words=words)
        yield f"8192 shapes, batch {batch}, bf16, {workers} workers", run
