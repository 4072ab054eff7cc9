"""The folder of a run: naming, locking, creating, clearing; atomic files, records."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from utils.errors import UsageError
from utils.parallel import distributed

CHECKPOINTS = Path("checkpoints")
# In a run folder.
BEST = Path("models", "best_model.pth")
LAST = Path("models", "checkpoint_last.pth")
PREVIOUS = "checkpoint_previous.pth"  # beside it: its predecessor


def run_folder(exp_name: str) -> Path:
    """``checkpoints/<exp_name>``; a UsageError for a name that leads elsewhere."""
    if Path(exp_name).name != exp_name or exp_name in ("", ".", ".."):
        raise UsageError(f"--exp_name {exp_name!r} is not the name of a folder")
    return CHECKPOINTS / exp_name


def is_resumed(exp_name: str, resume: bool) -> bool:
    """Whether a run continues from a checkpoint: rank 0 decides for all ranks.

    By ``--resume``, or because torchrun has restarted it. A restart continues only what
    an earlier attempt of the same torchrun has opened: a folder that was refused is
    refused again.
    """

    def decide() -> bool:
        folder = run_folder(exp_name)
        return (resume or _is_own_restart(folder)) and (folder / LAST).is_file()

    return distributed.run_on_main(decide)


def _is_own_restart(folder: Path) -> bool:
    """Whether an earlier attempt of the same torchrun has opened the folder: one that
    was refused is refused again."""
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
    sizes: Mapping[Path, int] | None = None,
) -> Path:
    """Rank 0 makes :func:`run_folder`, with ``models/`` in it for a training run.

    Call it when everything else has been checked: it may delete an earlier run.

    Args:
        resume: None for a script without such a flag.
        inputs: files that the run reads, which must not be deleted; "" is ignored.
        sizes: of the weights and checkpoints that the run will write, in bytes, by
            their paths in the folder.

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
            lock = _lock(folder)
            _check_room(folder, sizes or {}, resumed)
            if resumed:
                _check_resumable(folder, restarted)
            else:
                _clear(folder, overwrite, resume, inputs)
            for leftover in folder.glob("models/.*.partial"):
                leftover.unlink()  # a write was killed
            models = folder if resume is None else folder / "models"
            models.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=models).close()  # it may still refuse files
            # Not refused: the lock says who uses the folder.
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}{_launcher()}")
            lock.flush()
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error}") from error

    distributed.run_on_main(make)
    return folder


_locks: dict[Path, TextIO] = {}  # held by this process, by their absolute paths


def _lock(folder: Path) -> TextIO:
    """The lock of a folder; refuse one that another process uses.

    The lock ends with the run or with the process, however that ends; forked workers do
    not hold it. Its file is beside the folder, which ``--overwrite`` deletes. Opening
    and closing that file again in this process would end the lock.
    """
    path = _lock_file(folder)
    if path in _locks:
        return _locks[path]
    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            holder = file.readline().strip() or "another process"
            file.close()
            raise UsageError(
                f"{folder} is in use by {holder}: wait for it, or choose another "
                "--exp_name"
            ) from error
        # Otherwise the file system has no locks: continue without one.
    _locks[path] = file
    return file


def release(folder: Path) -> None:
    """Unlock the folder of a run that has ended."""
    file = _locks.pop(_lock_file(folder), None)
    if file is not None:
        file.close()


def _lock_file(folder: Path) -> Path:
    return (CHECKPOINTS / f".{folder.name}.lock").resolve()


def _check_room(folder: Path, sizes: Mapping[Path, int], resumed: bool) -> None:
    """Refuse a run for whose files the disk is too full."""
    # A resumed run replaces or keeps those of its files that are there; any other run
    # deletes whatever is there.
    paths = [folder / path for path in sizes] if resumed else folder.rglob("*")
    existing = sum(path.stat().st_size for path in paths if path.is_file())
    needed = sum(sizes.values())
    free = shutil.disk_usage(CHECKPOINTS).free
    if free + existing < needed:
        raise UsageError(
            f"{folder}: {free / 2**20:.0f} MiB are free and checkpoints need about "
            f"{(needed - existing) / 2**20:.0f}: make room, or start on another disk"
        )


def _clear(
    folder: Path, overwrite: bool, resume: bool | None, inputs: Sequence[str]
) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --exp_name")
    # A failed start leaves a log and a configuration, but no results.
    leftovers = {"config.json", "run.log", "metrics.jsonl", "models", "wandb"}
    metrics, weights = folder / "metrics.jsonl", [*folder.glob("models/*.pth")]
    recorded = metrics.is_file() and metrics.stat().st_size > 0
    others = {path.name for path in folder.iterdir()} - leftovers
    if (others or recorded or weights) and not overwrite:
        go_on = "" if resume is None else "continue with --resume, "
        raise UsageError(
            f"{folder} is not empty: {go_on}delete it with --overwrite, "
            "or choose another --exp_name"
        )
    for path in filter(None, inputs):
        if folder.resolve() in Path(path).resolve().parents:
            raise UsageError(
                f"--overwrite would delete {path}, which this run reads: "
                "choose another --exp_name"
            )
    if resume is None and weights:
        raise UsageError(
            f"{folder} holds the weights of a training run, which this run would "
            "delete: choose another --exp_name"
        )
    shutil.rmtree(folder)


def _check_resumable(folder: Path, restarted: bool) -> None:
    """Refuse to restart over results if there is no checkpoint to resume from."""
    last = folder / LAST
    before = last.with_name(PREVIOUS)
    if last.is_file():
        return
    if before.is_file():
        raise UsageError(
            f"{last} is missing, but the previous checkpoint exists; to resume from "
            f"it: mv {before} {last}"
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


def replace_file(
    path: str | Path, content: bytes | memoryview, previous: str = ""
) -> None:
    """Replace a file atomically: there is always the old one or the complete new one.

    Writes a temporary file in the same folder, flushes it to the disk and renames it.
    ``previous`` is the name under which the old file is kept beside it, if any.

    Raises:
        UsageError: if it cannot be written; the old file is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.is_file():
            _link_or_copy(path, path.with_name(previous))
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # where folders cannot be flushed
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename survives a power cut
            finally:
                os.close(folder)
    except OSError as error:
        status = "the previous one is intact" if path.is_file() else "there is none yet"
        raise UsageError(
            f"{path} cannot be written: {error.strerror}; {status}. Check the disk's "
            "free space and the folder's permissions"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # of a folder that is not writable
            temporary.unlink(missing_ok=True)


def _link_or_copy(path: Path, name: Path) -> None:
    """Make ``name`` another name of the file; either is complete at every moment."""
    link = path.with_name(f".{name.name}.{os.getpid()}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, name)
