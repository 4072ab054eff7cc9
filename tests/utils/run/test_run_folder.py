"""Run folders: what may be used, what is kept, what is refused before it is lost."""

import errno
import fcntl
from collections import namedtuple
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.utils.conftest import start_python
from utils.errors import UsageError
from utils.run import run_folder
from utils.run.run_folder import BEST, LAST, open_run_folder, replace_file

MIB = 2**20
pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def folder() -> Path:
    """Of a training run that has just started."""
    return open_run_folder("run", resume=False)


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of which 1 MiB is free."""
    usage = namedtuple("usage", "total used free")(2**30, 2**30, MIB)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: usage)


def refused(message: str, *arguments: Any, **options: Any) -> None:
    """Opening the folder of a run has to fail with this message."""
    with pytest.raises(UsageError, match=message):
        open_run_folder(*arguments, **options)


def test_what_a_failed_start_left_is_used_again(folder: Path) -> None:
    assert (folder / "models").is_dir()
    (folder / "run.log").write_text("x")
    (folder / "metrics.jsonl").touch()
    assert open_run_folder("run", resume=False) == folder


@pytest.mark.parametrize("name", ["metrics.jsonl", "notes.txt"])
def test_results_and_what_others_left_are_not_deleted_unasked(name, folder) -> None:
    (folder / name).write_text("{}")
    refused(r"checkpoints.run is not empty.*--resume", "run", resume=False)
    refused("is not empty: delete it", "run")  # a script that cannot resume
    assert (folder / name).read_text() == "{}"
    open_run_folder("run", overwrite=True)
    assert not (folder / name).exists()


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(folder: Path) -> None:
    leftover = folder / "models" / ".checkpoint_last.pth.12.partial"
    leftover.touch()
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    open_run_folder("run", resume=True)
    assert (folder / "metrics.jsonl").exists()
    assert not leftover.exists()


def test_results_without_a_checkpoint_are_not_resumed(folder, monkeypatch) -> None:
    metrics, weights = folder / "metrics.jsonl", folder / BEST
    metrics.write_text('{"dataset": "modelnet40"}\n')  # of another script
    refused(r"no models/checkpoint_last\.pth to --resume", "run", resume=True)
    metrics.write_text('{"step": 0}\n')
    weights.touch()
    refused(r"no models/checkpoint_last\.pth to --resume", "run", resume=True)
    # torchrun restarts what stopped between the first weights and the checkpoint.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    open_run_folder("run", resume=True)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    (folder / LAST).touch()
    open_run_folder("run", resume=True)
    assert weights.exists()


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_the_checkpoint_before_a_missing_one_is_named(restarts, folder, monkeypatch):
    (folder / "models" / "checkpoint_previous.pth").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    with pytest.raises(UsageError, match=r"missing.*: mv (\S+) (\S+)") as error:
        open_run_folder("run", resume=True)
    before, last = str(error.value).split()[-2:]
    Path(before).rename(last)
    open_run_folder("run", resume=True)


def test_a_restart_continues_only_what_the_same_launcher_has_opened(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    folder = open_run_folder("run", resume=False)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    (folder / LAST).touch()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    for attempt in ("0", "1"):  # refused, and refused again when torchrun restarts it
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        run_folder.release(folder)
        assert not run_folder.is_resumed("run", resume=False)
        for resume in (False, None):
            refused("is not empty", "run", resume=resume)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    run_folder.release(folder)
    assert run_folder.is_resumed("run", resume=False)
    open_run_folder("run", resume=False)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 0}\n'


def test_a_folder_is_one_run_s_until_that_ends() -> None:
    first = start_python(
        "import time\n"
        "from utils.run.run_folder import open_run_folder\n"
        "print(open_run_folder('run', resume=False), flush=True)\n"
        "time.sleep(60)\n"
    )
    assert first.stdout.readline() == "checkpoints/run\n"
    message = f"checkpoints/run is in use by process {first.pid} on "
    for overwrite in (True, False):
        refused(message, "run", overwrite, resume=not overwrite)
    first.kill()  # whatever ends it, the name is free again
    first.communicate()
    open_run_folder("run", overwrite=True, resume=False)


def test_a_file_system_without_locks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    no_locks = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "lockf", Mock(side_effect=no_locks))
    open_run_folder("run", resume=False)


def test_no_weights_are_deleted_that_others_wrote_or_that_are_read(folder) -> None:
    weights = folder / BEST
    weights.touch()
    refused("weights of a training run", "run", overwrite=True)  # an evaluation
    inputs = ["", str(weights)]
    refused(r"would delete .*best_model\.pth", "run", True, False, inputs=inputs)
    assert weights.exists()
    open_run_folder("other", overwrite=True, inputs=[str(weights)])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_run_names_stay_inside_the_folder(name: str) -> None:
    refused("--exp_name", name, overwrite=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    refused(r"checkpoints.run cannot be written", "run")


@pytest.mark.usefixtures("nearly_full")
def test_a_disk_without_room_is_refused_before_anything_is_deleted(folder) -> None:
    weights = folder / BEST
    weights.write_bytes(bytes(MIB))
    sizes = {LAST: 3 * MIB, BEST: 2 * MIB}
    refused("run: 1 MiB are free .* about 4: make", "run", True, False, sizes=sizes)
    assert weights.exists()
    open_run_folder("run", True, False, sizes={LAST: 2 * MIB})  # what is there goes
    assert not weights.exists()


@pytest.mark.usefixtures("nearly_full")
def test_a_resumed_run_needs_no_room_for_the_files_that_are_there(folder: Path) -> None:
    first, second = (folder / "models" / f"ckpt_epoch_{n}.pth" for n in (1, 2))
    others = (folder / "wandb" / "run-1.wandb", folder / "models" / "notes.pth")
    for path in (first, folder / LAST, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(MIB))
    sizes = {path.relative_to(folder): MIB for path in (first, second, folder / LAST)}
    open_run_folder("run", resume=True, sizes=sizes)
    sizes[BEST] = MIB
    refused("1 MiB are free .* need about 2: make", "run", resume=True, sizes=sizes)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_replaced_as_a_whole(links: bool, tmp_path, monkeypatch) -> None:
    if not links:  # a file system without them
        no_links = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(run_folder.os, "link", Mock(side_effect=no_links))
    path = tmp_path / "page.html"
    replace_file(path, b"old")
    replace_file(path, b"new", previous="before.html")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "before.html").read_bytes() == b"old"

    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(run_folder.os, "fsync", Mock(side_effect=full))
    with pytest.raises(UsageError, match=r"page\.html cannot be written: No space"):
        replace_file(path, b"newer", previous="before.html")
    assert path.read_bytes() == b"new"
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "before.html"}
