"""The scripts as they are started from a shell, torchrun included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.partseg import DGCNNPartSeg
from utils.run.checkpoint import save_weights

ROOT = Path(__file__).parents[2]
TINY = "--num_points 64 --k 5 --emb_dims 16".split()
TRAIN = (
    "--image_encoder resnet18 --image_size 32 --batch_size 8 --epochs 1 "
    "--num_workers 1 --svm_every 1 --exp_name run"
).split()
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2".split()


def start(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_pretraining_under_torchrun_gives_weights_to_judge(
    tmp_path: Path, synthetic_root: Path, even_root: Path
) -> None:
    words = [str(ROOT / "train_crosspoint.py"), "--data_root", str(synthetic_root)]
    done = start(tmp_path, *TORCHRUN, *words, *TINY, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "8 global, 4 a rank on 2 processes" in done.stdout
    assert done.stdout.count("epoch 1/1: train_loss") == 1  # by rank 0 alone
    run = tmp_path / "checkpoints" / "run"
    assert len(list(run.rglob("*.wandb"))) == 1  # offline by default

    words = [str(ROOT / "eval_svm.py"), "--data_root", str(even_root), "--C", "1", "10"]
    weights = ["--model_path", str(run / "models" / "best_model.pth")]
    done = start(tmp_path, *words, *TINY, *weights, "--wandb", "disabled")
    assert done.returncode == 0, done.stderr
    assert "entries loaded\n" in done.stdout
    assert "<- chosen on held-out data" in done.stdout


@pytest.mark.slow
def test_a_damaged_sample_ends_the_run_with_its_path(
    tmp_path: Path, synthetic_root: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(synthetic_root / "ShapeNet", data / "ShapeNet")
    (data / "ShapeNetRendering").symlink_to(synthetic_root / "ShapeNetRendering")
    copy = next((data / "ShapeNet").glob("*/*.ply"))
    copy.write_bytes(copy.read_bytes()[:-100])
    script = str(ROOT / "train_crosspoint.py")
    done = start(
        tmp_path, script, "--data_root", str(data), *TINY, *TRAIN, "--wandb", "disabled"
    )
    assert done.returncode == 2
    assert f"error: {copy}: not a readable PLY file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_part_segmentation_from_pretrained_weights_under_torchrun(
    tmp_path: Path, synthetic_root: Path
) -> None:
    data = ["--data_root", str(synthetic_root), "--wandb", "disabled"]
    encoder = DGCNNPartSeg(k=5, emb_dims=16)
    save_weights(encoder, tmp_path / "pretrained.pth")
    script = str(ROOT / "train_partseg.py")
    few = "--num_points 64 --emb_dims 16 --epochs 1 --batch_size 16".split()
    weights = ["--model_path", "pretrained.pth"]
    pictures = ["--save_predictions", "pictures"]
    done = start(tmp_path, *TORCHRUN, script, *data, *few, *weights, *pictures)
    assert done.returncode == 0, done.stderr
    assert "16 global, 8 a rank on 2 processes" in done.stdout
    assert "not used from the file: inv_head" in done.stdout
    assert done.stdout.count("best epoch: test_miou") == 1  # by rank 0 alone
    assert (tmp_path / "pictures" / "contact_sheet.png").is_file()
