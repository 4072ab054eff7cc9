"""Shell scripts run with stand-ins for the programs that they call."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.scripts.pueue import INSTALLED, Pueue, StandIn

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """Runs scripts with programs of ``folder`` before all others on PATH.

    Attributes:
        variables: of the environment; one that is "" is not set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.variables = {**os.environ, "PATH": path}

    def program(self, name: str, body: str = "") -> None:
        """A program that records its arguments and runs ``body``."""
        path = self.folder / name
        record = f'printf "%s\\n" "$@" END >>{self.folder}/{name}.calls'
        path.write_text(f"#!/bin/bash\n{record}\n{body}\n")
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of a program."""
        log = self.folder / f"{name}.calls"
        text = log.read_text() if log.exists() else ""
        return [call.split("\n")[:-1] for call in text.split("END\n")[:-1]]

    def call(self, *command: str, **variables: str) -> CompletedProcess[str]:
        """Run a command in the folder."""
        variables = {**self.variables, **variables}
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={name: value for name, value in variables.items() if value},
            timeout=120,
        )

    def run(self, script: str | Path, *words: str, **variables: str):
        """Run a script of ``scripts/``."""
        path = str(ROOT / "scripts" / script)
        return self.call("/bin/bash", path, *words, **variables)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """With a torchrun that says its words, waits while there is a file ``hold``, and
    fails for the run that is named in FAIL."""
    shell = Shell(tmp_path)
    shell.program(
        "torchrun",
        f"""echo "run: $*"
while [ -e {tmp_path}/hold ]; do sleep 0.05; done
case " $* " in *" ${{FAIL:--}} "*) exit 3 ;; esac""",
    )
    shell.variables["NGPU"] = "0"
    return shell


needs_pueue = pytest.mark.skipif(not INSTALLED, reason="no pueue is installed")


@pytest.fixture(params=["stand-in", pytest.param("pueue", marks=needs_pueue)])
def queue(request: pytest.FixtureRequest, shell: Shell) -> Iterator[Pueue | StandIn]:
    """An empty queue for the shell's scripts, with a group ``gpu`` of two slots."""
    made = StandIn(shell) if request.param == "stand-in" else Pueue(shell.variables)
    shell.variables = made.variables
    yield made
    made.close()
