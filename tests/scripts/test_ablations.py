"""The ablations, queued with stand-ins; and their table."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import ablations_table
from tests.scripts.conftest import Shell
from tests.scripts.pueue import Pueue, StandIn
from tests.scripts.test_pipeline import SMOKE_DATA, enqueued, shell, write  # noqa: F401

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
def test_every_run_is_what_its_name_says_and_is_judged_after_it(
    smoke: bool,
    shell: Shell,  # noqa: F811
    queue: Pueue | StandIn,
) -> None:
    name = "ablation_smoke" if smoke else "ablation_study"
    words = ["--smoke"] * smoke + ["--seed", "4", "--", "--epochs", "9"]
    actual = enqueued(shell, queue, "ablations.sh", name, *words)
    assert actual.keys() == {*RUNS, *(f"{run}_svm" for run in RUNS)}
    for run, expected in RUNS.items():
        number, task, args = actual[run]
        assert (args.imid_weight, args.cmid_weight) == expected[1:3]
        assert (args.model, args.num_images) == expected[::3]
        assert args.epochs == 9 and task.after == set()
        assert args.data_root == (SMOKE_DATA if smoke else "data")
        _, task, args = actual[f"{run}_svm"]
        assert args.model_path == f"checkpoints/{name}_{run}/models/best_model.pth"
        assert args.seed == 4 and task.after == {number}


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
    cells = "91.2 90.0 0.1 81.7 80.2 10"
    assert " ".join(rows["DGCNN, both losses, 1 image"]) == cells
    assert " ".join(rows["PointNet, both losses, 1 image"]) == (
        "89.1 not run 75.6 not run"
    )
    assert " ".join(rows["PointNet, intra-modal alone"]) == "- not run - 80.2 10"
    assert len(rows) >= len(RUNS)
