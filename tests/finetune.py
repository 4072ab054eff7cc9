"""A small run of finetune_cls.py, for its two files of tests."""

from __future__ import annotations

from pathlib import Path

import finetune_cls
from tests.runs import run_body

TINY = (
    "--num_points 64 --k 5 --emb_dims 16 --batch_size 8 --num_workers 0 "
    "--wandb disabled --print_freq 1"
).split()
TEST_KEYS = ("test_loss", "test_accuracy", "test_class_accuracy")
NUM_CLASSES = 5  # of the fixture `uneven_root`, one without a cloud
HEAD = ("linear1", "bn6", "linear2", "bn7", "linear3")


def finetune(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    body = finetune_cls.finetune
    return run_body(finetune_cls, body, folder, data, (*TINY, *words))
