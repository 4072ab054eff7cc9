"""The command line: what users of earlier code type, and errors without tracebacks."""

import argparse
import errno
import importlib
import multiprocessing
import os
import select
import signal
import sys
import time
from multiprocessing.synchronize import Event
from unittest.mock import Mock

import pytest

from tests.utils.conftest import ROOT, start_python
from utils.errors import FailedElsewhere, UsageError, usage_errors
from utils.run import cli, flags
from utils.run.signals import Interrupted


def parser() -> argparse.ArgumentParser:
    result = cli.Parser("A script.")
    flags.add_run_flags(result, "run", resumable=True)
    flags.add_model_flags(result, ("dgcnn", "dgcnn_seg"), {"num_points": 2048, "k": 15})
    flags.add_training_flags(result, batch_size=20, epochs=100, weight_decay=1e-6)
    return result


# Flags of both earlier codes that no script here has.
EARLIER = (
    "use_sgd ft_dataset num_ft_points num_pt_points num_classes wb_key no_cuda "
    "world_size backend pretrained_path rank gpu_id master_addr master_port "
    "start_epoch visu visu_format"
)
RETIRED = [f"--{name}" for name in EARLIER.split()]
IMPOSSIBLE = [
    *("--batch_size 0", "--batch_size 2.5", "--lr 0", "--lr nan", "--lr inf"),
    *("--seed -1", "--momentum -1", "--resume --overwrite"),
    "--wb_url localhost:28282",
    "--batch 3",  # abbreviations would take part in silence
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *[(f"{x}{y}", f"{x} was removed: ") for x in RETIRED for y in ("", " 3")],
        *[(words, "error: ") for words in IMPOSSIBLE],
        ("--resume False", "a switch takes no value"),
        ("--resume=True", "a switch takes no value"),
        ("--no_such_flag x", "unrecognized arguments: --no_such_flag x\n"),
        ("--wb_url https://user:5ecret@wandb.example", "set WANDB_API_KEY"),
    ],
)
def test_a_wrong_command_line_is_refused(words: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words.split())
    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert message + cli.RETIRED.get(words.split()[0], "") in output
    assert "5ecret" not in output


def test_possible_values_are_taken() -> None:
    parser().parse_args(["--seed", "0", "--momentum", "0", "--batch_size", "1"])


def test_the_help_has_the_defaults() -> None:
    text = " ".join(parser().format_help().split())
    for message in (
        "whatever the number of processes (default: 20)",
        "(default: 1e-06)",
        "of all randomness (default: 1)",
        "SGD momentum (default: 0.9)",
        "data sets (default: data)",
        "random initialisation) --num",
        "run folder --resume",
        "--help show this help message and exit run:",
    ):
        assert message in text, message
    assert not [flag for flag in RETIRED if flag in text]


SCRIPTS = sorted(p.stem for p in ROOT.glob("*.py") if p.name != "hubconf.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_switches_take_no_text(script: str) -> None:
    """``type=bool`` would read the text ``False`` as true."""
    flags = importlib.import_module(script).get_args_parser()._actions
    for commands in [x for x in flags if isinstance(x, argparse._SubParsersAction)]:
        flags = [flag for p in commands.choices.values() for flag in p._actions]
    assert not [flag.option_strings for flag in flags if flag.type is bool]
    switches = [flag for flag in flags if isinstance(flag.default, bool)]
    assert switches and all(flag.nargs == 0 for flag in switches)


def test_only_one_rank_a_node_prints_the_usage(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    waits = []
    monkeypatch.setattr(cli.time, "sleep", waits.append)
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--epochs", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == ""
    assert waits  # for the rank that prints: torchrun ends it with the first to leave


WORKER = """Caught UsageError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File ...
utils.errors.UsageError: data/x.ply: truncated
"""
LOST = "another process of the run has ended, or did not answer within --dist_timeout"
LOST_TO_NCCL = (
    "Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE) ran for "
    "600000 milliseconds before timing out.",
    "ncclRemoteError: A call failed possibly due to a network error or a remote "
    "process exited prematurely.",
    "NCCL communicator was aborted on rank 1.",
    "Connection closed by remote peer",
)
STOPPED = "SIGTERM: stopped after step 5; checkpoint written; rerun with --resume to"


@pytest.mark.parametrize(
    ("rank", "error", "code", "message"),
    [
        ("0", UsageError("x.ply: truncated"), 2, "error: x.ply: truncated"),
        ("3", UsageError("x.ply: truncated"), 2, "error (rank 3): x.ply: truncated"),
        ("3", UsageError(WORKER), 2, "error (rank 3): data/x.ply: truncated"),
        ("3", FailedElsewhere("rank 0 failed"), 2, None),
        ("0", KeyboardInterrupt(), 130, "interrupted"),
        ("3", KeyboardInterrupt(), 130, None),
        ("0", Interrupted(signal.SIGTERM, "after step 5"), 143, f"{STOPPED} continue"),
        ("3", Interrupted(signal.SIGTERM, "after step 5"), 143, None),
        ("0", OSError(errno.ENOSPC, "No space"), 1, "make room, then --resume"),
        ("3", RuntimeError("Timed out\nmore"), 1, f"error (rank 3): {LOST}: Timed out"),
        *[("1", RuntimeError(x), 1, f"(rank 1): {LOST}: {x}") for x in LOST_TO_NCCL],
    ],
)
def test_errors_become_a_line_and_a_status(
    rank, error, code, message, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SystemExit) as ended:
        cli.run(Mock(side_effect=error))
    assert ended.value.code == code
    printed = capsys.readouterr().err
    assert f"{message}\n" in printed if message else printed == ""


def test_debug_shows_the_traceback_of_the_cause(capsys) -> None:
    def fails() -> None:
        with usage_errors():
            raise ValueError

    with pytest.raises(SystemExit):
        cli.run(fails, debug=True)
    output = capsys.readouterr().err
    assert "in fails" in output and output.endswith("\nerror: ValueError\n")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("Timed out"), OSError()])
def test_an_unexpected_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        cli.run(Mock(side_effect=error))


def _sleep(ready: Event) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(600)


def test_workers_end_with_the_run_and_other_processes_stay() -> None:
    context = multiprocessing.get_context("fork")
    started = []

    def start() -> None:
        ready = context.Event()
        started.append(context.Process(target=_sleep, args=(ready,), daemon=True))
        started[-1].start()
        assert ready.wait(30)
        if len(started) > 1:
            raise UsageError

    start()
    try:
        with pytest.raises(SystemExit):
            cli.run(start)
        started[1].join(30)
        assert started[1].exitcode == -signal.SIGKILL
        assert started[0].is_alive()
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.mark.parametrize("script", [f"{name}.py" for name in SCRIPTS])
def test_help_comes_before_pytorch_is_imported(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    process = start_python(code, cwd=ROOT)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"usage: {script} " in output


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
def test_threads_sleep_between_operations_unless_told_otherwise(monkeypatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = "from utils.run import cli; cli.start(cli.Parser('')); import torch"
    # What OpenMP has read; it calls itself passive, but spins, if nothing is set.
    _, shown = start_python(code, env={"OMP_DISPLAY_ENV": "verbose"}).communicate()
    assert "GOMP_SPINCOUNT = '0'" in shown
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cli.wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_ctrl_c_before_anything_has_begun_says_nothing() -> None:
    # Importing PyTorch takes seconds; it stands for what follows the flags.
    process = start_python(
        "import sys, time\n"
        "from utils.run import cli\n"
        "sys.argv = ['script']\n"
        "cli.start(cli.Parser(''))\n"
        "print('reading', flush=True)\n"
        "time.sleep(60)\n"
    )
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=30)
    assert (process.returncode, output) == (-signal.SIGINT, "")


def test_a_run_has_python_s_own_ctrl_c_again() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    actual = []
    try:
        with pytest.raises(SystemExit):
            cli.run(lambda: actual.append(signal.getsignal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert actual == [signal.default_int_handler]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of a parent's death")
@pytest.mark.parametrize("launched", [True, False])
def test_a_rank_ends_with_a_torchrun_that_is_killed(launched: bool) -> None:
    """A script that a shell has started goes on without it, as with nohup."""
    rank = (
        "import time; from utils.run import cli; cli.start(cli.Parser('')); "
        "print('started', flush=True); time.sleep(20)"
    )
    process = start_python(
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])",
        env={"TORCHELASTIC_RUN_ID": "none"} if launched else {},
        start_new_session=True,
    )
    assert process.stdout.readline() == "started\n"
    process.kill()
    ended, _, _ = select.select([process.stdout], [], [], 10 if launched else 0.5)
    assert bool(ended) == launched  # the end of the rank's output
    if not launched:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
