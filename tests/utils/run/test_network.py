"""Which network a weight file is of: entries, network.json, flags, published values."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from models.pointnet import PointNet
from utils.errors import UsageError
from utils.run.checkpoint import published_weights, save_weights
from utils.run.network import read_network, settle, write_network

ARGS = argparse.Namespace(model="dgcnn", emb_dims=16, k=7, num_points=99)


def saved(folder: Path, network: nn.Module, prefix: str = "") -> Path:
    state = published_weights(network)
    torch.save({prefix + n: v for n, v in state.items()}, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (DGCNN(5, 16), ("dgcnn", 16, 15, 1024, "projection", None)),
        (DGCNN(5, 24, 7), ("dgcnn", 24, 20, 1024, "classifier", 7)),
        (DGCNN(5, 16, 3, linear_head=True), ("dgcnn", 16, 20, 1024, "linear", 3)),
        (PointNet(24), ("pointnet", 24, 1, 1024, "projection", None)),
        (PointNet(16, 7), ("pointnet", 16, 1, 1024, "classifier", 7)),
        (DGCNNPartSeg(5, 24), ("dgcnn_seg", 24, 15, 1024, "projection", None)),
        (DGCNNPartSeg(5, 16, 9), ("dgcnn_seg", 16, 40, 2048, "parts", 9)),
    ],
)
def test_a_file_alone_shows_its_network_and_the_rest_is_as_published(
    network: nn.Module, expected: tuple, prefix: str, tmp_path: Path
) -> None:
    actual = read_network(saved(tmp_path, network, prefix))
    given = (actual.model, actual.emb_dims, actual.k, actual.num_points)
    assert (*given, actual.head, actual.outputs) == expected
    assert actual.class_names is None
    assert f"--model {actual.model} --emb_dims {actual.emb_dims}: the file's" in (
        actual.origin
    )
    assert f"--k {actual.k}" in actual.origin and "published" in actual.origin
    assert ("--k 1: pointnet has no graph" in actual.origin) == (actual.k == 1)
    assert "network.json" not in actual.origin


def test_network_json_has_what_the_entries_do_not_show(tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(7, 16, 2))
    write_network(tmp_path, ARGS, "classifier", 2, ["chair", "table"])
    actual = read_network(path)
    assert (actual.k, actual.num_points) == (7, 99)
    assert actual.class_names == ("chair", "table")
    assert actual.origin == (
        "--model dgcnn --emb_dims 16: the file's entries; "
        "--k 7 --num_points 99: network.json"
    )


def test_flags_win_and_the_line_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(7, 16))
    write_network(tmp_path, ARGS, "projection")
    actual = read_network(path, k=3, emb_dims=16)
    assert (actual.k, actual.num_points) == (3, 99)
    assert actual.origin == (
        "--model dgcnn --emb_dims 16: the file's entries; "
        "--k 3: set by this command (instead of 7); --num_points 99: network.json"
    )


@pytest.mark.parametrize(
    ("trained", "used"),
    [((15, 2048), (20, 512)), ((10, 2048), (10, 512)), ((15, 256), (20, 256))],
)
def test_published_values_give_way_to_those_of_the_next_step(
    trained: tuple[int, int], used: tuple[int, int], tmp_path: Path
) -> None:
    path = saved(tmp_path, DGCNN(5, 16))
    args = argparse.Namespace(**{**vars(ARGS), "k": trained[0]})
    args.num_points = trained[1]
    write_network(tmp_path, args, "projection")
    actual = read_network(path, {"k": 20, "num_points": 512})
    assert (actual.k, actual.num_points) == used
    assert ("published, after pre-training with 15" in actual.origin) == (used[0] == 20)


@pytest.mark.parametrize(
    "change",
    [
        *("[]", "{", "{}", {"k": 0}, {"k": "9"}, {"head": "tail"}, {"model": None}),
        {"class_names": 3},
        {"head": "classifier", "outputs": 2, "class_names": ["a"]},
    ],
)
def test_a_damaged_network_json_is_named(change: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(5, 16))
    write_network(tmp_path, ARGS, "projection")
    file = tmp_path / "network.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(file.read_text()) | change)
    file.write_text(change)
    with pytest.raises(UsageError, match=r"network\.json: damaged.* Delete it"):
        read_network(path)


def test_a_network_json_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(5, 24))
    write_network(tmp_path, ARGS, "projection")
    message = r"w\.pth: network\.json beside it .* \(emb_dims 16, not 24\)"
    with pytest.raises(UsageError, match=message):
        read_network(path)


def test_an_unknown_network_needs_its_name_or_network_json(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(UsageError, match=r"w\.pth: not the weights of .* need --model"):
        read_network(path)
    assert read_network(path, model="tiny").k == 15
    write_network(tmp_path, ARGS, "projection")  # as beside an image encoder's file
    with pytest.raises(UsageError, match=r"w\.pth: not the weights of .* need --model"):
        read_network(path)
    args = argparse.Namespace(**{**vars(ARGS), "model": "tiny"})
    write_network(tmp_path, args, "projection")
    actual = read_network(path)
    assert (actual.model, actual.emb_dims, actual.k) == ("tiny", 16, 7)


def test_a_variant_with_layers_of_the_same_names_keeps_its_own_name(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path, DGCNN(5, 24))
    assert read_network(path, model="mine").model == "mine"
    args = argparse.Namespace(**{**vars(ARGS), "model": "mine", "emb_dims": 24})
    write_network(tmp_path, args, "projection")
    assert read_network(path).model == "mine"


PUBLISHED = {"k": 20, "num_points": 1024}


def flags(**given: Any) -> argparse.Namespace:
    unset = dict.fromkeys(("model", "emb_dims", "k", "num_points"))
    return argparse.Namespace(**{**unset, "exp_name": "run", "model_path": "", **given})


@pytest.mark.parametrize("path", ["", "none"])
def test_without_weights_flags_not_given_are_as_published(path: str) -> None:
    args = flags(model_path=path, emb_dims=64)
    actual = settle(args, PUBLISHED)
    assert (args.model, args.emb_dims, args.k, args.num_points) == (
        *("dgcnn", 64, 20, 1024),
    )
    assert actual.origin == (
        "--model dgcnn --k 20 --num_points 1024: published; "
        "--emb_dims 64: set by this command (instead of 1024)"
    )


def test_a_resumed_run_has_the_network_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints" / "run" / "models"
    folder.mkdir(parents=True)
    args = flags(model_path="gone.pth")
    assert settle(args, PUBLISHED, resumed=True).k == 20  # of an older version
    write_network(folder, ARGS, "classifier", 2)
    args = flags(model_path="gone.pth")
    settle(args, PUBLISHED, resumed=True)
    assert [args.model, args.emb_dims, args.k, args.num_points] == [
        *("dgcnn", 16, 7, 99),
    ]
