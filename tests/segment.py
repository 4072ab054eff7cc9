"""A small run of train_partseg.py, for its two files of tests."""

from __future__ import annotations

from pathlib import Path

import train_partseg
from tests.runs import run_body

TINY = (
    "--num_points 32 --k 4 --emb_dims 16 --batch_size 4 --num_workers 0 "
    "--wandb disabled --print_freq 1"
).split()
SCRATCH = ("--from_scratch", "--epochs", "2")
TEST_KEYS = {
    *("test_loss", "test_miou", "test_class_miou", "test_accuracy"),
    "test_class_accuracy",
}
EPOCH_KEYS = TEST_KEYS | {
    *("epoch", "epoch_end", "train_loss", "train_miou", "train_accuracy"),
    "best_test_miou",
}


def segment(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    body = train_partseg.segment
    return run_body(train_partseg, body, folder, data, (*TINY, *words))
