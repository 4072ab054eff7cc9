"""The tables that end the quick start, the study and the ablations, from files as the
runs write them."""

import json
from pathlib import Path

import pytest

from scripts import ablations_table, pipeline_table, quickstart_table
from tests.scripts.conftest import ROOT
from tests.scripts.test_pipeline import ABLATIONS


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(run: str, *records: dict, **arguments: object) -> None:
    folder = Path("checkpoints", run)
    folder.mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text + '{"cut o')
    environment = {"commit": "abc123", "machine": "a machine"}
    config = {"arguments": arguments, "environment": environment}
    (folder / "config.json").write_text(json.dumps(config))


def result(dataset: str, accuracy: float, C: float) -> dict:
    return {"dataset": dataset, "accuracy": accuracy, "C": C}


def rows_of(lines: list[str], width: int) -> dict[str, str]:
    """The cells of each line by its name, which is before ``width``."""
    return {line[:width].strip(): " ".join(line[width:].split()) for line in lines}


def test_quickstart_has_means_deviations_losses_and_times() -> None:
    for seed, (before, after) in enumerate([(0.40, 0.60), (0.50, 0.62)], 1):
        for kind, value in (("untrained", before), ("pretrained", after)):
            sets = result("modelnet40", 0.9, 10.0), result("scanobjectnn", value, 0.1)
            write(f"quickstart_{kind}_seed{seed}", *sets)
        write(
            f"quickstart_seed{seed}",
            {"step": 0, "epoch": 0, "loss": 7.25},
            {"epoch": 0, "epoch_end": True, "train_loss": 5.0},
            {"epoch": 1, "epoch_end": True, "train_loss": 3.125},
        )
    Path("checkpoints/quickstart").mkdir()
    Path("checkpoints/quickstart/stages.tsv").write_text("data\t12\nSVM\t30\n")
    text = " ".join(quickstart_table.table(range(1, 3)).split())
    for line in (
        "ScanObjectNN-like 45.0 ± 7.1 61.0 ± 1.4 ",
        "seed 1: 7.250 -> 3.125 ",
        " all 42 s ",
    ):
        assert line in text, line
    one = quickstart_table.table(range(1, 2))
    assert "±" not in one and "60.0" in one


def test_study() -> None:
    choice = [{"C": 10.0, "test": 0.8025}, {"C": 0.1, "test": 0.816}]
    svm = {**result("scanobjectnn", 0.8025, 10.0), "table": choice}
    write("study_svm", svm, data_root="data", seed=4)
    few = {"mean": 0.9, "deviation": 0.041, "accuracies": [0.9] * 50}
    few |= {"dataset": "modelnet40", "k_way": 10, "m_shot": 20}
    write("study_fewshot", few)
    epoch = {"epoch_end": True, "test_accuracy": 0.915, "best_test_accuracy": 0.925}
    write("study_ft-mn", {"step": 0}, epoch, epochs=300, batch_size=600)
    part = {"epoch_end": True, "test_miou": 0.8, "best_test_miou": 0.81}
    runs = ({**part, "test_miou": 0.5}, part)
    write("study_ft-partseg", *runs, epochs=2, batch_size=32)
    text = pipeline_table.table("study")
    assert "data data, seed 4; commit abc123; a machine" in text
    assert "synthetic" not in text
    rows = rows_of(text.splitlines()[3:18], 40)
    for task, cells in {
        "linear SVM, ScanObjectNN": "81.7 80.2 81.6 -0.1 C = 10; 0.1 by test data",
        "linear SVM, ModelNet40": "91.2 - not run",
        "few-shot, ModelNet40, 10 ways 20 shots": "87.9 ± 4.2 90.0 ± 4.1 +2.1 50 epis",
        "few-shot, ModelNet40, 5 ways 10 shots": "92.5 ± 3.0 - not run",
        "fine-tuning, ModelNet40, accuracy": "- 91.5 92.5 batch 600; after 1 of 300 ",
        "part segmentation, instance mIoU": "85.5 80.0 81.0 -4.5 batch 32, published 8",
    }.items():
        assert rows[task].startswith(cells)
    assert "best epoch or C by test data" in text
    assert len(rows) == 15  # with the two lines of the heading

    Path("data").mkdir()
    Path("data/manifest.json").write_text("{}")
    text = pipeline_table.table("study")
    assert "the differences from published numbers mean nothing" in text


def test_ablations() -> None:
    scans = result("scanobjectnn", 0.8025, 10.0)
    sets = scans, result("modelnet40", 0.9, 0.1)
    write("a_dgcnn_svm", *sets, data_root="data", seed=4)
    write("a_pointnet_intra_svm", scans)
    text = ablations_table.table("a")
    assert "data data, seed 4; commit abc123; a machine" in text
    rows = rows_of(text.splitlines(), 32)
    assert rows["DGCNN, both losses, 1 image"] == "91.2 90.0 0.1 81.7 80.2 10"
    assert rows["PointNet, both losses, 1 image"] == "89.1 not run 75.6 not run"
    assert rows["PointNet, intra-modal alone"] == "- not run - 80.2 10"
    assert len(rows) >= len(ABLATIONS)


def test_the_published_numbers_of_the_readme() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    published = pipeline_table.PUBLISHED
    svm, scans = (published[f"linear SVM, {x}"] for x in ("ModelNet40", "ScanObjectNN"))
    parts = published["part segmentation, instance mIoU"]
    linear = f"{svm} (linear SVM, ModelNet40), {scans} (ScanObjectNN)"
    assert f" {linear} and {parts} instance mIoU (part segmentation)" in text
