"""The records of a run: its log, metrics and configuration; bars; W&B."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import termios
from pathlib import Path
from unittest.mock import Mock

import pytest
import wandb

from tests.utils.conftest import start_python
from utils.errors import UsageError
from utils.run.logger import RunLogger
from utils.run.run_folder import open_run_folder, read_metrics

ARGUMENTS = {"exp_name": "run", "wandb": "disabled", "wb_url": "http://localhost:9"}


pytestmark = pytest.mark.usefixtures("own_folder")


def test_what_ended_a_run_is_in_its_log() -> None:
    folder = open_run_folder("run")
    with pytest.raises(UsageError), RunLogger(folder, ARGUMENTS) as log:
        log.info("first")
        raise UsageError("data/x.ply: truncated")
    text = (folder / "run.log").read_text()
    assert "first" in text
    assert "ended by UsageError: data/x.ply: truncated" in text


def test_a_resumed_run_drops_later_steps_and_keeps_its_configuration() -> None:
    folder = open_run_folder("run")
    log = RunLogger(folder, {**ARGUMENTS, "overwrite": True, "num_workers": 4})
    for step in range(6):
        log.record({"step": step, "epoch": step // 3, "loss": 1 / 3})
        if step % 3 == 2:
            log.record({"epoch": step // 3, "epoch_end": True})
    log.info("first")
    log.__exit__(None, None, None)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "ep')  # cut off when the run was killed
    config = (folder / "config.json").read_bytes()
    now = {**ARGUMENTS, "overwrite": False, "num_workers": 0, "newer": 1}
    log = RunLogger(folder, now, resumed_at=(1, 4))
    log.record({"step": 4, "epoch": 1, "loss": 2.0})
    log.__exit__(None, None, None)
    lines = read_metrics(folder)
    assert [x.get("step", "end") for x in lines] == [0, 1, 2, "end", 3, 4]
    assert [x["loss"] for x in lines if "loss" in x] == [1 / 3] * 4 + [2.0]
    assert (folder / "config.json").read_bytes() == config
    text = (folder / "run.log").read_text()
    assert "first" in text
    differ = "flags that differ from checkpoints/run/config.json: --num_workers 4 -> 0"
    assert f"{differ}\n" in text
    log = RunLogger(folder, now)  # without a checkpoint the run starts anew
    log.__exit__(None, None, None)
    assert json.loads((folder / "config.json").read_text())["arguments"] == now


def test_a_wandb_that_cannot_start_does_not_stop_a_run(monkeypatch) -> None:
    refuses = Mock(side_effect=wandb.errors.CommError("refused"))
    monkeypatch.setattr(wandb, "init", refuses)
    folder = open_run_folder("run")
    log = RunLogger(folder, {**ARGUMENTS, "wandb": "offline"})
    log.record({"step": 0, "loss": 1.0})
    log.__exit__(None, None, None)
    assert "W&B is off for this run: refused" in (folder / "run.log").read_text()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


BAR = """
import time
from pathlib import Path
from utils.run.logger import RunLogger, progress
log = RunLogger(Path({folder!r}), {arguments!r})
for n in progress(range(3), desc="epoch 1/2"):
    time.sleep(0.15)
    if n == 1:
        log.info("a line of the log")
log.info("done")
"""


@pytest.mark.slow
def test_a_bar_is_for_terminals_and_apart_from_the_log(tmp_path: Path, capsys) -> None:
    code = BAR.format(folder=str(tmp_path), arguments=ARGUMENTS)
    exec(code)
    assert capsys.readouterr() == ("a line of the log\ndone\n", "")

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = start_python(code, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # raised when the other end is closed
        while chunk := os.read(ours, 4096):
            seen += chunk
    os.close(ours)
    assert process.wait(60) == 0
    shown = seen.decode()
    assert "epoch 1/2" in shown and "2/3" in shown
    # What stays on the screen: of each line, what was written after the last return.
    lines = [line.split("\r")[-1].strip() for line in shown.split("\r\n")]
    assert [line for line in lines if line] == ["a line of the log", "done"]
