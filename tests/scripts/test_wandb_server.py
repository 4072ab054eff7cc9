"""scripts/wandb_server.sh, with a stand-in for docker that records its arguments."""

import pytest

from tests.scripts.conftest import Shell
from train_crosspoint import get_args_parser

# A docker that knows one container, whose state is in the file `state`.
DOCKER = """
cd "$(dirname "$0")"
[ -e broken ] && { printf 'advice\\nno daemon\\n' >&2; exit 1; }
case "$1" in
  container) [ -e state ] || { echo "No such container" >&2; exit 1; }; cat state ;;
  port) echo 127.0.0.1:28282 ;;
  rm) rm -f state ;;
  run) echo running > state; echo 0a1b2c ;;
esac
"""


class Server(Shell):
    def run(self, *words: str):
        return super().run("wandb_server.sh", *words)

    def said_to_docker(self) -> list[list[str]]:
        """Docker's calls since the last time, without the question if it works."""
        result = [call for call in self.calls("docker") if call != ["info"]]
        (self.folder / "docker.calls").unlink(missing_ok=True)
        return result


@pytest.fixture
def server(tmp_path) -> Server:
    server = Server(tmp_path)
    server.program("docker", DOCKER)
    return server


def test_it_starts_where_the_scripts_look_for_it(server: Server) -> None:
    done = server.run()
    assert done.returncode == 0, done.stderr
    _, (*words, image) = server.said_to_docker()
    assert (words[0], image) == ("run", "wandb/local")
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        "--name": "crosspoint-wandb",
        "--restart": "unless-stopped",
        "--publish": "127.0.0.1:28282:8080",
        "--volume": "crosspoint-wandb:/vol",
    }
    url = get_args_parser().parse_args([]).wb_url
    assert f"wandb login --host {url}, " in done.stdout
    assert done.stdout.endswith("train with --wandb online\n")

    done = server.run()  # it is left alone
    assert done.stdout == "the server is already running, on 127.0.0.1:28282\n"
    assert [call[0] for call in server.said_to_docker()] == ["container", "port"]

    done = server.run("--stop")
    assert done.returncode == 0
    assert server.said_to_docker()[1:] == [["rm", "--force", "crosspoint-wandb"]]
    assert server.run("--stop").returncode == 0  # nothing is left to stop
    assert len(server.said_to_docker()) == 1


def test_a_server_that_ended_is_replaced_also_on_another_port(server: Server) -> None:
    (server.folder / "state").write_text("exited\n")
    done = server.run("--port", "9090", "--address", "0.0.0.0")
    calls = server.said_to_docker()
    assert [call[0] for call in calls] == ["container", "rm", "run"]
    assert "0.0.0.0:9090:8080" in calls[-1]
    assert done.stdout.endswith("--wandb online --wb_url http://localhost:9090\n")


def test_a_docker_that_is_missing_or_fails_is_an_error(server: Server) -> None:
    (server.folder / "broken").touch()
    for words in ([], ["--stop"]):
        done = server.run(*words)
        assert (done.returncode, server.said_to_docker()) == (1, [])
        assert done.stderr.startswith("error: docker does not work: no daemon\n")
    (server.folder / "docker").unlink()
    server.variables["PATH"] = str(server.folder)
    done = server.run()
    assert done.returncode == 1
    assert done.stderr.startswith("error: docker is not installed")


@pytest.mark.parametrize("words", [["--prot"], ["--port", "x"], ["--port"]])
def test_a_wrong_argument_is_refused(words: list[str], server: Server) -> None:
    done = server.run(*words)
    assert done.returncode != 0
    assert words[0] in done.stderr
    assert server.said_to_docker() == []
    assert "scripts/wandb_server.sh --stop" in server.run("--help").stdout
