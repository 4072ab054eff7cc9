"""scripts/wandb_server.sh, with a stand-in for docker that records its arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from train_crosspoint import get_args_parser

SCRIPT = Path(__file__).parents[2] / "scripts" / "wandb_server.sh"
# A docker that knows one container, of which the file `state` tells.
DOCKER = """#!/bin/sh
printf '%s\\n' "$@" END >> calls
[ -e broken ] && { printf 'advice\\nno daemon\\n' >&2; exit 1; }
case "$1" in
  container) [ -e state ] || { echo "No such container" >&2; exit 1; }; cat state ;;
  port) echo 127.0.0.1:28282 ;;
  rm) rm -f state ;;
  run) echo running > state; echo 0a1b2c ;;
esac
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the script where docker is the stand-in; returns what it said and called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("cat", "head", "rm", "sed", "tail", "sh"):
        found = next(p for p in map(Path, ("/usr/bin", "/bin")) if (p / tool).exists())
        (tmp_path / "bin" / tool).symlink_to(found / tool)

    def run(*words: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        Path("calls").write_text("")
        done = subprocess.run(
            ["/bin/bash", str(SCRIPT), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": str(tmp_path / "bin")},
        )
        calls = Path("calls").read_text().split("END\n")[:-1]
        return done, [call.split("\n")[:-1] for call in calls if call[:4] != "info"]

    return run


@pytest.fixture
def docker(tmp_path: Path, server) -> None:
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)


@pytest.mark.usefixtures("docker")
def test_it_starts_where_the_scripts_look_for_it(server) -> None:
    done, calls = server()
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["container", "run"]
    words = calls[-1]
    assert words[-1] == "wandb/local"
    options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
    assert options == {
        "--name": "crosspoint-wandb",
        "--restart": "unless-stopped",
        "--publish": "127.0.0.1:28282:8080",
        "--volume": "crosspoint-wandb:/vol",
    }
    url = get_args_parser().parse_args([]).wb_url
    assert f"wandb login --host {url}, " in done.stdout
    assert f"{url}/authorize" in done.stdout
    assert "WANDB_API_KEY" in done.stdout
    assert done.stdout.endswith("train with --wandb online\n")


@pytest.mark.usefixtures("docker")
def test_another_port_and_address(server) -> None:
    done, calls = server("--port", "9090", "--address", "0.0.0.0")
    assert "0.0.0.0:9090:8080" in calls[-1]
    url = "http://localhost:9090"
    assert done.stdout.endswith(f"train with --wandb online --wb_url {url}\n")


@pytest.mark.usefixtures("docker")
def test_a_second_start_leaves_a_running_server_alone(server) -> None:
    server()
    done, calls = server()
    assert done.returncode == 0
    assert done.stdout == "the server runs already, on 127.0.0.1:28282\n"
    assert [call[0] for call in calls] == ["container", "port"]


@pytest.mark.usefixtures("docker")
def test_a_server_that_ended_is_made_anew(server) -> None:
    Path("state").write_text("exited\n")
    done, calls = server()
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls] == ["container", "rm", "run"]


@pytest.mark.usefixtures("docker")
def test_stopping_keeps_the_volume(server) -> None:
    server()
    done, calls = server("--stop")
    assert done.returncode == 0
    assert calls[1:] == [["rm", "--force", "crosspoint-wandb"]]
    assert "stay, in the volume crosspoint-wandb" in done.stdout
    done, calls = server("--stop")  # nothing is left to stop
    assert done.returncode == 0
    assert len(calls) == 1


def test_without_docker_it_says_so(server) -> None:
    done, _ = server()
    assert done.returncode == 1
    assert done.stderr.startswith("error: docker is not installed")
    assert "--wandb offline" in done.stderr


@pytest.mark.usefixtures("docker")
def test_a_docker_that_does_not_work_is_quoted(server) -> None:
    Path("broken").touch()
    for words in ([], ["--stop"]):
        done, calls = server(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: docker does not work: no daemon\n")
        assert calls == []


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize("words", [["--prot"], ["--port", "x"], ["--port"]])
def test_what_it_does_not_know_is_refused(words: list[str], server) -> None:
    done, calls = server(*words)
    assert done.returncode in (1, 2)
    assert words[0] in done.stderr
    assert calls == []


def test_help(server) -> None:
    done, _ = server("--help")
    assert done.returncode == 0
    assert "scripts/wandb_server.sh --stop" in done.stdout
    assert "the first to come makes the account" in done.stdout
