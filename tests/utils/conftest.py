"""What tests of ``utils`` share: a folder of their own, W&B's files, processes."""

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from tests.helpers.wandb_file import history
from tests.scripts.pueue import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory is an empty folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_wandb(own_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys and settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        if name != "WANDB_SERVICE":  # of this process: W&B's own
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def wandb_files(run: Path, rows: int, pattern: str = "offline-run-*") -> list[Path]:
    """W&B's files of a run, once its process has written so many rows of each."""
    paths = sorted(run.glob(f"wandb/{pattern}/*.wandb"))
    wait_for(lambda: all(len(history(path)) == rows for path in paths), 30)
    return paths


def start_python(code: str, **options: Any) -> Popen[str]:
    """Start a program that may import the repository.

    ``options`` are those of Popen; ``env`` adds to the variables of this process, and
    the outputs are pipes unless told otherwise.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    options = {"stdout": PIPE, "stderr": PIPE, **options}
    return Popen([sys.executable, "-c", code], env=env, text=True, **options)
