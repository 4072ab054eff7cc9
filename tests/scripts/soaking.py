"""What the long tests share: a folder like the repository, and one small training."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers.runs import same_records, weights
from tests.helpers.small_data import write_small_data
from tests.scripts.conftest import ROOT
from utils.run.run_folder import read_metrics


def training(epochs: int) -> list[str]:
    """Flags of finetune_cls.py; 3 steps an epoch, about 60 ms on one core."""
    words = "--from_scratch --num_points 64 --k 5 --emb_dims 16 --batch_size 8 "
    words += "--num_workers 0 --print_freq 1 --wandb disabled --data_root data"
    return [*words.split(), "--epochs", str(epochs), "--save_freq", str(epochs)]


class Checkout:
    """Links to all of the repository, beside data and run folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name not in ("data", "checkpoints") and path.name[0] != ".":
                (folder / path.name).symlink_to(path)
        write_small_data(folder / "data", shapes=24)
        programs = Path(sys.executable).parent
        self.variables = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *command: str, **variables: str) -> str:
        """The output of a command in the folder, which has to succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}: {done.returncode} {output}"
        return done.stdout

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "checkpoints" / name

    def log(self, name: str) -> str:
        """Of a run, "" before there is one."""
        path = self.run(name) / "run.log"
        return path.read_text() if path.is_file() else ""

    def steps(self, name: str) -> int:
        """How many steps the run has recorded."""
        return sum("step" in record for record in read_metrics(self.run(name)))

    def whole(self, epochs: int, processes: int = 1) -> Path:
        """An undisturbed training of so many epochs; made once."""
        name = f"whole_{epochs}_{processes}"
        if not self.run(name).exists():
            torchrun = ["torchrun", "--standalone", f"--nproc_per_node={processes}"]
            words = ["finetune_cls.py", *training(epochs), "--exp_name", name]
            self.start(*torchrun, *words)
        return self.run(name)

    def same(self, name: str, epochs: int, processes: int = 1) -> None:
        """A run's records and last weights are those of the undisturbed training."""
        whole = self.whole(epochs, processes)
        same_records(self.run(name), whole)
        last = f"ckpt_epoch_{epochs}.pth"
        mine, theirs = weights(self.run(name), last), weights(whole, last)
        assert len(mine) == len(theirs) > 20
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
