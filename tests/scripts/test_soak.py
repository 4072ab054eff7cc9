"""scripts/soak.sh: its subcommands, at their shortest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/soak.sh"


def soak(*words: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(
        ["bash", str(SCRIPT), *words], capture_output=True, text=True, env=variables
    )


def test_fuzz() -> None:
    done = soak("fuzz", "31", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 cases each, --seed 5" in done.stdout
    for name in ("ply", "png", "hdf5"):
        assert f"{name}: 11 cases: " in done.stdout


@pytest.mark.parametrize(
    "words", [("nothing",), ("fuzz", "many"), ("fuzz", "9", "x"), ("kills", "x")]
)
def test_what_it_does_not_know(words: tuple[str, ...]) -> None:
    done = soak(*words)
    assert done.returncode == 2 and "error: " in done.stderr


def test_help() -> None:
    done = soak("--help")
    assert done.returncode == 0 and "scripts/soak.sh fuzz [CASES]" in done.stdout
