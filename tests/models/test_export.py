"""Exported encoders against PyTorch, for numbers of clouds and points of any kind."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import export
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from models.pointnet import PointNet
from utils.errors import UsageError
from utils.run.checkpoint import save_weights

K, WIDTH = 6, 16
SIZES = [(1, K), (4, 33), (2, 200)]
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


def run(*words: object) -> None:
    export.main(export.get_args_parser().parse_args([*map(str, words)]))


def run_onnx(path: Path, clouds: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    (features,) = session.run(["features"], {"points": clouds.numpy()})
    return features


def trained(network: nn.Module) -> nn.Module:
    """With running statistics that matter."""
    torch.manual_seed(0)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network.eval()


NETWORKS = {
    "encoder": lambda: DGCNN(K, WIDTH),
    "classifier": lambda: DGCNN(K, WIDTH, 5),
    "segmentation": lambda: DGCNNPartSeg(K, WIDTH),
    "pointnet": lambda: PointNet(WIDTH),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_any_number_of_clouds_and_points(form, name, tmp_path, capsys):
    network = trained(NETWORKS[name]())
    save_weights(network, tmp_path / "w.pth")
    out = tmp_path / ("f.pt2" if form == "torch" else "f.onnx")
    words = ("--format", form, "--k", K)
    run("--model_path", tmp_path / "w.pth", "--out", out, *words)
    output = capsys.readouterr().out
    graph = "pointnet has no graph" if name == "pointnet" else "set by this command"
    assert graph in output
    assert output.count("largest difference from PyTorch") == 3
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "w.pth"]  # nothing beside it
    for batch, points in SIZES:
        clouds = torch.randn(batch, 3, points)
        with torch.no_grad():
            expected = network.features(clouds).numpy()
        if form == "torch":
            actual = torch.export.load(out).module()(clouds).detach().numpy()
        else:
            actual = run_onnx(out, clouds)
        assert actual.shape == (batch, network.feature_dim)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@needs_onnx
def test_equal_distances_are_settled_in_onnx_as_here(tmp_path: Path) -> None:
    network = trained(DGCNN(K, WIDTH, edgeconv="plain"))
    save_weights(network, tmp_path / "w.pth")
    run("--model_path", tmp_path / "w.pth", "--out", tmp_path / "f.onnx", "--k", K)
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"))
    grid = grid.reshape(1, 3, 64)[:, :, torch.randperm(64)]
    actual = run_onnx(tmp_path / "f.onnx", grid)
    with torch.no_grad():
        np.testing.assert_allclose(actual, network.features(grid), rtol=1e-4, atol=1e-5)


def test_without_onnxruntime_it_says_what_was_not_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = export.compare(nn.Identity(), tmp_path / "f.onnx", "onnx", SIZES)
    assert lines == ["not compared with PyTorch: pip install onnxruntime does that"]


def test_an_exported_file_of_other_numbers_is_refused(tmp_path: Path) -> None:
    encoder = export.Features(trained(DGCNN(K, WIDTH, edgeconv="plain")))
    export.write(encoder.eval(), K, tmp_path / "f.pt2", "torch")
    nn.init.ones_(encoder.encoder.conv5[1].bias)
    with pytest.raises(UsageError, match="the exported file is wrong: 1 x 6 random"):
        export.compare(encoder, tmp_path / "f.pt2", "torch", SIZES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out w.pth", r"w\.pth exists: add --overwrite"),
        ("--out no/f.onnx", "its folder is missing"),
        ("--out .", "is a folder"),
        ("--out f.onnx --format torch", r"writes files named \.pt2"),
        ("--out f.onnx", "needs onnx and onnxscript: pip install .*--format torch"),
        ("--out f.pt2 --format torch --emb_dims 8", r"w\.pth: .* is 16, not 8"),
        ("--out f.pt2 --format torch --model dgcnn_seg", r"w\.pth: .* is dgcnn, not"),
    ],
)
def test_refusals_name_the_file_and_what_to_do(words, message, tmp_path, monkeypatch):
    save_weights(DGCNN(K, WIDTH), tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message):
        run("--model_path", "w.pth", *words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
