"""A small run of train_crosspoint.py, for the files of tests that need one."""

from __future__ import annotations

from pathlib import Path

import train_crosspoint
from tests.runs import run_body

TINY = (
    "--num_points 64 --k 5 --emb_dims 16 --image_encoder resnet18 --image_size 32 "
    "--batch_size 8 --num_workers 0 --wandb disabled --print_freq 1 --svm_every 0"
).split()


def pretrain(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    body = train_crosspoint.pretrain
    return run_body(train_crosspoint, body, folder, data, (*TINY, *words))
