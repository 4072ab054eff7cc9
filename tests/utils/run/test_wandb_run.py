"""W&B: what is recorded, and that it neither stops nor slows a run."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import PRETRAIN
from tests.wandb_file import config, history
from tests.wandb_server import WandbServer
from utils.run import wandb_run
from utils.run.wandb_run import WandbRun

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef" * 2 + "deadbeef"  # of the form of a key, and recognisable
NAMES = {
    "train_loss": "Train Loss",
    "train_imid_loss": "Train IMID Loss",
    "train_cmid_loss": "Train CMID Loss",
    "svm_accuracy": "Overall Linear Accuracy",
    "test_loss": "Test Loss",
    "train_accuracy": "Train Accuracy",
    "test_accuracy": "Test Accuracy",
    "best_test_accuracy": "Best Test Accuracy",
    "train_class_accuracy": "Train Per Class Accuracy",
    "test_class_accuracy": "Test Per Class Accuracy",
    "train_miou": "Train Mean IOU",
    "test_miou": "Test Mean IOU",
}
VALUES = [
    {"step": 0, "epoch": 0, "loss": 2.5},
    {"epoch": 0, "epoch_end": True}
    | {name: number / 8 for number, name in enumerate(NAMES)},
]
CONFIG = {"arguments": {"lr": 0.1}, "environment": {"commit": "0a1b2c"}}

pytestmark = pytest.mark.usefixtures("own_wandb")


def record(mode: str, url: str = "http://127.0.0.1:9", resumed: bool = False) -> list:
    """A whole short record in ``run/``; what was said of it."""
    said: list[str] = []
    Path("run").mkdir(exist_ok=True)
    arguments = {"wandb": mode, "wb_url": url, "exp_name": "run"}
    run = wandb_run.start(Path("run"), arguments, CONFIG, resumed, said.append)
    assert run is not None, said
    for values in VALUES:
        run.log(values)
    run.finish(exit_code=0)
    return said


def written() -> list[dict[str, Any]]:
    """The rows of the only offline record, when W&B's process has written them all."""
    (path,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    wait_for(lambda: len(history(path)) == len(VALUES))
    return history(path)


def wait_for(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.05)


def test_a_record_can_be_read_back_and_has_the_published_names() -> None:
    assert record("offline") == []
    assert written() == [
        {"step": 0, "epoch": 0, "loss": 2.5},
        {"step": 0, "epoch": 0, "epoch_end": True}
        | {name: number / 8 for number, name in enumerate(NAMES.values())},
    ]
    (path,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    assert config(path) == CONFIG


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.mark.parametrize("mood", ["refuses", "500", "hangs"])
def test_without_a_server_the_run_is_recorded_offline_and_says_so_once(
    mood: str, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_run, "ANSWER", 0.5)
    server.mood = mood
    url = "http://127.0.0.1:9" if mood == "refuses" else server.url
    (line,) = record("online", url)
    answer = {"refuses": "Connection refused", "500": "HTTP Error 500"}
    assert line.startswith(f"W&B is offline for this run: {url} ")
    assert answer.get(mood, "timed out") in line
    parts = Path("run/wandb/offline-run-*")
    assert line.endswith(f"WANDB_BASE_URL={url} wandb sync {parts}")
    assert len(written()) == len(VALUES)
    assert not server.runs


class Stub:
    """A ``wandb.Run`` whose ``log`` or ``finish`` is ``fails``."""

    def __init__(self, name: str, fails: Callable[[], Any]) -> None:
        self._fails = fails
        setattr(self, name, lambda *_, **__: fails())

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    log = finish = define_metric


@pytest.mark.parametrize("name", ["log", "finish"])
def test_a_wandb_that_blocks_is_not_waited_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH", 0.4)
    said: list[str] = []
    ever = threading.Event()
    limit = threading.Timer(60, ever.set)  # of a test that fails
    limit.start()
    began = time.monotonic()
    run = WandbRun(Stub(name, ever.wait), said.append, "remedy")
    for _ in range(1000):
        run.log(VALUES[0])
    logged = time.monotonic()
    run.finish(exit_code=0)
    ended = time.monotonic()
    ever.set()
    limit.cancel()
    assert logged - began < 30  # not until the limit
    assert 0.4 <= ended - logged < 30
    assert said == ["W&B: it does not end; remedy"]


def test_a_wandb_that_fails_in_the_middle_says_so_once() -> None:
    def fail() -> None:
        raise ConnectionError("the service is gone\nadvice of many lines")

    said: list[str] = []
    run = WandbRun(Stub("log", fail), said.append, "remedy")

    def told() -> bool:
        run.log(VALUES[0])
        return bool(said)

    wait_for(told)
    run.log(VALUES[0])
    run.finish(exit_code=0)
    assert said == ["W&B: the service is gone; remedy"]


def test_a_resumed_run_is_the_same_run_for_wandb() -> None:
    record("offline")
    record("offline", resumed=True)
    record("offline")
    ids = [path.stem for path in sorted(Path("run/wandb").glob("*run-*/*.wandb"))]
    assert len(ids) == 3
    assert len(set(ids)) == 2


def test_an_offline_run_and_its_continuation_are_uploaded_as_one_run(
    server: WandbServer,
) -> None:
    record("offline")
    (first,) = Path("run/wandb").glob("offline-run-*")
    record("offline", resumed=True)
    both = sorted(Path("run/wandb").glob("offline-run-*"))
    assert both[0] == first and len(both) == 2
    for path in both:
        (file,) = path.glob("*.wandb")
        wait_for(lambda file=file: len(history(file)) == len(VALUES))
    server.known = True  # says that its last step is 2
    subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", *both],
        env=environment(WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url),
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert len(server.runs) == 1
    steps = [row["_step"] for row in server.history(whole=True)]
    assert steps == [0, 1, 3, 4]
    assert server.history() == 2 * history(next(first.glob("*.wandb")))


# A record in a process of its own: three steps, a word on its input, and 500 more.
SCRIPT = """
import sys, time
from pathlib import Path
from utils.run import wandb_run
wandb_run.START, wandb_run.FINISH = 5.0, 2.0
Path("run").mkdir()
arguments = {"exp_name": "run", "wandb": "online", "wb_url": sys.argv[1]}
run = wandb_run.start(Path("run"), arguments, {}, False, print)
for step in range(3):
    run.log({"step": step, "epoch": 0, "loss": 1.0})
print("half", flush=True)
if len(sys.argv) == 2:
    sys.stdin.readline()
longest = 0.0
for step in range(3, 503):
    before = time.perf_counter()
    run.log({"step": step, "epoch": 0, "loss": 1.0})
    longest = max(longest, time.perf_counter() - before)
run.log({"epoch": 0, "epoch_end": True, "svm_accuracy": 0.5})
run.finish(exit_code=0)
print("longest", longest)
"""


def environment(**more: str) -> dict[str, str]:
    """For a process with a W&B of its own, not that of these tests."""
    kept = {name: v for name, v in os.environ.items() if name != "WANDB_SERVICE"}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def wandb_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "W&B" in line]


@pytest.mark.parametrize("mood", ["500", "hangs"])
def test_a_server_that_fails_in_the_middle_neither_slows_nor_keeps_a_run(
    mood: str, server: WandbServer
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url],
        env=environment(WANDB_API_KEY=KEY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout.readline() == "half\n"
        server.mood = mood
        text, _ = process.communicate("\n", timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, text
    # A call that waited for a server that hangs would hang with it.
    assert float(text.split("longest ")[1].split()[0]) < 2
    assert "wandb: " not in text  # nothing of its own
    (line,) = wandb_lines(text)
    assert line.startswith("W&B: Timed out finishing run")
    (place,) = Path("run/wandb").glob("run-*")
    assert line.endswith(f"wandb sync --include-online {place}")
    (path,) = place.glob("*.wandb")
    assert history(path)[-1]["Overall Linear Accuracy"] == 0.5


@pytest.mark.parametrize("mood", ["401", "500", "hangs"])
def test_a_server_that_answers_but_takes_no_run_leaves_it_offline(
    mood: str, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_run, "START", 2.0)
    monkeypatch.setattr(wandb_run, "_ask", lambda _: None)
    server.mood = mood
    (line,) = record("online", server.url)
    assert line.startswith("W&B is offline for this run: ")
    assert len(written()) == len(VALUES)


def test_without_a_key_there_is_no_question_but_an_offline_run(
    server: WandbServer,
) -> None:
    import pty

    ours, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.url, "at once"],
        env=environment(),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=60,
    )
    os.close(terminal)
    os.close(ours)
    assert done.returncode == 0
    (line,) = wandb_lines(done.stdout)
    assert line.startswith("W&B is offline for this run: ")
    assert f"set WANDB_API_KEY, or 'wandb login --host {server.url}'" in line
    assert len(list(Path("run/wandb").glob("offline-run-*"))) == 1
    assert not server.runs


def test_an_online_run_goes_on_as_the_same_run(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert record("online", server.url) == []
    assert [row["step"] for row in server.history()] == [0, 0]
    server.known = True
    assert record("online", server.url, resumed=True) == []
    assert len(server.runs) == 1
    asked = [b for _, b in server.bodies if "RunResumeStatus" in b.get("query", "")]
    assert [x["variables"]["name"] for x in asked] == server.runs
    assert len(server.history()) == 2 * len(VALUES)


def command_lines() -> bytes:
    """Of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(path.read_bytes())
    return b"\n".join(found)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc")
def test_the_key_is_used_and_found_nowhere(
    server: WandbServer, synthetic_root: Path
) -> None:
    words = [
        *PRETRAIN,
        "--image_encoder",
        "resnet18",
        "--data_root",
        synthetic_root,
        "--exp_name",
        "run",
    ]
    words += ["--wandb", "online", "--wb_url", server.url, "--epochs", "1"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train_crosspoint.py", *words],
        env=environment(WANDB_API_KEY=KEY),
        stdout=open("said", "w"),
        stderr=subprocess.STDOUT,
    )
    seen = b""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        seen += command_lines()
        time.sleep(0.5)
    process.kill()
    assert process.wait() == 0, Path("said").read_text()
    assert server.url.encode() in seen and b"wandb-core" in seen
    assert any("epoch_end" in row for row in server.history())
    sent = base64.b64encode(f"api:{KEY}".encode())
    assert server.logins == {f"Basic {sent.decode()}"}
    files = [path for path in Path().rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.json", "run.log", "checkpoint_last.pth", "said"} < names
    for secret in (KEY.encode(), sent):
        assert secret not in seen
        assert [path for path in files if secret in path.read_bytes()] == []
