"""What the report takes from the files of runs, and refuses where they do not fit."""

from __future__ import annotations

import csv
import json
import shlex
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import train_crosspoint
from utils.drawing.plot import Records
from utils.run import cli
from utils.run.run_folder import read_metrics
from utils.run.training import DEFAULT_LR


@dataclass(frozen=True)
class Run:
    """A run of any script: what its config.json and metrics.jsonl hold."""

    folder: Path
    args: Namespace
    config: dict[str, Any]
    records: Records


# A script whose runs are read, and an argument that tells them from others'.
PRETRAINING, JUDGEMENT = ("train_crosspoint.py", "image_size"), ("eval_svm.py", "C")


def read_run(folder: str | Path, kind: tuple[str, str]) -> Run:
    """A run of ``PRETRAINING`` or ``JUDGEMENT``.

    Raises:
        UsageError: naming the file that is missing or damaged.
    """
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        args = Namespace(**config["arguments"])
        if kind[1] not in config["arguments"] or "environment" not in config:
            raise KeyError(kind[1])
        records = read_metrics(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cli.UsageError(
            f"{path} is missing or damaged: {folder} should be a run of {kind[0]}"
        ) from error
    return Run(Path(folder), args, config, records)


def read_judged(folder: str | Path, trained: Run | None) -> Run:
    """A run of eval_svm.py on the weights of a pre-training run, or on none.

    Raises:
        UsageError: if it judged others, or has no results.
    """
    run = read_run(folder, JUDGEMENT)
    found = getattr(run.args, "model_path", "")
    wanted, fits = cli.UNTRAINED, found == cli.UNTRAINED
    if trained is not None:
        wanted = str(trained.folder / "models" / "best_model.pth")
        fits = trained.folder.resolve() in Path(found).resolve().parents
    problem = "" if fits else f"has judged {found or 'nothing'}"
    if not any("dataset" in record for record in run.records):
        problem = problem or "has no results"
    if problem:
        raise cli.UsageError(
            f"{folder} {problem}: expected a run of "
            f"eval_svm.py --dataset modelnet40 scanobjectnn --model_path {wanted}"
        )
    return run


def command(run: Run) -> list[str]:
    """train_crosspoint.py and every flag that is not at its default, with its value.

    Without --overwrite and --resume, which are no part of what was trained, and for one
    node, however many there were.
    """
    args, processes = run.args, run.config["world_size"]
    many = f"torchrun --nproc_per_node={processes}"
    words = [f"{many if processes > 1 else 'python'} train_crosspoint.py"]
    defaults = vars(train_crosspoint.get_args_parser().parse_args([]))
    defaults["lr"] = DEFAULT_LR[args.optimizer]
    for name, value in vars(args).items():
        if name in ("overwrite", "resume") or value == defaults.get(name):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words.append(f"--{name} {shlex.quote(str(value))}")
    return words


def read_confusion(path: Path) -> tuple[np.ndarray, list[str]]:
    """The counts (C, C) and the C names that eval_svm.py wrote.

    Raises:
        UsageError: if the file is missing or damaged.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            (_, *names), *rows = csv.reader(file)
        matrix = np.array([row[1:] for row in rows], np.int64)
        matrix = matrix.reshape(len(names), len(names))
    except (OSError, ValueError) as error:
        raise cli.UsageError(f"{path} is missing or damaged: {error}") from error
    return matrix, names
