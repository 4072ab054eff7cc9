"""The encoders against literal float64 re-implementations; shapes and errors."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import models
from models import ENCODERS, point_encoder, trained_network
from models.dgcnn import DGCNN
from models.edgeconv import cloud_batch
from models.image import ImageEncoder
from models.partseg import DGCNNPartSeg, SpatialTransformer
from models.pointnet import PointNet
from tests.models import reference
from tests.models.reference import random_clouds, randomise, weights_of

K, E, B, N = 5, 32, 3, 24


NETWORKS = {
    "dgcnn": partial(DGCNN, K, E),
    "dgcnn_seg": partial(DGCNNPartSeg, K, E),
    "pointnet": partial(PointNet, E),
    "classifier": partial(DGCNN, K, E, 7),
    "pointnet classifier": partial(PointNet, E, 7),
    "segmenter": partial(DGCNNPartSeg, K, E, 11),
}
LOOPS = {
    DGCNN: reference.dgcnn,
    DGCNNPartSeg: reference.partseg,
    PointNet: reference.pointnet,
}


def build(network: str, **options) -> nn.Module:
    return randomise(NETWORKS[network](**options))


def categories(*numbers: int) -> Tensor:
    return F.one_hot(torch.tensor(numbers), 16)


def inputs(network: str) -> tuple[Tensor, ...]:
    points = random_clouds(B, N)
    return (points, categories(4, 0, 15)) if network == "segmenter" else (points,)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_loop_with_gradients_and_statistics(network, training):
    model = build(network, dropout=0.0).train(training)
    weights = weights_of(model)
    points, *category = inputs(network)
    outputs = model(points, *category)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    expected = LOOPS[type(model)](points, K, weights, training, *category)
    torch.testing.assert_close(outputs, expected, rtol=1e-8, atol=1e-9)
    for values in (outputs, expected):
        sum((v * v).sum() + v.sum() for v in values).backward()
    reference.check_gradients(model, weights)
    reference.check_running_statistics(model, weights)
    counted = {n: b for n, b in model.named_buffers() if n.endswith("tracked")}
    assert {int(b) for b in counted.values()} == {int(training)}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_built_by_name(name):
    model, points = point_encoder(name, K, E).double().eval(), random_clouds(2, N)
    projection, feature = model(points)
    assert model.feature_dim == (2 * E if name == "dgcnn" else E)
    assert projection.shape == (2, 256) and feature.shape == (2, model.feature_dim)
    assert torch.equal(model.features(points), feature)
    with pytest.raises(ValueError, match=r"--model 'tiny' is not one of dgcnn"):
        point_encoder("tiny", K, E)


def test_a_classifier_that_is_only_named_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(models, "CLASSIFIERS", ("dgcnn", "pointnet", "tiny"))
    with pytest.raises(ValueError, match="--model tiny: build its classifier in"):
        trained_network("tiny", K, E, "classifier", 7)
    with pytest.raises(ValueError, match="--model dgcnn_seg has no classification"):
        trained_network("dgcnn_seg", K, E, "classifier", 7)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_cloud_alone_gives_its_row_of_the_batch(network):
    model, given = build(network).eval(), inputs(network)
    every, alone = model(*given), model(*(x[1:2] for x in given))
    if isinstance(every, Tensor):
        every, alone = (every,), (alone,)
    torch.testing.assert_close(alone, tuple(x[1:2] for x in every))


@pytest.mark.parametrize("network", ["classifier", "pointnet classifier", "segmenter"])
def test_dropout_acts_in_training_alone_after_the_hidden_layers(network):
    given = inputs(network)
    dropping, keeping = build(network, dropout=0.5), build(network, dropout=0.0)
    seen = []  # widths of what each dropout gets
    for part in dropping.modules():
        if "Dropout" in type(part).__name__:
            part.register_forward_pre_hook(
                lambda _, args: seen.append(args[0].shape[1])
            )
    dropped = dropping.train()(*given)
    assert seen == ([256, 256] if network == "segmenter" else [512, 256])
    assert not torch.equal(dropped, keeping.train()(*given))
    dropping.load_state_dict(keeping.state_dict())
    assert torch.equal(dropping.eval()(*given), keeping.eval()(*given))


@pytest.mark.parametrize("name", ["dgcnn", "dgcnn_seg"])
def test_as_many_points_as_neighbours_and_no_fewer(name):
    model = build(name).eval()
    points = random_clouds(2, K)
    expected = LOOPS[type(model)](points, K, weights_of(model), False)
    torch.testing.assert_close(model(points)[1], expected[1])
    with pytest.raises(ValueError, match=rf"k = {K} .* {K} points, got N = {K - 1}"):
        model(points[:, :, 1:])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shape", [(2, N, 3), (3, N), (2, 4, N)])
def test_points_of_another_shape_are_refused(shape, name):
    with pytest.raises(ValueError, match=r"points must be \(B, 3, N\), got shape"):
        build(name)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_starts_at_the_identity_and_learns(training):
    transformer = SpatialTransformer().double().train(training)
    matrix = transformer(cloud_batch(random_clouds(B, N), K))
    torch.testing.assert_close(matrix, torch.eye(3).double().expand(B, 3, 3))
    matrix.sin().sum().backward()
    assert transformer.transform.weight.grad.abs().sum() > 0


def test_the_category_matters_and_is_checked():
    model, points = build("segmenter").eval(), random_clouds(1, N)
    first, second = (model(points, categories(number)) for number in (0, 1))
    assert not torch.allclose(first, second)
    for category in (None, categories(1, 2), torch.zeros(1, 15)):
        with pytest.raises(ValueError, match=r"must be one-hot \(1, 16\), got"):
            model(points, category)


def test_a_linear_head_is_one_layer():
    model = build("classifier", linear_head=True).eval()
    points = random_clouds(2, N)
    weight, bias = model.linear.weight, model.linear.bias
    torch.testing.assert_close(model(points), model.features(points) @ weight.T + bias)


# The image encoder


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_any_size_of_picture_gives_256_numbers(backbone):
    encoder = ImageEncoder(backbone).eval()
    with torch.inference_mode():
        assert encoder(torch.randn(2, 3, 32, 48)).shape == (2, 256)
        assert encoder(torch.randn(1, 3, 64, 64)).shape == (1, 256)


@pytest.mark.parametrize("training", [True, False])
def test_projection_is_the_head_of_what_torchvisions_network_says(training):
    encoder = randomise(ImageEncoder("resnet18")).train(training)
    weights = weights_of(encoder)
    resnet = torchvision.models.resnet18().double().train(training)
    resnet.fc = nn.Identity()
    resnet.load_state_dict(encoder.resnet.state_dict())
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.projection_head(resnet(images), weights, training)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-7, atol=1e-8)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match=r"'vgg16' is not one of .*resnet50"):
        ImageEncoder("vgg16")


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 4, 32, 32), (2, 32, 32, 3)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got shape"):
        ImageEncoder("resnet18")(torch.zeros(shape))
