"""gdown, run as a process, with a lock on the folder that it downloads to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


class Failed(Exception):
    """A source, or all of them, did not give what is wanted; the message says why."""


class Gdown:
    """The downloader: one that resumes, and knows the ways of Google Drive.

    Args:
        lock: a locked file descriptor. gdown inherits it, so that one which outlives a
            killed run keeps the next run from writing into the same files.

    Raises:
        Failed: if it is not installed.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        words = [sys.executable, "-m", "gdown", "--help"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise Failed(
                f"gdown is missing or broken: {sys.executable} -m pip install -U gdown"
            )
        # Older releases lack these: they wait for a dead host as long as it takes.
        wanted = {"--timeout": "60", "--retries": "5"}
        self._flags = [w for f in wanted if f in done.stdout for w in (f, wanted[f])]

    def __call__(self, *words: str) -> bool:
        """Download, going on with what is there; whether it ended well."""
        command = [sys.executable, "-m", "gdown", "--continue", *self._flags, *words]
        done = subprocess.run(command, pass_fds=[self._lock])
        return done.returncode == 0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other runs out of a folder of downloads; it is removed if it ends up empty.

    Raises:
        Failed: if another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks: the run goes on without.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed(f"{folder}: another download is at work there") from error
        yield lock
    finally:
        os.close(lock)
    with contextlib.suppress(OSError):
        folder.rmdir()
