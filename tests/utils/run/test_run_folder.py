"""Run folders: what may be used, what is kept, what is refused before it is lost."""

from __future__ import annotations

import errno
from collections import namedtuple
from pathlib import Path

import pytest

from utils.errors import UsageError
from utils.run import run_folder
from utils.run.run_folder import open_run_folder, replace_file


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_empty_run_folder_is_used_again() -> None:
    # What a start leaves that failed before the first file.
    folder = open_run_folder("run", resume=False)
    assert (folder / "models").is_dir()
    (folder / "run.log").write_text("x")
    (folder / "metrics.jsonl").touch()
    assert open_run_folder("run", resume=False) == folder
    (folder / "metrics.jsonl").write_text("{}")
    with pytest.raises(UsageError, match=r"checkpoints.run is not empty.*--resume"):
        open_run_folder("run", resume=False)
    with pytest.raises(UsageError) as error:  # a script that cannot resume
        open_run_folder("run")
    assert "--resume" not in str(error.value)
    leftover = folder / "models" / ".checkpoint_last.pth.12.partial"
    leftover.touch()
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')  # stopped before it saved
    open_run_folder("run", resume=True)
    assert (folder / "metrics.jsonl").exists()
    assert not leftover.exists()
    open_run_folder("run", overwrite=True)
    assert not (folder / "metrics.jsonl").exists()


def test_what_others_left_is_not_deleted_unasked() -> None:
    notes = Path("checkpoints/run/notes.txt")
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    for resume in (False, None):
        with pytest.raises(UsageError, match="is not empty"):
            open_run_folder("run", resume=resume)
    assert notes.read_text() == "mine"
    open_run_folder("run", overwrite=True, resume=False)
    assert not notes.exists()


def test_results_without_a_checkpoint_are_not_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = open_run_folder("run", resume=False)
    metrics, weights = folder / "metrics.jsonl", folder / "models" / "best_model.pth"
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
    (folder / "models" / "checkpoint_last.pth").touch()
    open_run_folder("run", resume=True)
    assert weights.exists()


@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_checkpoint_whose_successor_is_missing_is_named(
    restarts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = open_run_folder("run", resume=False) / "models"
    (models / "checkpoint_previous.pth").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    with pytest.raises(UsageError, match=r"missing.*: mv (\S+) (\S+)") as error:
        open_run_folder("run", resume=True)
    before, last = str(error.value).split()[-2:]
    Path(before).rename(last)
    open_run_folder("run", resume=True)


def test_an_evaluation_does_not_delete_a_training() -> None:
    folder = open_run_folder("run", resume=False)
    (folder / "models" / "best_model.pth").touch()
    with pytest.raises(UsageError, match="weights of a training run"):
        open_run_folder("run", overwrite=True)
    assert (folder / "models" / "best_model.pth").exists()


def test_a_file_that_the_run_reads_is_not_overwritten() -> None:
    folder = open_run_folder("run", resume=False)
    weights = folder / "models" / "best_model.pth"
    weights.write_text("weights")
    with pytest.raises(UsageError, match=r"would delete .*best_model\.pth"):
        open_run_folder("run", overwrite=True, inputs=[str(weights)])
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


def test_a_disk_without_room_is_refused_before_anything_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        run_folder.shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**20)
    )
    folder = open_run_folder("run", resume=False, needed=2**20)
    weights = folder / "models" / "best_model.pth"
    weights.write_bytes(bytes(2**20))
    with pytest.raises(UsageError, match=r"run: 1 MiB are free .* need about 4: make"):
        open_run_folder("run", overwrite=True, resume=False, needed=5 * 2**20)
    assert weights.exists()
    # What is there is deleted first.
    open_run_folder("run", overwrite=True, resume=False, needed=2 * 2**20)
    assert not weights.exists()


def test_a_resumed_run_has_only_the_room_of_the_files_that_it_replaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = open_run_folder("run", resume=False)
    kept = [folder / "models" / "ckpt_epoch_1.pth", folder / "wandb" / "run-1.wandb"]
    names = ("checkpoint_last.pth", "best_model.pth")
    replaced = [folder / "models" / name for name in names]
    for path in (*kept, *replaced):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(2**20))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        run_folder.shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**20)
    )
    open_run_folder("run", resume=True, needed=3 * 2**20)
    with pytest.raises(UsageError, match=r"1 MiB are free .* need about 2: make"):
        open_run_folder("run", resume=True, needed=4 * 2**20)


def test_a_file_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"

    def full(self: Path, content: bytes) -> None:
        with open(self, "wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match=r"page\.html cannot be written: No space"):
        replace_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_restart_continues_only_what_the_same_launcher_has_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    folder = open_run_folder("run", resume=False)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    (folder / "models" / "checkpoint_last.pth").touch()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    for attempt in ("0", "1"):  # refused, and refused again when torchrun restarts it
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        for resume in (False, None):
            run_folder.release(folder)
            with pytest.raises(UsageError, match="is not empty"):
                open_run_folder("run", resume=resume)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    run_folder.release(folder)
    open_run_folder("run", resume=False)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 0}\n'
