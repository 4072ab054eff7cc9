"""Queues to enqueue in: a private daemon of pueue's own, and a stand-in for it."""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALLED = bool(shutil.which("pueue") and shutil.which("pueued"))


@dataclass
class Task:
    """What the queue knows of a task; ``state`` is e.g. Running, Success or Failed."""

    label: str
    group: str
    folder: str
    after: set[str]
    words: list[str]
    state: str = "Queued"


class Pueue:
    """pueue's daemon with its configuration, socket and state in a folder of its own.

    Attributes:
        variables: environment of a client; its PATH is also that of the tasks.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        # Not pytest's folder: a socket's path has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="pueue"))
        config = self.folder / "pueue.yml"
        paths = ("pueue_directory", "runtime_directory")
        shared = {name: str(self.folder) for name in paths}
        shared["unix_socket_path"] = str(self.folder / "socket")
        config.write_text(json.dumps({"shared": shared}))  # JSON is YAML
        self.variables = {**variables, "PUEUE_CONFIG_PATH": str(config)}
        self.start()
        self("group", "add", "gpu", "--parallel", "2")

    def start(self) -> None:
        command = ["pueued", "--config", self.variables["PUEUE_CONFIG_PATH"]]
        with open(self.folder / "daemon.log", "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self._run("status").returncode == 0, 20)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["pueue", *words]
        pipe = {"stdout": subprocess.PIPE, "text": True, "timeout": 1200}
        return subprocess.run(command, env=self.variables, **pipe)

    def __call__(self, *words: str) -> str:
        """The output of ``pueue WORDS``."""
        done = self._run(*words)
        done.check_returncode()
        return done.stdout

    def tasks(self) -> dict[str, Task]:
        """All tasks by their numbers, in this order."""
        result = json.loads(self("status", "--json"))["tasks"]
        return {
            number: Task(
                task["label"],
                task["group"],
                task["path"],
                {str(other) for other in task["dependencies"]},
                shlex.split(task["command"]),
                state(task["status"]),
            )
            for number, task in sorted(result.items(), key=lambda item: int(item[0]))
        }

    def states(self) -> dict[str, str]:
        """The state of each label's latest task."""
        return {task.label: task.state for task in self.tasks().values()}

    def wait(self) -> None:
        """Until all tasks have ended."""
        self("wait", "--all", "--quiet")

    def close(self) -> None:
        self.process.terminate()  # ends the tasks too
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def state(status: Any) -> str:
    """The name of a state, which pueue 3 and 4 put at other places.

    "Running", {"Running": {"start": ...}}; {"Done": {"Failed": 1}}, {"Done": {"result":
    {"Failed": 1}, ...}}; {"Done": "Success"}, {"Done": {"result": "Success", ...}}.
    """
    if isinstance(status, str):
        return status
    ((name, inside),) = status.items()
    if name != "Done":
        return name
    return state(inside.get("result", inside) if isinstance(inside, dict) else inside)


class StandIn:
    """Records what is enqueued; :meth:`wait` runs it, one task after the other."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.variables = shell.variables
        shell.program("pueue", f"grep -c ^END {shell.folder}/pueue.calls")  # 1, 2, ...

    def tasks(self) -> dict[str, Task]:
        result = {}
        for number, words in enumerate(self.shell.calls("pueue"), 1):
            *options, mark, line = words
            assert (options[:2], mark) == (["add", "--print-task-id"], "--")
            flags = list(zip(options[2::2], options[3::2], strict=True))
            names = ("--label", "--group", "--working-directory")
            values = [dict(flags)[name] for name in names]
            after = {value for flag, value in flags if flag == "--after"}
            result[str(number)] = Task(*values, after, shlex.split(line))
        return result

    def wait(self) -> None:
        for words in self.shell.calls("pueue"):
            folder = words[words.index("--working-directory") + 1]
            command = ["sh", "-c", words[-1]]
            subprocess.run(command, cwd=folder, env={**os.environ, **self.variables})

    def close(self) -> None:
        pass


def wait_for(happened: Any, seconds: float) -> None:
    """Wait until ``happened()``.

    Raises:
        AssertionError: if it has not, after so many seconds.
    """
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)
