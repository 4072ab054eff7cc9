"""The encoders by torch.hub, as another program loads them."""

import argparse
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import hubconf
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from models.pointnet import PointNet
from utils.errors import UsageError
from utils.run.checkpoint import save_weights
from utils.run.network import write_network

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"dgcnn_cls": "dgcnn", "dgcnn_partseg": "dgcnn_seg"}
MODELS |= {"pointnet_cls": "pointnet"}
POINTS = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
CATEGORY = torch.eye(16)[[4, 0]]
NAMES = ("chair", "table")


def saved(folder: Path, network: torch.nn.Module, model: str, *head) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / "w.pth")
    args = argparse.Namespace(model=model, emb_dims=16, k=7, num_points=99)
    write_network(folder, args, *head)
    return str(folder / "w.pth")


def test_the_entries_are_listed_and_nothing_else() -> None:
    public = {n for n in vars(hubconf) if not n.startswith("_")}  # as torch.hub.list
    listed = {name for name in public if callable(getattr(hubconf, name))}
    assert listed == set(MODELS)


@pytest.mark.parametrize(
    ("entry", "network", "head", "given"),
    [
        ("dgcnn_cls", DGCNN(7, 16), ("projection",), ()),
        ("dgcnn_partseg", DGCNNPartSeg(7, 16), ("projection",), ()),
        ("pointnet_cls", PointNet(16), ("projection",), ()),
        ("pointnet_cls", PointNet(16, 3), ("classifier", 3), ()),
        ("dgcnn_cls", DGCNN(7, 16, 2), ("classifier", 2, NAMES), ()),
        ("dgcnn_cls", DGCNN(7, 16, 2, linear_head=True), ("linear", 2, NAMES), ()),
        ("dgcnn_partseg", DGCNNPartSeg(7, 16, 9), ("parts", 9), (CATEGORY,)),
    ],
)
def test_networks_are_those_of_the_file(
    entry: str, network: Any, head: tuple, given: tuple, tmp_path: Path
) -> None:
    path = saved(tmp_path, network.eval(), MODELS[entry], *head)
    loaded = torch.hub.load(str(ROOT), entry, source="local", weights=path)
    assert not loaded.training
    assert loaded.network.class_names == (NAMES if NAMES in head else None)
    with torch.no_grad():
        assert torch.equal(loaded.features(POINTS), network.features(POINTS))
        actual, expected = loaded(POINTS, *given), network(POINTS, *given)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    if entry == "pointnet_cls":
        assert loaded.network.k == 1  # it has no graph
    else:
        assert loaded.k == loaded.network.k == 7
        assert getattr(hubconf, entry)(path, k=3).k == 3


def test_weights_by_url_come_with_their_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "files", DGCNN(7, 16), "dgcnn", "projection")
    saved(tmp_path / "files" / "bare", DGCNN(7, 16), "dgcnn", "projection")
    (tmp_path / "files" / "bare" / "network.json").unlink()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "files"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert hubconf.dgcnn_cls(f"{url}/w.pth").k == 7
        assert hubconf.dgcnn_cls(f"{url}/bare/w.pth").k == 15  # as published
        server.shutdown()
    assert hubconf.dgcnn_cls(f"{url}/w.pth").k == 7  # kept


def test_a_file_of_another_network_is_refused(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, DGCNN(7, 16), "dgcnn", "projection")
    with pytest.raises(UsageError, match=r"w\.pth: .* its --model is dgcnn, not"):
        hubconf.dgcnn_partseg(path)
    state = torch.load(path)
    del state["conv2.0.weight"]
    torch.save(state, path)
    with pytest.raises(UsageError, match=r"w\.pth does not hold .*: conv2\.0 "):
        hubconf.dgcnn_cls(path)
    assert hubconf.dgcnn_cls(emb_dims=16).network.origin == "random weights"
    assert hubconf.pointnet_cls(emb_dims=24).feature_dim == 24


# In a folder of its own; no package but those named is found.
ELSEWHERE = """
import importlib.abc, importlib.util, sys
others = {"torchvision", "h5py", "sklearn", "wandb", "PIL", "tqdm", "plyfile",
          "trimesh", "numba", "threadpoolctl", "matplotlib"}
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in others:
            raise ModuleNotFoundError(name)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in others else find(name, *a)
import torch
sys.meta_path.insert(0, Refuse())
found = torch.hub.load(sys.argv[1], "dgcnn_cls", source="local", weights=sys.argv[2])
print(tuple(found.features(torch.rand(2, 3, 40)).shape))
"""


def test_the_dependencies_are_all_that_is_needed(tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(7, 16), "dgcnn", "projection")
    command = [sys.executable, "-c", ELSEWHERE, str(ROOT), path]
    output = subprocess.check_output(command, cwd=tmp_path, text=True, timeout=120)
    assert output.splitlines()[0] == "(2, 32)"
