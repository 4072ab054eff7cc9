"""The table that ends the quick start, from files as the stages write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.quickstart_table import table
from tests.scripts.test_pipeline import write


def result(dataset: str, accuracy: float, C: float) -> dict:
    return {"dataset": dataset, "accuracy": accuracy, "C": C}


def test_means_deviations_losses_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, (before, after) in enumerate([(0.40, 0.60), (0.50, 0.62)], 1):
        for kind, value in (("untrained", before), ("pretrained", after)):
            write(
                f"quickstart_{kind}_seed{seed}",
                result("modelnet40", 0.9, 10.0),
                result("scanobjectnn", value, 0.1),
            )
        write(
            f"quickstart_seed{seed}",
            {"step": 0, "epoch": 0, "loss": 7.25},
            {"epoch": 0, "epoch_end": True, "train_loss": 5.0},
            {"epoch": 1, "epoch_end": True, "train_loss": 3.125},
        )
    Path("checkpoints/quickstart").mkdir()
    Path("checkpoints/quickstart/stages.tsv").write_text("data\t12\nSVM\t30\n")
    text = table(range(1, 3))
    rows = [line.split() for line in text.splitlines()]
    scans = next(row for row in rows if row[:1] == ["ScanObjectNN-like"])
    assert scans[1:7] == ["45.0", "±", "7.1", "61.0", "±", "1.4"]
    assert ["seed", "1:", "7.250", "->", "3.125"] in rows
    assert ["all", "42", "s"] in rows
    one = table(range(1, 2))
    assert "±" not in one
    assert "60.0" in one
