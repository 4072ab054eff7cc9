"""The scripts as they are started from a shell, torchrun included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.partseg import DGCNNPartSeg
from tests.runs import metrics
from utils.run.checkpoint import save_weights
from utils.run.run_folder import read_metrics

TEST_KEYS = ("test_loss", "test_accuracy", "test_class_accuracy")
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


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """The run folder of a pre-training on two ranks; ``stdout`` holds its output."""
    folder = tmp_path_factory.mktemp("pretrained")
    words = [str(ROOT / "train_crosspoint.py"), "--data_root", str(synthetic_root)]
    done = start(folder, *TORCHRUN, *words, *TINY, *TRAIN)
    assert done.returncode == 0, done.stderr
    (folder / "checkpoints" / "run" / "stdout").write_text(done.stdout)
    return folder / "checkpoints" / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("eval_svm.py", "--C 1 10"),
        ("finetune_cls.py", "--epochs 1 --batch_size 8 --num_workers 0"),
        ("eval_fewshot.py", "--k_way 5 --m_shot 2 --n_query 1 --n_runs 3"),
    ],
)
def test_pretraining_under_torchrun_gives_weights_for_every_script(
    script: str, words: str, tmp_path: Path, even_root: Path, pretrained: Path
) -> None:
    told = (pretrained / "stdout").read_text()
    assert "8 global, 4 a rank on 2 processes" in told
    assert told.count("epoch 1/1: train_loss") == 1  # by rank 0 alone
    assert len(list(pretrained.rglob("*.wandb"))) == 1  # offline by default

    flags = ["--data_root", str(even_root), *TINY, "--exp_name", "own"]
    weights = ["--model_path", str(pretrained / "models" / "best_model.pth")]
    quiet = ["--wandb", "disabled"]
    done = start(tmp_path, str(ROOT / script), *flags, *weights, *quiet, *words.split())
    assert done.returncode == 0, done.stderr
    assert "entries loaded" in done.stdout
    folder = tmp_path / "checkpoints" / "own"
    if script == "eval_svm.py":
        assert "<- chosen on held-out data" in done.stdout
    elif script == "eval_fewshot.py":
        assert "left at random" not in done.stdout
        (line,) = read_metrics(folder)
        assert len(line["accuracies"]) == 3
        assert (line["dataset"], line["k_way"], line["m_shot"]) == ("modelnet40", 5, 2)
        assert f"{line['mean']:.2%}" in done.stdout
    else:
        assert "entries loaded; not used from the file: inv_head.0" in done.stdout
        (epoch,) = metrics(folder)[1]
        assert set(TEST_KEYS) < set(epoch)
        assert (folder / "models" / "best_model.pth").is_file()


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
