"""The ablations, queued and in order, with stand-ins; and their table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from scripts import ablations_table
from tests.scripts.conftest import Shell
from tests.scripts.pueue import Pueue, StandIn
from tests.scripts.test_pipeline import shell, value, write  # noqa: F401

# Of each pre-training: encoder, weights of the losses, images a shape.
RUNS = {
    "dgcnn": ("dgcnn", 1, 1, 1),
    "dgcnn_intra": ("dgcnn", 1, 0, 1),
    "dgcnn_cross": ("dgcnn", 0, 1, 1),
    "pointnet": ("pointnet", 1, 1, 1),
    "pointnet_intra": ("pointnet", 1, 0, 1),
    "pointnet_cross": ("pointnet", 0, 1, 1),
    **{f"dgcnn_{images}": ("dgcnn", 1, 1, images) for images in range(2, 6)},
}


@pytest.mark.parametrize("smoke", [False, True])
def test_every_run_is_what_its_name_says_and_is_judged(
    smoke: bool,
    shell: Shell,  # noqa: F811
) -> None:
    shell.program("python", "[ $1 = - ] || echo")  # no data are made, nothing tabulated
    words = ["--smoke"] * smoke + ["--seed", "4", "--", "--epochs", "9"]
    done = shell.run("ablations.sh", *words, VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 0, done.stderr
    name = "ablation_smoke" if smoke else "ablation_study"
    found = {}
    for words in shell.calls("torchrun"):
        parser = importlib.import_module(Path(words[2]).stem).get_args_parser()
        args = parser.parse_args(words[3:])
        found[args.exp_name.removeprefix(f"{name}_")] = args
        assert args.data_root == ("data/synthetic_smoke" if smoke else "data")
        assert args.seed == 4
    assert found.keys() == {*RUNS, *(f"{run}_svm" for run in RUNS)}
    for run, expected in RUNS.items():
        args = found[run]
        weights = (args.imid_weight, args.cmid_weight)
        assert (args.model, *weights, args.num_images) == expected
        assert args.epochs == 9 and args.resume
        best = f"checkpoints/{name}_{run}/models/best_model.pth"
        assert found[f"{run}_svm"].model_path == best
    table = [w for w in shell.calls("python") if w[1:2] == ["scripts.ablations_table"]]
    assert table == [["-m", "scripts.ablations_table", name]]


def test_the_queue_judges_each_after_its_training(
    shell: Shell,  # noqa: F811
    queue: Pueue | StandIn,
) -> None:
    done = shell.run("ablations.sh", "--name", "a", QUEUE="pueue")
    assert done.returncode == 0, done.stderr
    *numbers, _ = queue.tasks()
    *tasks, last = queue.tasks().values()
    assert len(tasks) == 2 * len(RUNS)
    for before, task in zip(["", *numbers], tasks, strict=False):
        assert task.after == ({before} if task.label.endswith("_svm") else set())
    assert last.words == ["python", "-m", "scripts.ablations_table", "a"]


def test_the_table_shows_what_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = [
        {"dataset": "scanobjectnn", "accuracy": 0.8025, "C": 10.0},
        {"dataset": "modelnet40", "accuracy": 0.9, "C": 0.1},
    ]
    write("a_dgcnn_svm", *records, data_root="data", seed=4)
    write("a_pointnet_intra_svm", records[0])
    text = ablations_table.table("a")
    assert "data data, seed 4; commit abc123; a machine" in text
    rows = {line[:32].strip(): line[32:].split() for line in text.splitlines()}
    said = "91.2 90.0 0.1 81.7 80.2 10"
    assert " ".join(rows["DGCNN, both losses, 1 image"]) == said
    assert " ".join(rows["PointNet, both losses, 1 image"]) == (
        "89.1 not run 75.6 not run"
    )
    assert " ".join(rows["PointNet, intra-modal alone"]) == "- not run - 80.2 10"
    assert len(rows) >= len(RUNS)
