"""Runs of ``train_crosspoint.py``, for :mod:`benchmarks.gpu`: exact, and an epoch.

A row of `runs` returns a text, as in :mod:`benchmarks.gpu.exact`; one of `epochs`
numbers and a "text".
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.exact import NotRun, Place, Rows, Values, different, equal_bits
from datasets.prepare.pack import pack
from datasets.synthetic import generate
from utils.run.bookkeeping import LAST
from utils.run.run_folder import CHECKPOINTS, read_metrics

SCRIPT = Path(__file__).resolve().parents[2] / "train_crosspoint.py"
SHAPES = 43_783  # of ShapeNetRender
STEPS = 20  # of a run: four epochs of 40 shapes
RUN = (
    "--num_points 256 --emb_dims 256 --batch_size 8 --epochs 4 --precision fp64 "
    "--image_encoder resnet18 --image_size 64 --print_freq 1 --checkpoint_steps 7 "
    "--num_workers 2 --svm_every 0 --wandb disabled"
)


def data(out: Path, shapes: int, copies: int = 1) -> Path:
    """A packed ``--data_root`` of synthetic shapes, each `copies` times; made once."""
    folder = out / f"data_{shapes * copies}"
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
    out: Path,
    name: str,
    data_root: Path,
    words: str,
    processes: int = 0,
    cpu: bool = False,
    until: Callable[[], bool] = lambda: False,
) -> Path:
    """Run ``train_crosspoint.py`` to its end, or kill it; returns the run folder.

    Args:
        out: gets the run, as ``checkpoints/<name>``, and the output.
        name, data_root, words: of the run; the last are its other flags.
        processes: under torchrun; 0 without it.
        cpu: hide the GPUs.
        until: kill it by SIGKILL as soon as this holds.
    """
    program: list[str | Path] = [sys.executable]
    if processes:
        launcher = f"-m torch.distributed.run --standalone --nproc_per_node={processes}"
        program += launcher.split()
    program += [SCRIPT, "--data_root", data_root, "--exp_name", name, *words.split()]
    output = out / f"{name}.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            program + ["--overwrite"] * ("--resume" not in words),
            cwd=out,
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if cpu else {}),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and not until():
                time.sleep(0.01)
        finally:  # also where the row is out of time
            status = process.poll()
            if status is None and processes:
                process.terminate()  # by which torchrun ends its ranks
                time.sleep(3)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    last = " / ".join(output.read_text().strip().splitlines()[-3:])
    assert not status, f"exit status {status}: {last}; see {output}"
    return out / CHECKPOINTS / name


# Whole runs


def twenty_steps(out: Path, name: str, words: str = "", **options: Any) -> Path:
    return train(out, name, data(out, 40), f"{RUN} {words}", **options)


@functools.cache
def undisturbed(out: Path) -> Path:
    """The run that others are compared with, on this device; once a process."""
    return twenty_steps(out, "undisturbed")


def losses(run: Path) -> Tensor:
    values = [record["loss"] for record in read_metrics(run) if "step" in record]
    return torch.tensor(values, dtype=torch.float64)


def same_losses(actual: Tensor, expected: Tensor, allowed: float) -> str:
    """Losses of two runs, step by step, are equal but for rounding."""
    worst = (actual / expected - 1).abs().max().item()  # NaN if any is
    message = f"{len(expected)} losses, {expected[0]:.4f} to {expected[-1]:.4f}, "
    message += f"differ by {worst:.1e}"
    assert worst < allowed, f"{message}; allowed {allowed:g}"
    return message


def agreement(one: Path, other: Path) -> str:
    """20 steps in float64 have the same losses to 1e-7."""
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == STEPS, f"{len(first)} and {len(second)} steps"
    return same_losses(first, second, 1e-7)


def elsewhere(place: Place, name: str, gpus: int = 0, **options: Any) -> str:
    """A run on another device, or on more processes, is the undisturbed one."""
    if torch.cuda.device_count() < gpus:
        raise NotRun(f"{gpus} GPUs needed, {torch.cuda.device_count()} here")
    expected = undisturbed(place.out)
    return agreement(twenty_steps(place.out, name, **options), expected)


def state(run: Path) -> Values:
    """The tensors of a run's last checkpoint: weights and optimiser."""
    parts = torch.load(run / LAST, map_location="cpu", weights_only=True)
    states = parts["optimizer"]["state"].items()
    optimizer = {f"optimizer {i} {n}": x for i, s in states for n, x in s.items()}
    return {**parts["model"], **optimizer}


def killed_and_resumed(place: Place) -> str:
    """SIGKILL inside an epoch, then --resume: the undisturbed run's bits."""
    out = place.out
    expected, run = undisturbed(out), out / CHECKPOINTS / "killed"
    shutil.rmtree(run, ignore_errors=True)
    # A checkpoint is written after the seventh step, and an epoch has five.
    twenty_steps(out, "killed", until=lambda: len(losses(run)) >= 8)
    done = len(losses(run))
    if done == STEPS:
        raise NotRun("the run had ended before it was killed")
    twenty_steps(out, "killed", "--resume")
    assert "resuming from its checkpoint" in (run / "run.log").read_text()
    prefix = f"killed after step {done} of {STEPS}; "
    bits = state(expected)
    if different(bits, state(run)):
        repeated = twenty_steps(out, "again")
        if different(bits, state(repeated)):  # then rounding is all that can be asked
            return f"{prefix}no run repeats its bits here; {agreement(run, expected)}"
    return prefix + equal_bits(bits, state(run))


def runs(gpu: bool) -> Rows:
    name = f"{STEPS} steps in float64, "
    two = partial(elsewhere, name="two", processes=2)
    if gpu:
        yield f"{name}GPU and CPU", partial(elsewhere, name="cpu", cpu=True)
    else:
        yield f"{name}1 and 2 processes on the CPU", two
    yield "killed and resumed", killed_and_resumed
    if gpu:
        yield f"{name}1 and 2 GPUs", partial(two, gpus=2)


# An epoch


def epoch(place: Place, shapes: int, copies: int, words: str) -> dict[str, Any]:
    """Pairs a second with the loader, without the first fifth of the epoch."""
    words += " --packed --epochs 1 --svm_every 0 --wandb disabled"
    run = train(place.out, "epoch", data(place.out, shapes, copies), words)
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
        words = "--num_points 256 --image_encoder resnet18 --image_size 64 "
        words += "--batch_size 4 --print_freq 2"
        run = partial(epoch, shapes=40, copies=1, words=words)
        yield "40 shapes, batch 4", run
        return
    workers = max(1, min(14, (os.cpu_count() or 1) - 2))
    for batch in (128, 20):
        words = f"--batch_size {batch} --precision bf16 --num_workers {workers}"
        run = partial(epoch, shapes=1024, copies=8, words=words)
        yield f"8192 shapes, batch {batch}, bf16, {workers} workers", run
