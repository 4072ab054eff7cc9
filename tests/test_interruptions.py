"""Runs that are stopped, killed or hang, or cannot write: nothing is lost."""

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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sklearn.svm
from torch.optim.optimizer import register_optimizer_step_pre_hook

import finetune_cls
import train_partseg
from datasets.files import DataError
from tests.helpers.ddp import ROOT, Pool, free_port
from tests.helpers.runs import (
    PRETRAIN,
    finetune,
    interrupted,
    metrics,
    pretrain,
    same_run,
    segment,
    weights,
)
from utils.errors import UsageError
from utils.judging import features
from utils.parallel import distributed
from utils.run import checkpoint, training
from utils.run.signals import Interrupted

TORCHRUN = ("-m", "torch.distributed.run")
SCRIPT = ("-m", "tests.helpers.small_resnet", str(ROOT / "train_crosspoint.py"))
LONG = ("--epochs", "12")  # of three steps each: time enough to come between


def start(folder: Path, data: Path, *words: str, launcher: Sequence[str] = ()) -> Any:
    """Pre-training as a process, or as torchrun's, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    output = tempfile.TemporaryFile("w+", encoding="utf-8")
    flags = ("--data_root", str(data), "--exp_name", "run", *PRETRAIN.split(), *words)
    process: Any = subprocess.Popen(
        [sys.executable, *launcher, *SCRIPT, *flags],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    process.output = output
    return process


def finish(process: Any, seconds: float = 180) -> tuple[int, str]:
    """Exit code, and everything it said."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the code then says so
    process.output.seek(0)
    return process.wait(), process.output.read()


def wait_for(happened: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.02)


def run_in(folder: Path) -> Path:
    return folder / "checkpoints" / "run"


def steps_done(folder: Path) -> int:
    return len(metrics(run_in(folder))[0])


def starts(folder: Path) -> int:
    """How often the run has been started, a restart included."""
    path = run_in(folder) / "run.log"
    return path.read_text().count(" a rank on ") if path.is_file() else 0


def progress_in(run: Path) -> dict[str, Any]:
    return weights(run, "checkpoint_last.pth")["progress"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """The run folder of an undisturbed run on one process."""
    return pretrain(tmp_path_factory.mktemp("whole"), synthetic_root, *LONG)


@pytest.mark.slow
def test_ctrl_c_ends_the_step_and_resuming_gives_the_undisturbed_run(
    whole: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    process = start(tmp_path, synthetic_root, *LONG, "--num_workers", "2")
    wait_for(lambda: steps_done(tmp_path) >= 4)
    os.killpg(process.pid, signal.SIGINT)  # the loader's workers get it too
    code, text = finish(process)
    assert code == 128 + signal.SIGINT, text
    match = re.search(r"SIGINT: stopped after step (\d+); .*--resume", text)
    assert match and "Traceback" not in text, text
    run = run_in(tmp_path)
    assert "ended by Interrupted: SIGINT" in (run / "run.log").read_text()
    assert progress_in(run)["step"] == int(match[1]) + 1 == steps_done(tmp_path)
    same_run(whole, pretrain(tmp_path, synthetic_root, *LONG, "--resume"))


@pytest.mark.slow
def test_a_signal_at_the_end_of_an_epoch(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (synthetic_root, "--epochs", "3", "--svm_every", "1")
    seen: Counter[str] = Counter()
    stop_at: tuple[str, int] | None = None

    def count(what: str) -> None:
        seen[what] += 1
        if stop_at == (what, seen[what]):
            os.kill(os.getpid(), signal.SIGTERM)

    class Fit(sklearn.svm.SVC):
        def fit(self, *data: Any) -> Any:
            count("fits")
            return super().fit(*data)

    monkeypatch.setattr(sklearn.svm, "SVC", Fit)
    with register_optimizer_step_pre_hook(lambda *_: count("updates")):
        undisturbed = pretrain(tmp_path / "whole", *words)
        assert seen["updates"] == 9
        # Inside the second epoch's probe, which fits every pair of classes once; or in
        # the sixth step, the last of that epoch.
        for place, target in (
            ("in the fit of the SVM", ("fits", seen["fits"] // 3 + 2)),
            ("after step 5", ("updates", 6)),
        ):
            stop_at = target
            seen.clear()
            with pytest.raises(Interrupted, match=f"^SIGTERM: stopped {place}$"):
                pretrain(tmp_path / place, *words)
            run = run_in(tmp_path / place)
            progress = progress_in(run)
            assert (progress["step"], progress["epoch"]) == (6, 1)
            assert len(metrics(run)[1]) == 1  # the second epoch is not evaluated yet
            same_run(undisturbed, pretrain(tmp_path / place, *words, "--resume"))


def stopped_by_a_signal(after: int, run: Callable, *args: Any) -> tuple[str, int]:
    """How ``run(*args)`` ends when rank 1 gets SIGTERM inside its batch number
    ``after`` of all evaluations, and how many batches this rank has evaluated."""
    evaluated = 0

    def batches(*args: Any, **options: Any) -> Iterator[slice]:
        nonlocal evaluated
        for rows in training.evaluation_batches(*args, **options):
            evaluated += 1
            if (distributed.rank(), evaluated) == (1, after):
                os.kill(os.getpid(), signal.SIGTERM)
            yield rows

    with pytest.MonkeyPatch.context() as patch:
        for module in (features, finetune_cls, train_partseg):
            patch.setattr(module, "evaluation_batches", batches)
        with pytest.raises(Interrupted) as end:
            run(*args)
    return str(end.value), evaluated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "data", "words", "clouds"),
    [
        (pretrain, "synthetic_root", ("--svm_every", "1"), 20),  # of each rank
        (finetune, "uneven_root", ("--from_scratch",), 7),
        (segment, "part_root", ("--from_scratch",), 4),
    ],
)
def test_a_signal_to_one_rank_in_an_evaluation_ends_all_ranks_before_the_next_batch(
    *, run, data: str, words, clouds: int, tmp_path: Path, two_ranks, request
) -> None:
    data = request.getfixturevalue(data)
    words = (data, *words, "--epochs", "3", "--test_batch_size", "2")
    whole = two_ranks.run(run, tmp_path / "whole", *words)[0]
    after = clouds + 2  # the second batch of the second epoch's evaluation
    parts = tmp_path / "parts"
    ends = two_ranks.run(stopped_by_a_signal, after, run, parts, *words)
    assert [said for said, _ in ends] == ["SIGTERM: stopped in an evaluation"] * 2
    assert ends[1][1] == after
    folder = run_in(parts)
    progress = progress_in(folder)
    assert progress["epoch"] == 1 and progress["step"] == 2 * progress["step_in_epoch"]
    assert len(metrics(folder)[1]) == 1  # the second epoch is not evaluated yet
    same_run(whole, two_ranks.run(run, parts, *words, "--resume")[0])


def ranks(process: subprocess.Popen) -> list[int]:
    """Process numbers of torchrun's ranks, in order."""
    command = ["ps", "--ppid", str(process.pid), "-o", "pid="]
    return sorted(map(int, subprocess.check_output(command).split()))


def survive(
    pool: Pool, folder: Path, data: Path, epochs: int, kills: Sequence[tuple[int, int]]
) -> None:
    """A run under torchrun with ranks killed must equal an undisturbed one.

    Args:
        pool: two ranks, for the undisturbed run.
        folder: gets both.
        data: a ``--data_root``.
        epochs: of three steps.
        kills: (rank, steps that are done when it is killed), by the steps; a
            checkpoint, which is written every second step, comes between two.
    """
    words = ("--epochs", str(epochs), "--checkpoint_steps", "2")
    whole = pool.run(pretrain, folder / "whole", data, *words)[0]
    killed = folder / "killed"
    options = (f"--max-restarts={len(kills)}", "--monitor-interval=0.1")
    launcher = (*TORCHRUN, "--standalone", "--nproc_per_node=2", *options)
    process = start(killed, data, *words, launcher=launcher)
    for number, (rank, after) in enumerate(kills):
        wait_for(lambda: starts(killed) > number)  # noqa: B023
        wait_for(lambda: steps_done(killed) >= after)  # noqa: B023
        os.kill(ranks(process)[rank], signal.SIGKILL)
        print(f"rank {rank} killed after {after} steps", flush=True)
    code, text = finish(process, 300)
    assert code == 0, text
    run = run_in(killed)
    assert starts(killed) == 1 + len(kills)
    assert [line["step"] for line in metrics(run)[0]] == list(range(3 * epochs))
    same_run(whole, run)


@pytest.mark.slow
def test_a_killed_rank_and_a_restart_by_torchrun(
    tmp_path: Path, synthetic_root: Path, two_ranks: Pool
) -> None:
    survive(two_ranks, tmp_path, synthetic_root, 12, [(0, 8)])


def nodes(folder: Path, data: Path, *words: str) -> list[subprocess.Popen]:
    """Two torchrun agents of one process each, that meet on the loopback interface."""
    port = free_port()
    place = f"--nnodes=2 --nproc_per_node=1 --rdzv_backend=c10d --rdzv_id={port}"
    place += f" --rdzv_endpoint=127.0.0.1:{port} --local_addr=127.0.0.1"
    return [
        start(
            *(folder, data, *words),
            launcher=(*TORCHRUN, *place.split(), f"--rdzv_conf=is_host={host}"),
        )
        for host in (1, 0)
    ]


@pytest.mark.slow
def test_a_signal_to_the_second_of_two_nodes_stops_both(
    tmp_path: Path, synthetic_root: Path, two_ranks: Pool
) -> None:
    agents = nodes(tmp_path, synthetic_root, *LONG, "--resume")
    wait_for(lambda: steps_done(tmp_path) >= 4)
    agents[1].terminate()
    ends = [finish(agent) for agent in agents]
    assert all(code for code, _ in ends), ends
    said = "".join(text for _, text in ends)
    assert said.count("8 global, 4 a rank on 2 processes") == 1  # rank 0 alone speaks
    assert said.count("SIGTERM: stopped after step") == 1, said
    assert steps_done(tmp_path) < 36
    words = (synthetic_root, *LONG)
    resumed = two_ranks.run(pretrain, tmp_path, *words, "--resume")[0]
    same_run(two_ranks.run(pretrain, tmp_path / "one", *words)[0], resumed)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As a full disk: no file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_checkpoint_before(
    whole: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    message = r"\.pth cannot be written"
    with (
        largest_file(2**16),
        pytest.raises(UsageError, match=f"(?s){message}.*there is none yet"),
    ):
        pretrain(tmp_path, synthetic_root, *LONG)
    run = run_in(tmp_path)
    words = (*LONG, "--overwrite", "--checkpoint_steps", "0")
    interrupted(6, pretrain, tmp_path, synthetic_root, *words)
    before = (run / "models" / "checkpoint_last.pth").read_bytes()
    # Enough for the log and the weights, not for another checkpoint.
    with (
        largest_file(len(before) - 10_000),
        pytest.raises(UsageError, match=f"(?s){message}.*the previous one is intact"),
    ):
        pretrain(tmp_path, synthetic_root, *LONG, "--resume")
    assert (run / "models" / "checkpoint_last.pth").read_bytes() == before
    assert not list(run.glob("models/.*"))
    same_run(whole, pretrain(tmp_path, synthetic_root, *LONG, "--resume"))


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """This thread gives up root's right to every file for a while (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version; this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then high bits
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="capset(2) is Linux's")
def test_folders_and_files_without_permission_are_named(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=0o500)
    with (
        bound_by_permissions(),
        pytest.raises(UsageError, match=r"checkpoints/run cannot be written: .*Permis"),
    ):
        pretrain(tmp_path, synthetic_root)
    folder.chmod(0o700)
    models = run_in(tmp_path) / "models"
    save = checkpoint.save_training_state

    def save_then_lock(*args: Any, **parts: Any) -> None:
        save(*args, **parts)
        models.chmod(0o500)

    words = ("--checkpoint_steps", "1")
    with (
        monkeypatch.context() as patch,
        bound_by_permissions(),
        pytest.raises(UsageError, match=r"\.pth cannot be written.*Permission"),
    ):
        patch.setattr(checkpoint, "save_training_state", save_then_lock)
        pretrain(tmp_path, synthetic_root, *words)
    models.chmod(0o700)
    assert progress_in(run_in(tmp_path))["step"] == 1
    data = tmp_path / "data"
    shutil.copytree(synthetic_root, data)
    cloud = next(data.glob("ShapeNet/*/*.ply"))
    cloud.chmod(0)
    with (
        bound_by_permissions(),
        pytest.raises(DataError, match=rf"{re.escape(str(cloud))}.*ermission"),
    ):
        pretrain(tmp_path, data, *words, "--resume")
    assert progress_in(run_in(tmp_path))["step"] >= 1  # it reads the file
