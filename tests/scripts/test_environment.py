"""Which environment the shell scripts use, and what they install into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = Path(__file__).resolve().parents[2] / "scripts" / "environment.sh"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with requirements, and a .venv whose pip notes what it is asked for."""
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\npytest\n")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    python = programs / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pip ] || exec {sys.executable} "$@"\n'
        f'echo "$@" >>{tmp_path}/asked\n'
    )
    python.chmod(0o755)
    return tmp_path


def source(project: Path, wanted: str, **active: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHON")}
    done = subprocess.run(
        ["bash", "-euc", f". {ENVIRONMENT} {wanted}; command -v python"],
        cwd=project,
        env={**kept, **active},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def asked(project: Path) -> list[str]:
    """The files that pip was to install."""
    notes = project / "asked"
    return [note.split()[-1] for note in notes.read_text().splitlines()]


def test_the_project_s_own_environment_gets_what_is_missing(project: Path) -> None:
    own = {"VIRTUAL_ENV": str(project / ".venv")}
    for active in ({}, own, own):
        said = source(project, "requirements.txt", **active)
        assert str(project / ".venv/bin/python") in said
    assert asked(project) == ["requirements.txt"]
    source(
        project, "requirements-dev.txt", **own
    )  # as the tests do, after a quick start
    for wanted in ("requirements-dev.txt", "requirements.txt"):
        assert ".venv (reused)" in source(project, wanted, **own)
    assert asked(project) == ["requirements.txt", "requirements-dev.txt"]


def test_another_environment_is_used_as_it_is(project: Path) -> None:
    said = source(project, "requirements-dev.txt", VIRTUAL_ENV=sys.prefix)
    assert f"environment: {sys.prefix} (active)" in said
    assert not (project / "asked").exists()
