"""The Python code of the documentation's pages, run as the pages say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.transforms import center_and_scale
from models import point_encoder

ROOT = Path(__file__).resolve().parents[1]


def code_of(page: str) -> list[str]:
    """The blocks of Python of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.mark.slow
def test_the_page_on_extending_can_be_followed(
    synthetic_root: Path, tmp_path: Path
) -> None:
    """Its encoder and data set, pasted where the page says, are judged together."""
    for name in ("models", "datasets", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "eval_svm.py", tmp_path)
    encoder, encoders, build, shapes, names, choose, _ = code_of("extending.md")

    (tmp_path / "models/tiny.py").write_text(encoder)
    network = "    network = {"
    candidates = "def scanobjectnn_candidates("
    known = '    names = ", ".join(CLASSIFICATION)'
    built_in = 'ENCODERS = ("dgcnn", "dgcnn_seg", "pointnet")\n'
    sets = 'CLASSIFICATION = ("modelnet40", "scanobjectnn")\n'
    for path, old, new in (
        ("models/__init__.py", network, build + network),
        ("models/__init__.py", built_in, encoders),
        ("datasets/labelled.py", candidates, f"{shapes}\n\n{candidates}"),
        ("datasets/__init__.py", known, choose + known),
        ("datasets/__init__.py", sets, names),
    ):
        text = (tmp_path / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, path
        (tmp_path / path).write_text(text.replace(old, new))
    (tmp_path / "MyShapes").mkdir()
    for split in ("train", "test"):
        source = synthetic_root / f"modelnet40_ply_hdf5_2048/ply_data_{split}0.h5"
        shutil.copy(source, tmp_path / "MyShapes" / f"{split}.h5")
    flags = "--model tiny --dataset myshapes --model_path none --num_points 64"
    command = [sys.executable, "eval_svm.py", *flags.split(), "--data_root", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "an untrained TinyPointNet" in done.stdout, done.stderr
    assert "mean class accuracy" in done.stdout


def test_the_python_of_the_page_on_own_shapes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_of("own_shapes.md")
    clouds = np.random.default_rng(0).normal(size=(3, 1024, 3)).astype(np.float32)
    (tmp_path / "shapes").mkdir()
    np.save("shapes/clouds.npy", clouds)
    path = Path("checkpoints/crosspoint_cls/models/best_model.pth")
    path.parent.mkdir(parents=True)
    encoder = point_encoder("dgcnn", 15, 16)
    torch.save(encoder.state_dict(), path)
    namespace: dict = {}
    exec(code, namespace)
    clouds = np.stack([center_and_scale(cloud) for cloud in clouds])
    with torch.no_grad():
        expected = encoder.eval().features(torch.from_numpy(clouds).transpose(1, 2))
    np.testing.assert_allclose(namespace["features"], expected, rtol=1e-4, atol=1e-5)
    assert namespace["rows"][0, 0] == 0
