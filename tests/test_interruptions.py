"""Runs that are stopped, killed or hang, as processes: nothing is lost."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch

from tests.runs import metrics, pretrain, same_records, weights
from utils.judging import svm
from utils.run import bookkeeping, run_folder
from utils.run.cli import UsageError
from utils.run.signals import Interrupted

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "--num_points 64 --k 5 --emb_dims 16 --image_encoder resnet18 --image_size 32 "
    "--batch_size 8 --wandb disabled --print_freq 1 --svm_every 0 --exp_name run"
).split()
NAMES = ("best_model.pth", "img_model_best.pth")


def start(
    folder: Path,
    data: Path,
    *words: str,
    processes: int = 1,
    torchrun: Sequence[str] = (),
    limit: int | None = None,
) -> subprocess.Popen:
    """Pre-training in a process group of its own, without root's right to every file.

    ``limit``: bytes of a file.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "train_crosspoint.py")]
    if processes > 1 or torchrun:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc_per_node={processes}", *torchrun]
        command = [*launcher, command[1]]

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if os.geteuid() == 0:
            for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
                _C.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)

    output = tempfile.TemporaryFile("w+", encoding="utf-8")
    process = subprocess.Popen(
        [*command, "--data_root", str(data), *WORDS, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=restrict,
    )
    _outputs[process.pid] = output
    return process


_C = ctypes.CDLL(None)
_PR_CAPBSET_DROP, _DAC_OVERRIDE, _DAC_READ_SEARCH = 24, 1, 2  # linux/capability.h
_outputs: dict[int, TextIO] = {}


def said_by(process: subprocess.Popen) -> str:
    """Everything it has said so far."""
    _outputs[process.pid].seek(0)
    return _outputs[process.pid].read()


def finish(process: subprocess.Popen, seconds: float = 180) -> tuple[int, str]:
    """Exit code, and everything it said."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = said_by(process)
        raise AssertionError(f"alive after {seconds} s: {said}") from None
    return process.returncode, said_by(process)


def wait_for(happened: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.02)


def steps_done(folder: Path) -> int:
    path = folder / "checkpoints" / "run" / "metrics.jsonl"
    return path.read_text().count('"step"') if path.is_file() else 0


def same_weights(one: Path, two: Path) -> None:
    for name in NAMES:
        theirs = weights(two, name)
        assert all(torch.equal(v, theirs[n]) for n, v in weights(one, name).items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """The run folder of ten epochs of three steps, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    code, text = finish(start(folder, synthetic_root, "--epochs", "10"))
    assert code == 0, text
    return folder / "checkpoints" / "run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_resuming_gives_the_undisturbed_run(
    number: int, whole: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "10", "--num_workers", "2")
    process = start(tmp_path, synthetic_root, *words)
    wait_for(lambda: steps_done(tmp_path) >= 4)
    os.killpg(process.pid, number)  # the loader's workers get it too, as by Ctrl-C
    code, text = finish(process)
    assert code == 128 + number, text
    name = signal.Signals(number).name
    said = re.search(rf"{name}: stopped after step (\d+); .*--resume", text)
    assert said and "Traceback" not in text, text
    run = tmp_path / "checkpoints" / "run"
    assert f"ended by Interrupted: {name}" in (run / "run.log").read_text()
    state = torch.load(run / "models" / "checkpoint_last.pth", weights_only=True)
    assert state["progress"]["step"] == int(said[1]) + 1 == steps_done(tmp_path)
    code, text = finish(start(tmp_path, synthetic_root, *words, "--resume"))
    assert code == 0, text
    same_records(whole, run)
    same_weights(whole, run)


@pytest.mark.parametrize("place", ["fit", "last step"])
def test_a_signal_at_the_end_of_an_epoch(
    place: str, tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--epochs", "3", "--svm_every", "1")
    fits = []

    class Fit(svm.SVC):
        def fit(self, *data: Any) -> Any:
            fits.append(self)
            if len(fits) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().fit(*data)

    def count_step(run: bookkeeping.Run, **values: torch.Tensor) -> None:
        if run.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run, **values)

    step = bookkeeping.Run.step
    stop_at = 0
    with monkeypatch.context() as patch:
        patch.setattr(svm, "SVC", Fit)
        undisturbed = pretrain(tmp_path / "whole", synthetic_root, *words)
    # A fit for each pair of classes: the second pair of the second epoch's probe.
    stop_at = len(fits) // 3 + 2
    fits.clear()
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as ended:
        if place == "fit":
            patch.setattr(svm, "SVC", Fit)
        else:
            patch.setattr(bookkeeping.Run, "step", count_step)
        pretrain(tmp_path / "parts", synthetic_root, *words)
    said = {"fit": "in the fit of the SVM", "last step": "after step 5"}[place]
    assert str(ended.value) == f"SIGTERM: stopped {said}"
    run = tmp_path / "parts" / "checkpoints" / "run"
    state = torch.load(run / "models" / "checkpoint_last.pth", weights_only=True)
    assert (state["progress"]["step"], state["progress"]["epoch"]) == (6, 1)
    assert len(metrics(run)[1]) == 1  # the second epoch is not judged yet
    pretrain(tmp_path / "parts", synthetic_root, *words, "--resume")
    same_records(undisturbed, run)
    same_weights(undisturbed, run)


@pytest.mark.slow
def test_torchrun_passes_the_signal_on_to_all_ranks(
    tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "10")
    runs = []
    for name in ("whole", "parts"):
        process = start(tmp_path / name, synthetic_root, *words, processes=2)
        if name == "parts":
            wait_for(lambda: steps_done(tmp_path / "parts") >= 4)
            process.terminate()
        code, text = finish(process)
        assert (code == 0) == (name == "whole"), text
        runs.append(tmp_path / name / "checkpoints" / "run")
    assert text.count("SIGTERM: stopped after step") == 1, text
    last = process = start(
        tmp_path / "parts", synthetic_root, *words, "--resume", processes=2
    )
    code, text = finish(last)
    assert code == 0, text
    same_records(*runs)
    same_weights(*runs)


def ranks(process: subprocess.Popen) -> list[int]:
    """Process numbers of torchrun's ranks, in order."""
    done = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    )
    return sorted(map(int, done.stdout.split()))


def survive(
    folder: Path, data: Path, epochs: int, kills: Sequence[tuple[int, int]]
) -> None:
    """Two runs on two ranks: undisturbed, and with ranks killed; they must be equal.

    Args:
        folder: gets both.
        data: a ``--data_root``.
        epochs: of three steps.
        kills: (rank, steps that are done when it is killed), by the steps.
    """
    words = ("--epochs", str(epochs), "--checkpoint_steps", "2")
    folders = (folder / "whole", folder / "killed")
    code, text = finish(start(folders[0], data, *words, processes=2), 1000)
    assert code == 0, text
    options = (f"--max-restarts={len(kills)}", "--monitor-interval=0.1")
    process = start(folders[1], data, *words, processes=2, torchrun=options)
    for number, (rank, after) in enumerate(kills):
        wait_for(lambda after=after: steps_done(folders[1]) >= after)
        wait_for(lambda: len(ranks(process)) == 2)
        os.kill(ranks(process)[rank], signal.SIGKILL)
        wait_for(lambda n=number: log(folders[1]).count("resuming from its") > n)
        print(f"rank {rank} killed after {after} steps: goes on", flush=True)
    code, text = finish(process, 300)
    assert code == 0, text
    runs = [folder / "checkpoints" / "run" for folder in folders]
    assert [line["step"] for line in metrics(runs[1])[0]] == list(range(3 * epochs))
    same_records(*runs)
    same_weights(*runs)


@pytest.mark.slow
def test_killed_ranks_and_restarts_by_torchrun(
    tmp_path: Path, synthetic_root: Path
) -> None:
    survive(tmp_path, synthetic_root, 10, [(1, 5), (0, 16)])


def log(folder: Path) -> str:
    path = folder / "checkpoints" / "run" / "run.log"
    return path.read_text() if path.is_file() else ""


@pytest.mark.slow
def test_a_rank_that_hangs_is_reported(tmp_path: Path, synthetic_root: Path) -> None:
    words = ("--epochs", "1000", "--dist_timeout", "6")
    process = start(tmp_path, synthetic_root, *words, processes=2)
    wait_for(lambda: steps_done(tmp_path) >= 3)
    hanging = ranks(process)[1]
    os.kill(hanging, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        wait_for(lambda: "another process of the run has" in said_by(process), 40)
        assert time.monotonic() - stopped < 40
    finally:
        os.kill(hanging, signal.SIGKILL)
        code, _ = finish(process)
    assert code != 0


def test_a_second_run_of_the_same_name_is_refused(
    tmp_path: Path, synthetic_root: Path
) -> None:
    first = start(tmp_path, synthetic_root, "--epochs", "1000")
    wait_for(lambda: steps_done(tmp_path) >= 1)
    for flag in ("--resume", "--overwrite"):
        code, text = finish(start(tmp_path, synthetic_root, "--epochs", "1", flag))
        assert code == 2
        assert f"checkpoints/run is in use by process {first.pid} on " in text
    first.kill()  # whatever ends it, the name is free again
    finish(first)
    words = ("--epochs", "1", "--overwrite")
    code, text = finish(start(tmp_path, synthetic_root, *words))
    assert code == 0, text


def test_a_disk_that_is_full_leaves_the_checkpoint_before(
    whole: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    # Workers would pass their batches on in files of their own.
    words = ("--epochs", "10", "--num_workers", "0")
    code, text = finish(start(tmp_path, synthetic_root, *words, limit=4096))
    run = tmp_path / "checkpoints" / "run"
    assert code == 2, text
    assert ".pth could not be written" in text and "there is none yet" in text
    assert "Traceback" not in text
    process = start(tmp_path, synthetic_root, *words, "--overwrite")
    wait_for(lambda: (run / "models" / "checkpoint_last.pth").is_file())
    process.terminate()
    finish(process)
    before = (run / "models" / "checkpoint_last.pth").read_bytes()
    # Enough for the log and the weights, not for another checkpoint.
    limit = len(before) - 10_000
    code, text = finish(
        start(tmp_path, synthetic_root, *words, "--resume", limit=limit)
    )
    assert code == 2, text
    assert "could not be written" in text and "the previous one is intact" in text
    assert (run / "models" / "checkpoint_last.pth").read_bytes() == before
    assert not list(run.glob("models/.*"))
    code, text = finish(start(tmp_path, synthetic_root, *words, "--resume"))
    assert code == 0, text
    same_records(whole, run)
    same_weights(whole, run)


def test_a_training_without_room_is_refused_and_deletes_nothing(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretrain(tmp_path, synthetic_root, "--epochs", "1")
    shutil.rmtree(run / "models")  # what it holds would count as room
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match="1 MiB are free and checkpoints need about"):
        pretrain(tmp_path, synthetic_root, "--epochs", "1", "--overwrite")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_folders_and_files_without_permission_are_named(
    tmp_path: Path, synthetic_root: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=0o500)
    words = ("--epochs", "1000", "--num_workers", "0")
    code, text = finish(start(tmp_path, synthetic_root, *words))
    assert code == 2 and "Traceback" not in text, text
    assert "checkpoints/run cannot be written: [Errno 13] Permission denied" in text
    folder.chmod(0o700)
    process = start(tmp_path, synthetic_root, *words)
    models = folder / "run" / "models"
    wait_for(lambda: (models / "checkpoint_last.pth").is_file())
    models.chmod(0o500)  # while it runs
    code, text = finish(process)
    assert code == 2 and "Traceback" not in text, text
    assert ".pth could not be written" in text and "Permission denied" in text
    state = torch.load(models / "checkpoint_last.pth", weights_only=True)
    models.chmod(0o700)
    data = tmp_path / "data"
    shutil.copytree(synthetic_root, data)
    cloud = next(data.glob("ShapeNet/*/*.ply"))
    cloud.chmod(0)
    words = ("--resume", "--num_workers", "0", "--epochs", "1000")
    code, text = finish(start(tmp_path, data, *words))
    assert code == 2 and "Traceback" not in text, text
    assert f"error: {cloud}: " in text and "ermission" in text
    after = torch.load(models / "checkpoint_last.pth", weights_only=True)
    assert after["progress"]["step"] == state["progress"]["step"]
