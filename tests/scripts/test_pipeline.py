"""The complete study, queued and in order, with stand-ins; and its table."""

from __future__ import annotations

import importlib
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from datasets import synthetic
from scripts import pipeline_table
from tests.scripts.conftest import ROOT, Shell
from tests.scripts.pueue import Pueue, StandIn, Task

# Each task, the task it needs, and its script.
STUDY = {
    "pt-cls": ("", "train_crosspoint.py"),
    "pt-partseg": ("", "train_crosspoint.py"),
    "svm": ("pt-cls", "eval_svm.py"),
    "fewshot": ("pt-cls", "eval_fewshot.py"),
    "ft-mn": ("pt-cls", "finetune_cls.py"),
    "ft-so": ("pt-cls", "finetune_cls.py"),
    "ft-partseg": ("pt-partseg", "train_partseg.py"),
}
SMOKE_DATA = "data/synthetic_smoke"


@pytest.fixture
def shell(shell: Shell) -> Shell:
    # Fails for the run that is named in FAIL.
    shell.program("torchrun", 'case " $* " in *" ${FAIL:--} "*) exit 3 ;; esac')
    shell.variables["NGPU"] = "0"
    return shell


def enqueued(
    shell: Shell, queue: Pueue | StandIn, script: str, name: str, *words: str
) -> dict[str, tuple[str, Task, Namespace]]:
    """What a script of several runs NAME_* enqueues: number, task and flags by run."""
    shell.program("python", "[ $1 = - ] || echo")  # no data are made, nothing tabulated
    known = len(queue.tasks())
    done = shell.run(script, *words, QUEUE="pueue", VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 0, done.stderr
    *tasks, (last, table) = list(queue.tasks().items())[known:]
    assert table.after == {number for number, _ in tasks}
    module = f"scripts.{script.removesuffix('.sh')}_table"
    assert table.words == ["python", "-m", module, name]
    # Without --full, pueue shows the last 15 lines.
    assert f"task {last}: the table, if all" in done.stdout
    assert f"pueue log --full {last}" in done.stdout
    runs = {}
    for number, task in tasks:
        assert f"task {number}: {task.label}" in done.stdout
        # NGPU=0 is the CPU, also where there are GPUs.
        assert task.words[:3] == ["env", "CUDA_VISIBLE_DEVICES=", "torchrun"]
        parser = importlib.import_module(Path(task.words[5]).stem).get_args_parser()
        args = parser.parse_args(task.words[6:])
        assert args.exp_name == task.label
        # Started again, a training continues and an evaluation is repeated.
        assert getattr(args, "resume", False) != args.overwrite
        runs[task.label.removeprefix(f"{name}_")] = (number, task, args)
    assert len(runs) == len(tasks)  # no two share a folder
    return runs


@pytest.mark.parametrize("smoke", [False, True])
def test_the_queue_holds_every_task_after_those_it_needs(
    smoke: bool, shell: Shell, queue: Pueue | StandIn
) -> None:
    first = shell.run("pt-cls.sh", QUEUE="pueue").stdout.strip()
    shell.variables |= {"PUEUE_GROUP": "gpu", "PUEUE_AFTER": first}
    name = "smoke" if smoke else "nightly"
    words = ["--smoke"] if smoke else ["--name", name, "--data_root", "a b"]
    runs = enqueued(shell, queue, "pipeline.sh", name, *words, "--seed", "7")
    assert list(runs) == list(STUDY)
    for run, (needed, script) in STUDY.items():
        _, task, args = runs[run]
        assert (task.group, task.words[5]) == ("gpu", script)
        assert task.after == {runs[needed][0] if needed else first}
        assert (args.data_root, args.seed) == (SMOKE_DATA if smoke else "a b", 7)
        if needed:
            best = f"checkpoints/{name}_{needed}/models/best_model.pth"
            assert args.model_path == best
        if None not in (args.k, args.num_points):  # otherwise those of the weights
            assert args.k <= args.num_points
    if smoke:
        (made,) = (x[2:] for x in shell.calls("python") if "synthetic" in x[1])
        made = synthetic.get_args_parser().parse_args(made)
        assert made.out == Path(SMOKE_DATA)


def test_a_failed_run_stops_only_those_that_need_it(shell: Shell) -> None:
    done = shell.run("pipeline.sh", "--name", "broken", FAIL="broken_pt-partseg")
    calls = shell.calls("torchrun")
    left_out = [run for run in STUDY if not any(f"broken_{run}" in x for x in calls)]
    assert left_out == ["ft-partseg"] and len(calls) == len(STUDY) - 1
    assert done.returncode == 1
    assert "ft-partseg: not run, because pt-partseg failed" in done.stderr
    assert "part segmentation, instance mIoU" in done.stdout  # the table comes anyway


def test_the_published_numbers_of_the_readme() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    actual = re.search(
        r"(\S+) \(linear SVM, ModelNet40\), (\S+) \(ScanObjectNN\) and (\S+) instance "
        r"mIoU \(part segmentation\)",
        text,
    )
    published = pipeline_table.PUBLISHED
    assert actual is not None and actual.groups() == (
        published["linear SVM, ModelNet40"],
        published["linear SVM, ScanObjectNN"],
        published["part segmentation, instance mIoU"],
    )


def write(run: str, *records: dict, **arguments: object) -> None:
    folder = Path("checkpoints", run)
    folder.mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text + '{"cut o')
    environment = {"commit": "abc123", "machine": "a machine"}
    config = {"arguments": arguments, "environment": environment}
    (folder / "config.json").write_text(json.dumps(config))


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"C": 10.0, "test": 0.8025}, {"C": 0.1, "test": 0.816}]
    svm = {"dataset": "scanobjectnn", "accuracy": 0.8025, "C": 10.0, "table": rows}
    write("study_svm", svm, data_root="data", seed=4)
    few = {"mean": 0.9, "deviation": 0.041, "accuracies": [0.9] * 50}
    few["dataset"] = "modelnet40"
    write("study_fewshot", {**few, "k_way": 10, "m_shot": 20})
    epoch = {"epoch_end": True, "test_accuracy": 0.915, "best_test_accuracy": 0.925}
    write("study_ft-mn", {"step": 0}, epoch, epochs=300, batch_size=600)
    part = {"epoch_end": True, "test_miou": 0.8, "best_test_miou": 0.81}
    runs = ({**part, "test_miou": 0.5}, part)
    write("study_ft-partseg", *runs, epochs=2, batch_size=32)
    text = pipeline_table.table("study")
    assert "data data, seed 4; commit abc123; a machine" in text
    assert "synthetic" not in text
    lines = text.splitlines()
    rows = {line[:40].strip(): line[40:].split() for line in lines[3:18]}
    for task, cells in {
        "linear SVM, ScanObjectNN": "81.7 80.2 81.6 -0.1 C = 10; 0.1 by test data",
        "linear SVM, ModelNet40": "91.2 - not run",
        "few-shot, ModelNet40, 10 ways 20 shots": "87.9 ± 4.2 90.0 ± 4.1 +2.1 50 epis",
        "few-shot, ModelNet40, 5 ways 10 shots": "92.5 ± 3.0 - not run",
        "fine-tuning, ModelNet40, accuracy": "- 91.5 92.5 batch 600; after 1 of 300 ",
        "part segmentation, instance mIoU": "85.5 80.0 81.0 -4.5 batch 32, published 8",
    }.items():
        assert " ".join(rows[task]).startswith(cells)
    assert "best epoch or C by test data" in text
    assert len(rows) == 15  # with the two lines of the heading

    Path("data").mkdir()
    Path("data/manifest.json").write_text("{}")
    text = pipeline_table.table("study")
    assert "the differences from published numbers mean nothing" in text
