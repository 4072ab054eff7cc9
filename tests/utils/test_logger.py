"""Run folders, metrics and W&B."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils import logger
from utils.cli import UsageError
from utils.logger import RunLogger, ThroughputMeter, open_run_folder

ARGUMENTS = {"exp_name": "run", "wandb": "disabled", "wb_url": "http://localhost:9"}


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


def test_what_ended_a_run_is_in_its_log() -> None:
    folder = open_run_folder("run")
    with pytest.raises(UsageError), RunLogger(folder, ARGUMENTS) as log:
        log.info("first")
        raise UsageError("data/x.ply: truncated")
    text = (folder / "run.log").read_text()
    assert "first" in text
    assert "ended by UsageError: data/x.ply: truncated" in text


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_run_names_stay_inside_the_folder(name: str) -> None:
    with pytest.raises(UsageError, match="--exp_name"):
        open_run_folder(name, overwrite=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UsageError, match=r"checkpoints.run cannot be written"):
        open_run_folder("run")


def test_later_steps_are_dropped_when_a_run_goes_on() -> None:
    folder = open_run_folder("run")
    log = RunLogger(folder, ARGUMENTS)
    for step in range(6):
        log.record({"step": step, "epoch": step // 3, "loss": 1.0})
        if step % 3 == 2:
            log.record({"epoch": step // 3, "epoch_end": True})
    log.info("first")
    log.__exit__(None, None, None)
    log = RunLogger(folder, ARGUMENTS, resumed_at=(1, 4))
    log.record({"step": 4, "epoch": 1, "loss": 2.0})
    log.info("second")
    log.__exit__(None, None, None)
    lines = [
        json.loads(x) for x in (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [x.get("step", "end") for x in lines] == [0, 1, 2, "end", 3, 4]
    text = (folder / "run.log").read_text()
    assert "first" in text
    assert "second" in text


def test_a_wandb_that_cannot_start_does_not_stop_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    def refuses(**options) -> None:
        raise wandb.errors.CommError("refused")

    monkeypatch.setattr(wandb, "init", refuses)
    folder = open_run_folder("run")
    log = RunLogger(folder, {**ARGUMENTS, "wandb": "offline"})
    log.record({"step": 0, "loss": 1.0})
    log.__exit__(None, None, None)
    assert "W&B is off for this run: refused" in (folder / "run.log").read_text()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_meter_counts_samples_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(logger.time, "perf_counter", lambda: clock[0])

    def slow_loader():
        for batch in range(2):
            clock[0] += 3.0  # waiting
            yield batch

    meter = ThroughputMeter(batch_size=8)
    for _ in meter.waiting_for(slow_loader()):
        clock[0] += 1.0  # working
    assert meter.read() == {"samples_per_second": 2.0, "data_wait": 0.75}
