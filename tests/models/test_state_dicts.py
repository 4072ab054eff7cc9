"""Names and shapes of all weights: the published code loads them strictly."""

import copy
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from models.dgcnn import DGCNN
from models.image import ImageEncoder
from models.partseg import DGCNNPartSeg
from models.pointnet import PointNet
from utils.run.checkpoint import load_pretrained, published_weights, save_weights

Shapes = dict[str, tuple[int, ...]]


def shapes_of(state: dict[str, torch.Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def batch_norm(name: str, width: int) -> Shapes:
    return {
        f"{name}.weight": (width,),
        f"{name}.bias": (width,),
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }


def named(name: str, twin: str, *shape: int) -> Shapes:
    """A convolution and its BatchNorm, which ``twin`` names a second time."""
    width = shape[0]
    norms = batch_norm(f"{name}.1", width) | batch_norm(twin, width)
    return {f"{name}.0.weight": shape} | norms


def projection_head(feature: int) -> Shapes:
    return {
        "inv_head.0.weight": (1024, feature),
        "inv_head.0.bias": (1024,),
        **batch_norm("inv_head.1", 1024),
        "inv_head.3.weight": (256, 1024),
        "inv_head.3.bias": (256,),
    }


DGCNN_BODY: Shapes = {
    **named("conv1", "bn1", 64, 6, 1, 1),
    **named("conv2", "bn2", 64, 128, 1, 1),
    **named("conv3", "bn3", 128, 128, 1, 1),
    **named("conv4", "bn4", 256, 256, 1, 1),
    **named("conv5", "bn5", 1024, 512, 1),
}
DGCNN_CLASSIFIER: Shapes = {
    **DGCNN_BODY,
    "linear1.weight": (512, 2048),
    **batch_norm("bn6", 512),
    "linear2.weight": (256, 512),
    "linear2.bias": (256,),
    **batch_norm("bn7", 256),
    "linear3.weight": (40, 256),
    "linear3.bias": (40,),
}
PARTSEG_BODY: Shapes = {
    **named("transform_net.conv1", "transform_net.bn1", 64, 6, 1, 1),
    **named("transform_net.conv2", "transform_net.bn2", 128, 64, 1, 1),
    "transform_net.conv3.0.weight": (1024, 128, 1),
    **batch_norm("transform_net.conv3.1", 1024),
    "transform_net.linear1.weight": (512, 1024),
    **batch_norm("transform_net.bn3", 512),
    "transform_net.linear2.weight": (256, 512),
    **batch_norm("transform_net.bn4", 256),
    "transform_net.transform.weight": (9, 256),
    "transform_net.transform.bias": (9,),
    **named("conv1", "bn1", 64, 6, 1, 1),
    **named("conv2", "bn2", 64, 64, 1, 1),
    **named("conv3", "bn3", 64, 128, 1, 1),
    **named("conv4", "bn4", 64, 64, 1, 1),
    **named("conv5", "bn5", 64, 128, 1, 1),
    **named("conv6", "bn6", 1024, 192, 1),
}
PARTSEG_SEGMENTATION: Shapes = {
    **PARTSEG_BODY,
    **named("conv7", "bn7", 64, 16, 1),
    **named("conv8", "bn8", 256, 1280, 1),
    **named("conv9", "bn9", 256, 256, 1),
    **named("conv10", "bn10", 128, 256, 1),
    "conv11.weight": (50, 128, 1),
}
IMAGE_HEAD: Shapes = {
    **batch_norm("inv_head.1", 512),
    "inv_head.3.weight": (256, 512),
}

PARTSEG_UNUSED: Shapes = {
    **batch_norm("bn7", 64),
    **batch_norm("bn8", 256),
    **batch_norm("bn9", 256),
    **batch_norm("bn10", 128),
}

# How to build a network, its entries, and those that the published files have as well:
# their networks have them and do not use them.
NETWORKS: list[tuple[Callable[[], nn.Module], Shapes, Shapes]] = [
    (DGCNN, DGCNN_BODY | projection_head(2048), {}),
    (partial(DGCNN, num_classes=40), DGCNN_CLASSIFIER, projection_head(2048)),
    (DGCNNPartSeg, PARTSEG_BODY | projection_head(1024), PARTSEG_UNUSED),
    (
        partial(DGCNNPartSeg, num_parts=50),
        PARTSEG_SEGMENTATION,
        projection_head(1024),
    ),
]
IDS = ["dgcnn", "dgcnn classifier", "partseg", "partseg segmentation"]
networks = pytest.mark.parametrize(("build", "shapes", "unused"), NETWORKS, ids=IDS)


@networks
def test_two_names_of_a_batch_norm_are_one(build, shapes, unused):
    state = build().state_dict(keep_vars=True)
    twins = {
        key: key.replace("conv", "bn").replace(".1.", ".")
        for key in state
        if "conv" in key and ".1." in key and "transform_net.conv3" not in key
    }
    assert len(twins) >= 5 * 5
    assert all(state[key] is state[twin] for key, twin in twins.items())


def test_the_picture_side_is_torchvisions_network_without_classifier_and_the_head():
    for name, width in (("resnet50", 2048), ("resnet34", 512), ("resnet18", 512)):
        resnet = shapes_of(getattr(torchvision.models, name)().state_dict())
        expected = {f"resnet.{n}": x for n, x in resnet.items() if n[:3] != "fc."}
        expected |= IMAGE_HEAD | {"inv_head.0.weight": (512, width)}
        assert shapes_of(ImageEncoder(name).state_dict()) == expected


def written_by_hand(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Random values under the published names, a BatchNorm's two names alike."""
    state = {}
    for number, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(number)
        value = torch.rand(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(number)
        first = re.sub(r"(^|\.)bn(\d+)\.", r"\1conv\2.1.", name)
        is_twin = first != name and first in shapes and "transform_net.bn3" not in name
        state[name] = state[first] if is_twin else value
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
@networks
def test_a_published_file_loads_whole(build, shapes, unused, prefix, tmp_path):
    state = written_by_hand(shapes | unused)
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "w")
    model = build()
    report = load_pretrained(model, tmp_path / "w")
    assert report.initialised == () and set(report.left_out) == set(unused)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@networks
def test_a_file_written_here_has_exactly_the_published_entries(
    build, shapes, unused, tmp_path
):
    model, random = build(), torch.get_rng_state()
    save_weights(model, tmp_path / "w")
    assert torch.equal(torch.get_rng_state(), random)  # only rank 0 writes
    actual = torch.load(tmp_path / "w", weights_only=True)
    # What load_state_dict(strict=True) of a network with these names asks for.
    assert shapes_of(actual) == shapes | unused
    for key, value in model.state_dict().items():
        assert torch.equal(value, actual[key]), key


@pytest.mark.parametrize(
    ("kind", "head"), [(DGCNN, {"num_classes": 3}), (DGCNNPartSeg, {"num_parts": 50})]
)
def test_an_unused_projection_head_is_not_loaded(kind, head, tmp_path):
    """Its zeros would leave pre-training no gradient."""
    save_weights(kind(emb_dims=16, **head), tmp_path / "w")
    model = kind(emb_dims=16)
    before = copy.deepcopy(model.inv_head.state_dict())
    report = load_pretrained(model, tmp_path / "w")
    assert {name.split(".")[0] for name in report.initialised} == {"inv_head"}
    for name, value in model.inv_head.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_the_published_code_lacks_gets_no_placeholders() -> None:
    model = PointNet(16, 5)
    assert published_weights(model).keys() == model.state_dict().keys()
