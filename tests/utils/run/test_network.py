"""Which network a weight file is of: entries, network.json, flags, published values."""

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
from utils.run.network import FLAGS, read_network, settle, write_network


def record(folder: Path, head: str = "projection", *outputs: Any, **values: Any):
    """Write network.json, of a small DGCNN unless ``values`` say otherwise."""
    values = {"model": "dgcnn", "emb_dims": 16, "k": 7, "num_points": 99, **values}
    write_network(folder, argparse.Namespace(**values), head, *outputs)


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
    network, expected, prefix, tmp_path
) -> None:
    actual = read_network(saved(tmp_path, network, prefix))
    given = (actual.model, actual.emb_dims, actual.k, actual.num_points)
    assert (*given, actual.head, actual.outputs) == expected
    assert actual.class_names is None
    given = f"--model {actual.model} --emb_dims {actual.emb_dims}: the file's"
    for part in (given, f"--k {actual.k}", "published"):
        assert part in actual.origin
    assert ("--k 1: pointnet has no graph" in actual.origin) == (actual.k == 1)
    assert "network.json" not in actual.origin


SET = "set by this command (instead of 7)"


@pytest.mark.parametrize(
    ("given", "k", "origin"),
    [
        ({}, 7, "--k 7 --num_points 99: network.json"),
        ({"k": 3, "emb_dims": 16}, 3, f"--k 3: {SET}; --num_points 99: network.json"),
    ],
)
def test_network_json_has_what_the_entries_do_not_show_and_flags_win(
    given, k, origin, tmp_path
) -> None:
    path = saved(tmp_path, DGCNN(7, 16, 2))
    record(tmp_path, "classifier", 2, ["chair", "table"])
    actual = read_network(path, **given)
    assert (actual.k, actual.num_points) == (k, 99)
    assert actual.class_names == ("chair", "table")
    assert actual.origin == f"--model dgcnn --emb_dims 16: the file's entries; {origin}"


@pytest.mark.parametrize(
    ("trained", "used"),
    [((15, 2048), (20, 512)), ((10, 2048), (10, 512)), ((15, 256), (20, 256))],
)
def test_published_values_give_way_to_the_next_step_s(trained, used, tmp_path) -> None:
    path = saved(tmp_path, DGCNN(5, 16))
    record(tmp_path, k=trained[0], num_points=trained[1])
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
    record(tmp_path)
    file = tmp_path / "network.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(file.read_text()) | change)
    file.write_text(change)
    with pytest.raises(UsageError, match=r"network\.json: damaged.* Delete it"):
        read_network(path)


def test_a_network_json_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, DGCNN(5, 24))
    record(tmp_path)
    message = r"w\.pth: network\.json beside it .* \(emb_dims 16, not 24\)"
    with pytest.raises(UsageError, match=message):
        read_network(path)


def test_an_unknown_network_needs_its_name_or_network_json(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save_weights(nn.Linear(2, 2), path)
    with pytest.raises(UsageError, match=r"w\.pth: not the weights of .* need --model"):
        read_network(path)
    assert read_network(path, model="tiny").k == 15
    record(tmp_path)  # as beside an image encoder's file
    with pytest.raises(UsageError, match=r"w\.pth: not the weights of .* need --model"):
        read_network(path)
    record(tmp_path, model="tiny")
    actual = read_network(path)
    assert (actual.model, actual.emb_dims, actual.k) == ("tiny", 16, 7)


def test_a_variant_with_layers_of_the_same_names_keeps_its_own_name(tmp_path) -> None:
    path = saved(tmp_path, DGCNN(5, 24))
    assert read_network(path, model="mine").model == "mine"
    record(tmp_path, model="mine", emb_dims=24)
    assert read_network(path).model == "mine"


PUBLISHED = {"k": 20, "num_points": 1024}


def flags(**given: Any) -> argparse.Namespace:
    unset = dict.fromkeys(FLAGS)
    return argparse.Namespace(**{**unset, "exp_name": "run", "model_path": "", **given})


@pytest.mark.parametrize("path", ["", "none"])
def test_without_weights_flags_not_given_are_as_published(path: str) -> None:
    args = flags(model_path=path, emb_dims=64)
    actual = settle(args, PUBLISHED)
    assert [vars(args)[name] for name in FLAGS] == ["dgcnn", 64, 20, 1024]
    assert actual.origin == (
        "--model dgcnn --k 20 --num_points 1024: published; "
        "--emb_dims 64: set by this command (instead of 1024)"
    )


@pytest.mark.usefixtures("own_folder")
def test_a_resumed_run_has_the_network_of_its_start() -> None:
    folder = Path("checkpoints/run/models")
    folder.mkdir(parents=True)
    args = flags(model_path="gone.pth")
    assert settle(args, PUBLISHED, resumed=True).k == 20  # of an older version
    record(folder, "classifier", 2)
    args = flags(model_path="gone.pth")
    settle(args, PUBLISHED, resumed=True)
    assert [vars(args)[name] for name in FLAGS] == ["dgcnn", 16, 7, 99]
