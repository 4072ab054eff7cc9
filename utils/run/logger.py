"""Records of a run: config.json, run.log, metrics.jsonl, progress bars, W&B."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from utils.parallel import distributed
from utils.run import wandb_run
from utils.run.cli import message
from utils.run.run_folder import open_run_folder, read_metrics, release, replace_file


def describe_environment() -> dict[str, str]:
    """Versions, machine and git commit, as strings."""
    import numpy
    import torchvision

    gpus = "no GPU"
    if torch.cuda.is_available():
        gpus = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    command = "git describe --always --exclude=* --abbrev=12 --dirty".split()
    folder, commit = Path(__file__).resolve().parent, ""
    with suppress(OSError):  # no git on this machine
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        commit = result.stdout.strip().replace("-dirty", " (modified)")
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {gpus}",
    }


class RunLogger:
    """Writes a run's log, metrics and W&B record on rank 0; silent on other ranks.

    A resumed run keeps the ``config.json`` of its start, and logs the flags that
    differ. From ``resumed_at``, its epoch and step, lines of ``metrics.jsonl`` are
    dropped, because those steps are repeated.
    """

    def __init__(
        self,
        folder: Path,
        arguments: dict[str, Any],
        resumed_at: tuple[int, int] | None = None,
    ) -> None:
        self.main = distributed.rank() == 0
        self.folder = folder
        self.wandb: wandb_run.WandbRun | None = None  # on rank 0 alone, if at all
        if not self.main:
            return
        self.environment = describe_environment()
        resumed = resumed_at is not None
        if resumed_at is not None:
            epoch, step = resumed_at
            kept = [
                json.dumps(record) + "\n"
                for record in read_metrics(folder)
                if record.get("step", -1) < step
                and (record["epoch"] < epoch or "epoch_end" not in record)
            ]
            replace_file(folder / "metrics.jsonl", "".join(kept).encode())
        mode = "a" if resumed else "w"
        self._log = open(folder / "run.log", mode, encoding="utf-8")
        self._metrics = open(folder / "metrics.jsonl", mode, encoding="utf-8")
        path = folder / "config.json"
        if resumed and path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            before = config["arguments"]
            changed = [
                f"--{name} {before[name]!r} -> {value!r}"
                for name, value in arguments.items()
                if name not in ("resume", "overwrite")
                and before.get(name, value) != value
            ]
            if changed:
                self.info(f"flags that differ from {path}: {', '.join(changed)}")
        else:
            config = {
                "arguments": arguments,
                "environment": self.environment,
                "world_size": distributed.world_size(),
            }
            replace_file(path, (json.dumps(config, indent=2) + "\n").encode())
        # A column for each argument in W&B's tables.
        flat = {**config["arguments"], **config}
        del flat["arguments"]
        self.wandb = wandb_run.start(folder, arguments, flat, resumed, self.info)

    def info(self, text: str) -> None:
        """Write a line to the terminal, without breaking a bar, and to ``run.log``."""
        if self.main:
            tqdm.write(text)
            self._write(text)

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for line in text.split("\n"):
            self._log.write(f"{stamp}  {line}\n")
        self._log.flush()

    def introduce(self, rows: dict[str, str]) -> None:
        """Log what is about to run, and on what, one labelled row each."""
        if self.main:
            known = self.environment
            names = ("torch", "torchvision", "numpy", "python")
            rows = {
                **rows,
                "machine": known["machine"],
                "versions": ", ".join(f"{name} {known[name]}" for name in names),
                "commit": known["commit"],
                "results": str(self.folder),
            }
            self.info("\n".join(f"{name:<10}{text}" for name, text in rows.items()))

    def record(self, values: dict[str, Any]) -> None:
        """Write a line of ``metrics.jsonl``, and the same values to W&B."""
        if self.main:
            self._metrics.write(json.dumps(values) + "\n")
            self._metrics.flush()
        if self.wandb is not None:
            self.wandb.log(values)

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        """Close everything; an error that ended the run is kept in ``run.log``."""
        if not self.main:
            return
        with ExitStack() as stack:  # each is called even if the next line fails
            stack.callback(release, self.folder)
            stack.callback(self._metrics.close)
            stack.callback(self._log.close)
            if self.wandb is not None:
                stack.callback(self.wandb.finish, exit_code=0 if error is None else 1)
            if error is not None:
                self._write(f"ended by {kind.__name__}: {message(error)}")


@contextmanager
def evaluation_logger(
    args: argparse.Namespace, rows: dict[str, str]
) -> Iterator[RunLogger]:
    """The logger of a script that evaluates ``--model_path``; ``rows`` come first."""
    folder = open_run_folder(args.exp_name, args.overwrite, None, [args.model_path])
    with RunLogger(folder, vars(args)) as logger:
        logger.introduce(rows)
        yield logger


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A tqdm bar on rank 0 in a terminal, silent everywhere else."""
    silent = distributed.rank() != 0 or not sys.stderr.isatty()
    return tqdm(items, disable=silent, dynamic_ncols=True, leave=False, **options)
