"""The scripts as they are started from a shell, torchrun included."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.partseg import DGCNNPartSeg
from tests.scripts.conftest import ROOT
from utils.run.checkpoint import save_weights

pytestmark = pytest.mark.slow
TRAIN = (
    "--image_encoder resnet18 --image_size 32 --batch_size 8 --epochs 1 --k 5 "
    "--num_workers 1 --svm_every 1 --exp_name run"
).split()
OFF = ("--wandb", "disabled")
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2".split()


def start(
    folder: Path, script: str, data: Path, *words: str, launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    """A script in ``folder``, with small clouds and a small network."""
    command = [sys.executable, *launcher, str(ROOT / script), "--data_root", str(data)]
    return subprocess.run(
        [*command, "--num_points", "64", "--emb_dims", "16", *words],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_pretraining_under_torchrun_gives_weights_to_judge(
    tmp_path: Path, synthetic_root: Path, even_root: Path
) -> None:
    words = ("train_crosspoint.py", synthetic_root, *TRAIN)
    done = start(tmp_path, *words, launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert "8 global, 4 a rank on 2 processes" in done.stdout
    assert done.stdout.count("epoch 1/1: train_loss") == 1  # by rank 0 alone
    run = tmp_path / "checkpoints" / "run"
    assert len(list(run.rglob("*.wandb"))) == 1  # offline by default

    weights = ("--model_path", str(run / "models" / "best_model.pth"))
    words = (*weights, "--k", "5", "--C", "1", "10", *OFF)
    done = start(tmp_path, "eval_svm.py", even_root, *words)
    assert done.returncode == 0, done.stderr
    assert "entries loaded\n" in done.stdout
    assert "<- chosen on held-out data" in done.stdout


def test_a_damaged_sample_ends_the_run_with_its_path(tmp_path, synthetic_root) -> None:
    data = tmp_path / "data"
    shutil.copytree(synthetic_root / "ShapeNet", data / "ShapeNet")
    (data / "ShapeNetRendering").symlink_to(synthetic_root / "ShapeNetRendering")
    copy = next((data / "ShapeNet").glob("*/*.ply"))
    copy.write_bytes(copy.read_bytes()[:-100])
    done = start(tmp_path, "train_crosspoint.py", data, *TRAIN, *OFF)
    assert done.returncode == 2
    assert f"error: {copy}: not a readable PLY file" in done.stderr
    assert "Traceback" not in done.stderr


def test_part_segmentation_from_pretrained_weights_under_torchrun(
    tmp_path: Path, synthetic_root: Path
) -> None:
    save_weights(DGCNNPartSeg(k=5, emb_dims=16), tmp_path / "pretrained.pth")
    few = "--epochs 1 --batch_size 16 --model_path pretrained.pth".split()
    words = (synthetic_root, *few, "--save_predictions", "pictures", *OFF)
    done = start(tmp_path, "train_partseg.py", *words, launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert "16 global, 8 a rank on 2 processes" in done.stdout
    assert "not used from the file: inv_head" in done.stdout
    assert done.stdout.count("best epoch: test_miou") == 1  # by rank 0 alone
    assert (tmp_path / "pictures" / "contact_sheet.png").is_file()
