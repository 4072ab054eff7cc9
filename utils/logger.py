"""What a run leaves behind: its folder, config.json, run.log, metrics.jsonl."""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from utils import distributed, wandb_run
from utils.cli import UsageError, message

CHECKPOINTS = Path("checkpoints")


def run_folder(exp_name: str) -> Path:
    """``checkpoints/<exp_name>``.

    Raises:
        UsageError: if the name is not that of a folder directly in ``checkpoints``.
    """
    if Path(exp_name).name != exp_name or exp_name in ("", ".", ".."):
        raise UsageError(f"--exp_name {exp_name!r} is not the name of a folder")
    return CHECKPOINTS / exp_name


def continues(resume: bool) -> bool:
    """Whether a run goes on where it was: by ``--resume``, or restarted by torchrun."""
    return resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def open_run_folder(
    exp_name: str,
    overwrite: bool = False,
    resume: bool | None = None,
    inputs: Sequence[str] = (),
) -> Path:
    """Rank 0 makes :func:`run_folder`, ``models/`` in it for a training run.

    To be called when everything else is known to be in order: it may delete.

    Args:
        exp_name: name of the run.
        overwrite: delete what an earlier run left.
        resume: keep it and go on; None for a script that has no such flag.
        inputs: files that the run reads, which must not be deleted.

    Raises:
        UsageError: if the folder holds something and neither flag was given, or a run
            that cannot be resumed, or weights of a training run that an evaluation
            would delete, or an input; or if it cannot be written.
    """
    folder = run_folder(exp_name)

    def make() -> None:
        try:
            _lock(folder)
            if continues(bool(resume)):
                _check_resumable(folder)
            else:
                _clear(folder, overwrite, resume, inputs)
            for leftover in folder.glob("models/.*.partial"):
                leftover.unlink()  # of a write that was killed
            models = "" if resume is None else "models"
            (folder / models).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / models):
                pass  # a folder that exists may still refuse files
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}") from error

    distributed.run_on_main(make)
    return folder


_locks: dict[Path, TextIO] = {}  # held by this process, by their absolute paths


def _lock(folder: Path) -> None:
    """Refuse a folder that another process works in.

    The lock is the process's own: it ends with it, however that ends, or with the run,
    and forked workers do not have it. It is beside the folder, which ``--overwrite``
    deletes.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    CHECKPOINTS.mkdir(exist_ok=True)
    path = _lock_file(folder)
    if path in _locks:
        return
    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            file.close()  # a file system without locks
            return
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UsageError(
            f"{folder} is in use by {holder}: wait for it, or choose another --exp_name"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    _locks[path] = file


def _lock_file(folder: Path) -> Path:
    return (CHECKPOINTS / f".{folder.name}.lock").resolve()


def _clear(
    folder: Path, overwrite: bool, resume: bool | None, inputs: Sequence[str]
) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --exp_name")
    # A start that failed leaves a log and a configuration, but no results.
    leftovers = ("config.json", "run.log", "metrics.jsonl", "models", "wandb")
    metrics = folder / "metrics.jsonl"
    filled = any(path.name not in leftovers for path in folder.iterdir())
    filled = filled or (metrics.is_file() and metrics.stat().st_size > 0)
    filled = filled or any(folder.glob("models/*.pth"))
    if filled and not overwrite:
        go_on = "" if resume is None else "go on with --resume, "
        raise UsageError(
            f"{folder} is not empty: {go_on}delete it with --overwrite, "
            "or choose another --exp_name"
        )
    for path in inputs:
        if folder.resolve() in Path(path).resolve().parents:
            raise UsageError(
                f"--overwrite would delete {path}, which this run reads: "
                "choose another --exp_name"
            )
    if resume is None and any(folder.glob("models/*.pth")):
        raise UsageError(
            f"{folder} holds the weights of a training run, which this one would "
            "delete: choose another --exp_name"
        )
    shutil.rmtree(folder)


def _check_resumable(folder: Path) -> None:
    """Refuse to start anew over results, where there is no checkpoint to go on from."""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if restarted or (folder / "models" / "checkpoint_last.pth").is_file():
        return
    # A run that was stopped before its first checkpoint starts again.
    foreign = any("step" not in record for record in read_metrics(folder))
    if foreign or any(folder.glob("models/*.pth")):
        raise UsageError(
            f"{folder} holds results, but no models/checkpoint_last.pth to --resume "
            "from: delete it with --overwrite, or choose another --exp_name"
        )


def describe_environment() -> dict[str, str]:
    """Versions, machine and git commit, as strings."""
    import numpy
    import torchvision

    def git(*command: str) -> str:
        here = Path(__file__).resolve().parent
        done = subprocess.run(
            ["git", "-C", str(here), *command], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
        if git("status", "--porcelain", "--untracked-files=no"):
            commit += " (modified)"
    except OSError:  # no git on this machine
        commit = "unknown"
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, "
        + (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
            if torch.cuda.is_available()
            else "no GPU"
        ),
    }


def run_rows(
    args: argparse.Namespace, process: distributed.Process, steps: int
) -> dict[str, str]:
    """Rows of :meth:`RunLogger.introduce` that every training script has.

    Args:
        args: of the script.
        process: this one.
        steps: of an epoch.
    """
    world = process.world_size
    return {
        "batch": f"{args.batch_size} global, {args.batch_size // world} a rank "
        f"on {world} {'process' if world == 1 else 'processes'}",
        "steps": f"{steps} an epoch, {args.epochs} epochs",
        "device": f"{process.device.type}, backend {process.backend}, {args.precision}",
    }


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run's ``metrics.jsonl``; none before it has started.

    A last line that is being written, or was cut off by a crash, is left out.
    """
    path = Path(folder, "metrics.jsonl")
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class RunLogger:
    """Writes a run's text, metrics and W&B record on rank 0; silent on other ranks.

    Args:
        folder: the run folder.
        arguments: of the script; ``wandb``, ``wb_url`` and ``exp_name`` are used.
        resumed_at: ``(epoch, step)`` of a resumed run: later lines of
            ``metrics.jsonl`` are dropped, because those steps are done again.
    """

    def __init__(
        self,
        folder: Path,
        arguments: dict[str, Any],
        resumed_at: tuple[int, int] | None = None,
    ) -> None:
        self.main = distributed.rank() == 0
        self.folder = folder
        self._lock_file = _lock_file(folder)
        self._wandb: wandb_run.WandbRun | None = None
        if not self.main:
            return
        self.environment = describe_environment()
        config = {"arguments": arguments, "environment": self.environment}
        config["world_size"] = distributed.world_size()
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        metrics = folder / "metrics.jsonl"
        if resumed_at is not None and metrics.is_file():
            _keep_metrics_before(metrics, *resumed_at)
        mode = "w" if resumed_at is None else "a"
        self._log = open(folder / "run.log", mode, encoding="utf-8")
        self._metrics = open(metrics, mode, encoding="utf-8")
        self._wandb = wandb_run.start(
            folder, arguments, config, resumed_at is not None, self.info
        )

    def info(self, text: str) -> None:
        """A line for the terminal and ``run.log``, never in the middle of a bar."""
        if not self.main:
            return
        tqdm.write(text)
        self._write(text)

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.split("\n"):
            self._log.write(f"{stamp}  {line}\n")
        self._log.flush()

    def introduce(self, rows: dict[str, str]) -> None:
        """Say what is about to run, and on what, one labelled row each."""
        if self.main:
            found = self.environment
            names = ("torch", "torchvision", "numpy", "python")
            versions = ", ".join(f"{name} {found[name]}" for name in names)
            rows = {
                **rows,
                "machine": found["machine"],
                "versions": versions,
                "commit": found["commit"],
                "results": str(self.folder),
            }
            self.info("\n".join(f"{name:<9}{text}" for name, text in rows.items()))

    def record(self, values: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``, and the same values for W&B."""
        if not self.main:
            return
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()
        if self._wandb is not None:
            self._wandb.log(values)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        """Close everything; what ended the run stays in ``run.log``."""
        if not self.main:
            return
        if error is not None:
            self._write(f"ended by {kind.__name__}: {message(error)}")
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)
        self._log.close()
        self._metrics.close()
        if self._lock_file in _locks:
            _locks.pop(self._lock_file).close()


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A tqdm bar on rank 0 of a terminal, silent everywhere else."""
    silent = distributed.rank() != 0 or not sys.stderr.isatty()
    return tqdm(items, disable=silent, dynamic_ncols=True, leave=False, **options)


class ThroughputMeter:
    """Samples a second, and the share of the time spent waiting for data.

    Args:
        batch_size: samples a step over all ranks.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def waiting_for(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The loader's batches; the time until each arrives counts as waiting."""
        batches = iter(loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            self._steps += 1
            yield batch

    def read(self) -> dict[str, float]:
        """``samples_per_second`` and ``data_wait`` since the last call."""
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        values = {
            "samples_per_second": round(self._steps * self.batch_size / seconds, 2),
            "data_wait": round(self._waited / seconds, 3),
        }
        self._steps, self._waited, self._since = 0, 0.0, now
        return values


def _keep_metrics_before(path: Path, epoch: int, step: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
        done = (
            values["epoch"] < epoch if "epoch_end" in values else values["step"] < step
        )
        if done:
            kept.append(line + "\n")
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
