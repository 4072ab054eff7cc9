"""The command line: what users of earlier code type, and errors without tracebacks."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from utils.errors import UsageError, usage_errors
from utils.run import cli, flags

ROOT = Path(__file__).parents[3]


def parser() -> argparse.ArgumentParser:
    found = cli.Parser("A script.")
    flags.add_run_flags(found, "run", resumable=True)
    flags.add_model_flags(found, 2048, 15, ("dgcnn", "dgcnn_seg"))
    flags.add_training_flags(found, batch_size=20, epochs=100, weight_decay=1e-6)
    return found


@pytest.mark.parametrize("flag", cli.RETIRED)
@pytest.mark.parametrize("value", [[], ["3"]])
def test_retired_flags_name_what_serves_now(
    flag: str, value: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([flag, *value])
    assert ended.value.code == 2
    assert f"{flag} is gone: {cli.RETIRED[flag]}" in capsys.readouterr().err


def test_retired_flags_are_not_in_the_help() -> None:
    arguments = parser()
    with pytest.raises(SystemExit):
        arguments.parse_args(["--batch_size", "0"])
    text = arguments.format_help()
    assert "--batch_size" in text
    assert not [flag for flag in cli.RETIRED if flag in text]


SCRIPTS = (
    *("train_crosspoint", "eval_svm", "eval_fewshot", "finetune_cls"),
    "train_partseg",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_switches_take_no_text(script: str) -> None:
    """``type=bool`` would read the text ``False`` as true."""
    flags = importlib.import_module(script).get_args_parser()._actions
    assert not [flag.option_strings for flag in flags if flag.type is bool]
    switches = [flag for flag in flags if isinstance(flag.default, bool)]
    assert switches and all(flag.nargs == 0 for flag in switches)


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_size", "0"],
        ["--batch_size", "2.5"],
        ["--lr", "nan"],
        ["--lr", "-1"],
        ["--seed", "-1"],
        ["--precision", "fp8"],
        ["--resume", "--overwrite"],
        ["--wb_url", "localhost:28282"],
        ["--batch", "3"],  # abbreviations would take part in silence
    ],
)
def test_impossible_values_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2


def test_a_key_in_the_address_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--wb_url", "https://user:5ecret@wandb.example"])
    said = capsys.readouterr().err
    assert "set WANDB_API_KEY" in said
    assert "5ecret" not in said


def test_only_one_rank_a_node_prints_the_usage(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    waits = []
    monkeypatch.setattr(cli.time, "sleep", waits.append)
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--epochs", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == ""
    assert waits  # for the rank that prints: torchrun ends it with the first to leave


class Expected(UsageError):
    pass


def test_expected_errors_become_one_line(capsys: pytest.CaptureFixture) -> None:
    def fails() -> None:
        with usage_errors():
            raise ValueError("data/x.ply: truncated")

    with pytest.raises(SystemExit) as ended:
        cli.run(fails)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "\nerror: data/x.ply: truncated\n"
    with pytest.raises(SystemExit):
        cli.run(fails, debug=True)
    said = capsys.readouterr().err
    assert "in fails" in said  # the cause's traceback
    assert said.endswith("\nerror: data/x.ply: truncated\n")


def test_an_unexpected_error_keeps_its_traceback() -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        cli.run(fails)


def test_a_value_error_without_text_is_an_error_all_the_same() -> None:
    with pytest.raises(UsageError, match="ValueError"), usage_errors():
        raise ValueError


def test_an_error_of_a_loader_process_keeps_only_its_message(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")  # only this rank read the sample

    def fails() -> None:
        raise Expected(
            "Caught Expected in DataLoader worker process 0.\n"
            "Original Traceback (most recent call last):\n  File ...\n"
            "tests.Expected: data/x.ply: truncated\n"
        )

    with pytest.raises(SystemExit):
        cli.run(fails)
    assert capsys.readouterr().err == "\nerror (rank 3): data/x.ply: truncated\n"


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
            raise Expected

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


@pytest.mark.parametrize("script", sorted(p.name for p in ROOT.glob("*.py")))
def test_help_comes_before_pytorch_is_imported(script: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--exp_name" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
@pytest.mark.parametrize("said", [None, "ACTIVE"])
def test_threads_sleep_between_operations_unless_the_user_says_otherwise(
    said: str | None,
) -> None:
    env = os.environ | {"OMP_DISPLAY_ENV": "true"}  # as PyTorch's OpenMP has read it
    env.pop("OMP_WAIT_POLICY", None)
    env |= {"OMP_WAIT_POLICY": said} if said else {}
    flags = ["--model_path", "none", "--data_root", "nowhere"]
    words = [sys.executable, "eval_svm.py", *flags]  # all scripts begin alike
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 2, done.stderr
    assert f"OMP_WAIT_POLICY = '{said or 'PASSIVE'}'" in done.stderr


def test_ctrl_c_before_anything_has_begun_says_nothing() -> None:
    # Importing PyTorch takes seconds; it stands for what follows the flags.
    code = (
        "import sys, time\n"
        "from utils.run import cli\n"
        "sys.argv = ['script']\n"
        "cli.start(cli.Parser(''))\n"
        "print('reading', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_a_run_has_python_s_own_ctrl_c_again() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    found = []
    try:
        with pytest.raises(SystemExit):
            cli.run(lambda: found.append(signal.getsignal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.default_int_handler]
