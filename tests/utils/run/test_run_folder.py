"""Run folders: what may be used, what is kept, what is refused before it is lost."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from utils.errors import UsageError
from utils.run import run_folder
from utils.run.run_folder import BEST, LAST, open_run_folder, replace_file

MIB = 2**20


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder() -> Path:
    """Of a training run that has just started."""
    return open_run_folder("run", resume=False)


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of which 1 MiB is free."""
    usage = namedtuple("usage", "total used free")(2**30, 2**30, MIB)
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda _: usage)


def test_what_a_failed_start_left_is_used_again(folder: Path) -> None:
    assert (folder / "models").is_dir()
    (folder / "run.log").write_text("x")
    (folder / "metrics.jsonl").touch()
    assert open_run_folder("run", resume=False) == folder


@pytest.mark.parametrize("name", ["metrics.jsonl", "notes.txt"])
def test_results_and_what_others_left_are_not_deleted_unasked(
    name: str, folder: Path
) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(UsageError, match=r"checkpoints.run is not empty.*--resume"):
        open_run_folder("run", resume=False)
    with pytest.raises(UsageError, match="is not empty: delete it"):
        open_run_folder("run")  # a script that cannot resume
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


def test_results_without_a_checkpoint_are_not_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, weights = folder / "metrics.jsonl", folder / BEST
    metrics.write_text('{"dataset": "modelnet40"}\n')  # of another script
    with pytest.raises(UsageError, match=r"no models/checkpoint_last\.pth to --resume"):
        open_run_folder("run", resume=True)
    metrics.write_text('{"step": 0}\n')
    weights.touch()
    with pytest.raises(UsageError, match=r"no models/checkpoint_last\.pth to --resume"):
        open_run_folder("run", resume=True)
    # torchrun restarts what stopped between the first weights and the checkpoint.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    open_run_folder("run", resume=True)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    (folder / LAST).touch()
    open_run_folder("run", resume=True)
    assert weights.exists()


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_checkpoint_whose_successor_is_missing_is_named(
    restarts: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "models" / "checkpoint_previous.pth").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    with pytest.raises(UsageError, match=r"missing.*: mv (\S+) (\S+)") as error:
        open_run_folder("run", resume=True)
    before, last = str(error.value).split()[-2:]
    Path(before).rename(last)
    open_run_folder("run", resume=True)


def test_a_restart_continues_only_what_the_same_launcher_has_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
            with pytest.raises(UsageError, match="is not empty"):
                open_run_folder("run", resume=resume)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    run_folder.release(folder)
    assert run_folder.is_resumed("run", resume=False)
    open_run_folder("run", resume=False)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 0}\n'


def test_a_folder_is_one_run_s_until_that_ends() -> None:
    code = (
        f"import sys, time; sys.path[:0] = [{str(Path(__file__).parents[3])!r}]\n"
        "from utils.run.run_folder import open_run_folder\n"
        "print(open_run_folder('run', resume=False), flush=True)\n"
        "time.sleep(60)\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "checkpoints/run\n"
    message = f"checkpoints/run is in use by process {first.pid} on "
    for overwrite in (True, False):
        with pytest.raises(UsageError, match=message):
            open_run_folder("run", overwrite, resume=not overwrite)
    first.kill()  # whatever ends it, the name is free again
    first.communicate()
    open_run_folder("run", overwrite=True, resume=False)


def test_a_file_system_without_locks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    open_run_folder("run", resume=False)


def test_no_weights_are_deleted_that_another_script_wrote_or_this_one_reads(
    folder: Path,
) -> None:
    weights = folder / BEST
    weights.touch()
    with pytest.raises(UsageError, match="weights of a training run"):
        open_run_folder("run", overwrite=True)  # an evaluation
    with pytest.raises(UsageError, match=r"would delete .*best_model\.pth"):
        open_run_folder("run", True, False, inputs=["", str(weights)])
    assert weights.exists()
    open_run_folder("other", overwrite=True, inputs=[str(weights)])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_run_names_stay_inside_the_folder(name: str) -> None:
    with pytest.raises(UsageError, match="--exp_name"):
        open_run_folder(name, overwrite=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UsageError, match=r"checkpoints.run cannot be written"):
        open_run_folder("run")


@pytest.mark.usefixtures("nearly_full")
def test_a_disk_without_room_is_refused_before_anything_is_deleted(
    folder: Path,
) -> None:
    weights = folder / BEST
    weights.write_bytes(bytes(MIB))
    with pytest.raises(UsageError, match=r"run: 1 MiB are free .* need about 4: make"):
        open_run_folder("run", True, False, sizes={LAST: 3 * MIB, BEST: 2 * MIB})
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
    with pytest.raises(UsageError, match=r"1 MiB are free .* need about 2: make"):
        open_run_folder("run", resume=True, sizes={**sizes, BEST: MIB})


def test_a_file_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    replace_file(path, b"old")
    replace_file(path, b"new", previous="before.html")
    assert path.read_bytes() == b"new"
    assert (tmp_path / "before.html").read_bytes() == b"old"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(UsageError, match=r"page\.html cannot be written: No space"):
        replace_file(path, b"newer", previous="before.html")
    assert path.read_bytes() == b"new"
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "before.html"}


def test_the_old_file_is_kept_on_file_systems_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(run_folder.os, "link", no_links)
    test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch)
