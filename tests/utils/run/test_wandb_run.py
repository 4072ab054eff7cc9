"""W&B: what is recorded, and that it neither stops nor blocks a run."""

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from tests.helpers.runs import pretrain
from tests.helpers.wandb_file import config, history
from tests.helpers.wandb_server import WandbServer
from tests.utils.conftest import ROOT, start_python, wandb_files
from utils.run import wandb_run

PAGE = (ROOT / "docs" / "wandb.md").read_text(encoding="utf-8")
NOWHERE = "http://127.0.0.1:9"  # where no server is
KEY = "0123456789abcdef" * 2 + "deadbeef"  # looks like a key, and can be searched for
STEP = {"step": 0, "epoch": 0, "loss": 2.5}
EPOCH = {"epoch": 0, "epoch_end": True}
CONFIG = {"arguments": {"lr": 0.1}, "environment": {"commit": "0a1b2c"}}

pytestmark = pytest.mark.usefixtures("own_wandb")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_run, "START", 3.0)
    monkeypatch.setattr(wandb_run, "FINISH", 3.0)
    with WandbServer() as server:
        yield server


def started(mode: str, url: str = NOWHERE, resumed: bool = False):
    """W&B's part of a run in ``run/``, and the list of the lines that it will say."""
    Path("run").mkdir(exist_ok=True)
    messages: list[str] = []
    arguments = {"wandb": mode, "wb_url": url, "exp_name": "run"}
    run = wandb_run.start(Path("run"), arguments, CONFIG, resumed, messages.append)
    return run, messages


def record(mode: str, url: str = NOWHERE, resumed: bool = False) -> list[str]:
    """A short complete run; returns the lines it said."""
    run, messages = started(mode, url, resumed)
    run.log(STEP)
    run.log(EPOCH | {name: number / 8 for number, name in enumerate(wandb_run.NAMES)})
    run.finish(exit_code=0)
    return messages


def files(pattern: str = "offline-run-*") -> list[Path]:
    """The records on disk, with both rows."""
    return wandb_files(Path("run"), 2, pattern)


def test_a_record_on_disk_has_the_configuration_and_the_published_names() -> None:
    assert record("offline") == []
    (path,) = files()
    values = enumerate(wandb_run.NAMES.values())
    named = {name: number / 8 for number, name in values}
    assert history(path) == [STEP, {"step": 0} | EPOCH | named]
    assert config(path) == CONFIG
    names = {}
    for ours, published in re.findall(r"^\| (`.*`) \| (`[A-Z].*`) \|$", PAGE, re.M):
        both = zip(ours.split(", "), published.split(", "), strict=True)
        names |= {name.strip("`"): title.strip("`") for name, title in both}
    assert names == wandb_run.NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("refuses", "connection refused"),
        ("500", "HTTP 500"),
        ("hangs", "Timed out"),
        ("401", "needs a valid key: set WANDB_API_KEY"),
    ],
)
def test_without_a_server_the_run_is_offline_and_says_so(mood, reason, server) -> None:
    server.mood = mood
    url = NOWHERE if mood == "refuses" else server.url
    (line,) = record("online", url)
    assert line.startswith("W&B is offline for this run: ")
    assert reason in line and url in line
    later = f"WANDB_BASE_URL={url} wandb sync run/wandb/offline-run-*"
    assert line.endswith(f"; to upload it later: {later}")
    assert len(files()) == 1
    assert not server.runs


def test_an_offline_run_and_its_resumption_are_uploaded_as_one(server) -> None:
    record("offline")
    record("offline", resumed=True)
    both = files()
    server.known = True  # from now on the server says that the run's last step is 2
    kept = {name: v for name, v in os.environ.items() if name != "WANDB_SERVICE"}
    subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", *(p.parent for p in both)],
        env=kept | {"WANDB_BASE_URL": server.url},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert len(server.runs) == 1
    assert [row["_step"] for row in server.history(whole=True)] == [0, 1, 3, 4]
    assert server.history() == 2 * history(both[0])
    record("offline")  # not resumed: another run
    assert len({path.stem for path in files()}) == 2


def test_an_online_run_is_resumed_as_the_same_run(server: WandbServer) -> None:
    assert record("online", server.url) == []
    assert [row["step"] for row in server.history()] == [0, 0]
    server.known = True
    assert record("online", server.url, resumed=True) == []
    assert len(server.runs) == 1
    asked = [b for _, b in server.bodies if "RunResumeStatus" in b.get("query", "")]
    assert server.runs == [b["variables"]["name"] for b in asked]
    assert len(server.history()) == 4


@pytest.mark.slow
def test_a_server_that_hangs_in_the_middle_does_not_block_the_run(server) -> None:
    run, messages = started("online", server.url)
    run.log(STEP)
    server.mood = "hangs"
    recovery = threading.Timer(20, setattr, (server, "mood", "well"))
    recovery.start()  # so that a run that is blocked fails the test, and does not hang
    run.log(EPOCH | {"svm_accuracy": 0.5})
    run.finish(exit_code=0)
    recovery.cancel()
    (place,) = Path("run/wandb").glob("run-*")
    (line,) = messages
    assert line.startswith("W&B: Timed out finishing run")
    assert line.endswith(f"wandb sync --include-online {place.resolve()}")
    (path,) = files("run-*")
    assert history(path)[-1]["Overall Linear Accuracy"] == 0.5


def test_a_wandb_that_fails_in_the_middle_says_so_once() -> None:
    run, messages = started("offline")
    wandb.finish()  # from here on, logging to it raises
    run.log(STEP)
    run.log(STEP)
    run.finish(exit_code=0)
    (line,) = messages
    assert "is finished" in line and "wandb sync" in line


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # of this process
    script = (
        "from pathlib import Path; from utils.run import wandb_run; "
        f"arguments = {{'exp_name': 'run', 'wandb': 'online', 'wb_url': '{NOWHERE}'}}; "
        "run = wandb_run.start(Path(), arguments, {}, False, print); run.finish(0)"
    )
    ours, terminal = pty.openpty()
    process = start_python(script, stdin=terminal, stderr=terminal)
    (line,) = process.communicate(timeout=60)[0].splitlines()
    os.close(terminal)
    os.close(ours)
    assert line.startswith("W&B is offline for this run: ")
    assert f"set WANDB_API_KEY, or run 'wandb login --host {NOWHERE}'" in line


def test_the_key_is_used_and_in_no_file(server, tmp_path, synthetic_root) -> None:
    words = ("--wandb", "online", "--wb_url", server.url, "--epochs", "1")
    run = pretrain(tmp_path, synthetic_root, *words)
    assert any("epoch_end" in row for row in server.history())
    (login,) = server.logins
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"config.json", "run.log", "checkpoint_last.pth"} < names
    assert list((run / "wandb").glob("run-*/*.wandb"))
    for secret in (KEY, login.removeprefix("Basic ")):
        assert [p for p in written if secret.encode() in p.read_bytes()] == []


def test_disabled_leaves_nothing_behind() -> None:
    assert started("disabled") == (None, [])
    assert not list(Path("run").iterdir())
