"""The folder of a run: named, locked, made or cleared, and its metrics read."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from utils.errors import UsageError
from utils.parallel import distributed

CHECKPOINTS = Path("checkpoints")


def run_folder(exp_name: str) -> Path:
    """``checkpoints/<exp_name>``.

    Raises:
        UsageError: if the name is not that of a folder directly in ``checkpoints``.
    """
    if Path(exp_name).name != exp_name or exp_name in ("", ".", ".."):
        raise UsageError(f"--exp_name {exp_name!r} is not the name of a folder")
    return CHECKPOINTS / exp_name


def continues(exp_name: str, resume: bool) -> bool:
    """Whether a run continues: by ``--resume``, or because torchrun restarted it.

    A restart continues only what an earlier attempt of the same torchrun has opened: a
    folder that was refused is refused again.
    """
    return resume or _is_own_restart(run_folder(exp_name))


def _is_own_restart(folder: Path) -> bool:
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    path = _lock_file(folder)
    return path.is_file() and path.read_text(encoding="utf-8").endswith(_launcher())


def _launcher() -> str:
    """The torchrun of this process, the same over its restarts; else the shell."""
    number = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"\nstarted by process {os.getppid()} {number}"


def open_run_folder(
    exp_name: str,
    overwrite: bool = False,
    resume: bool | None = None,
    inputs: Sequence[str] = (),
    needed: int = 0,
) -> Path:
    """Rank 0 makes :func:`run_folder`, with ``models/`` in it for a training run.

    Call it when everything else has been checked: it may delete an earlier run.

    Args:
        exp_name: name of the run.
        overwrite: delete what an earlier run left.
        resume: keep it and continue; None for a script without such a flag.
        inputs: files that the run reads, which must not be deleted.
        needed: bytes of the run's weights and checkpoints.

    Raises:
        UsageError: if the folder is not empty and neither flag was given, or holds a
            run that cannot be resumed, or weights of a training run that an evaluation
            would delete, or an input; if it cannot be written, or the disk is too full.
    """
    folder = run_folder(exp_name)

    def make() -> None:
        try:
            CHECKPOINTS.mkdir(exist_ok=True)
            restarted = _is_own_restart(folder)  # before the lock: see there
            resumed = bool(resume) or restarted
            _lock(folder)
            _check_room(folder, needed, resumed)
            if resumed:
                _check_resumable(folder, restarted)
            else:
                _clear(folder, overwrite, resume, inputs)
            for leftover in folder.glob("models/.*.partial"):
                leftover.unlink()  # a write was killed
            models = "" if resume is None else "models"
            (folder / models).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / models):
                pass  # a folder that exists may still refuse files
            _sign(folder)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}") from error

    distributed.run_on_main(make)
    return folder


_locks: dict[Path, TextIO] = {}  # held by this process, by their absolute paths


def _lock(folder: Path) -> None:
    """Refuse a folder that another process uses.

    The lock ends with the run or with the process, however that ends; forked workers do
    not hold it. Its file is beside the folder, which ``--overwrite`` deletes. Opening
    and closing that file again in this process would end the lock.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
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
        holder = file.readline().strip() or "another process"
        file.close()
        raise UsageError(
            f"{folder} is in use by {holder}: wait for it, or choose another --exp_name"
        ) from error
    _locks[path] = file


def _sign(folder: Path) -> None:
    """Note in the lock who uses the folder, now that it has not been refused."""
    text = f"process {os.getpid()} on {platform.node()}{_launcher()}"
    path = _lock_file(folder)
    if path not in _locks:  # no locks here
        path.write_text(text, encoding="utf-8")
        return
    _locks[path].truncate(0)
    _locks[path].write(text)
    _locks[path].flush()


def release(folder: Path) -> None:
    """Unlock the folder of a run that has ended."""
    file = _locks.pop(_lock_file(folder), None)
    if file is not None:
        file.close()


def _lock_file(folder: Path) -> Path:
    return (CHECKPOINTS / f".{folder.name}.lock").resolve()


# Files that a resumed run replaces.
_REWRITTEN = ("checkpoint_*.pth", "best_model.pth", "img_model_best.pth")


def _check_room(folder: Path, needed: int, resumed: bool) -> None:
    patterns = [f"models/{p}" for p in _REWRITTEN] if resumed else ["**/*"]
    files = {f for p in patterns for f in folder.glob(p) if f.is_file()}
    there = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(CHECKPOINTS).free
    if free + there < needed:
        raise UsageError(
            f"{folder}: {free / 2**20:.0f} MiB are free and checkpoints need about "
            f"{(needed - there) / 2**20:.0f}: make room, or start on another disk"
        )


def _clear(
    folder: Path, overwrite: bool, resume: bool | None, inputs: Sequence[str]
) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --exp_name")
    # A failed start leaves a log and a configuration, but no results.
    leftovers = ("config.json", "run.log", "metrics.jsonl", "models", "wandb")
    metrics = folder / "metrics.jsonl"
    filled = any(path.name not in leftovers for path in folder.iterdir())
    filled = filled or (metrics.is_file() and metrics.stat().st_size > 0)
    filled = filled or any(folder.glob("models/*.pth"))
    if filled and not overwrite:
        go_on = "" if resume is None else "continue with --resume, "
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
            f"{folder} holds the weights of a training run, which this run would "
            "delete: choose another --exp_name"
        )
    shutil.rmtree(folder)


def _check_resumable(folder: Path, restarted: bool) -> None:
    """Refuse to restart over results if there is no checkpoint to resume from."""
    last = folder / "models" / "checkpoint_last.pth"
    before = last.with_name("checkpoint_previous.pth")
    if last.is_file():
        return
    if before.is_file():
        raise UsageError(
            f"{last} is missing, its predecessor is there. To continue from that: "
            f"mv {before} {last}"
        )
    if restarted:  # between the first weights and the first checkpoint
        return
    # A run that was stopped before its first checkpoint starts from the beginning.
    foreign = any("step" not in record for record in read_metrics(folder))
    if foreign or any(folder.glob("models/*.pth")):
        raise UsageError(
            f"{folder} holds results, but no models/checkpoint_last.pth to --resume "
            "from: delete it with --overwrite, or choose another --exp_name"
        )


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run's ``metrics.jsonl``; none before it has started.

    An incomplete last line is left out: it is being written, or a crash cut it off.
    """
    path = Path(folder, "metrics.jsonl")
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def replace_file(path: str | Path, content: bytes) -> None:
    """Replace a file atomically: there is always the old one or the complete new one.

    Raises:
        UsageError: if it cannot be written; the old file is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
