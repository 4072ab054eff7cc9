"""Stands in for gdown: serves from a folder, resumes like it, and fails on request.

Run as ``python -m gdown`` from a folder that is first in PYTHONPATH. The folder
$FAKE_DRIVE holds a file for every address, named by :func:`served_as`, and may hold
``cut`` (how many bytes come before the connection ends), ``kill`` (kills the caller
then) and ``slow`` (waits a minute then). Calls are added to ``calls``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

DRIVE = Path(os.environ["FAKE_DRIVE"])


def served_as(address: str) -> str:
    """The name of the file that an address or id is answered with."""
    return address.replace("/", "_").replace(":", "_")


def stop_here() -> None:
    if (DRIVE / "kill").exists():
        os.kill(os.getppid(), signal.SIGKILL)
    if (DRIVE / "slow").exists():
        time.sleep(60)
    print("fake gdown: connection lost", file=sys.stderr)
    sys.exit(1)


def download(source: Path, target: Path) -> None:
    """As gdown does it: into NAME????????.part, which becomes NAME at the end."""
    if target.exists():
        return
    begun = [
        path
        for path in target.parent.glob(f"{target.name}*.part")
        if len(path.name) == len(target.name) + 13
    ]
    assert len(begun) < 2, begun
    partial = begun[0] if begun else target.with_name(f"{target.name}12345678.part")
    content = source.read_bytes()
    start = partial.stat().st_size if begun else 0
    if begun and start >= len(content):
        print("fake gdown: no such range", file=sys.stderr)
        sys.exit(1)
    end = len(content)
    if (DRIVE / "cut").exists():
        end = int((DRIVE / "cut").read_text())
    with open(partial, "ab") as file:
        file.write(content[start:end])
    if (DRIVE / "cut").exists():
        stop_here()
    partial.rename(target)


def main() -> None:
    words = sys.argv[1:]
    if "--help" in words:
        print("--continue --folder --timeout SECONDS --retries N")
        return
    with open(DRIVE / "calls", "a") as calls:
        print(*words, file=calls)
    source, target = DRIVE / served_as(words[-1]), Path(words[words.index("-O") + 1])
    if not source.exists():
        print(f"fake gdown: no answer from {words[-1]}", file=sys.stderr)
        sys.exit(1)
    if "--folder" in words:
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        download(source, target)


if __name__ == "__main__":
    main()
