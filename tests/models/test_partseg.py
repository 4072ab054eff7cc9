"""The part-segmentation DGCNN against a literal float64 re-implementation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.edgeconv import open_clouds
from models.partseg import DGCNNPartSeg, SpatialTransformer
from tests.models import reference
from tests.models.reference import random_clouds, randomise, weights_of

K, E, B, N = 5, 32, 3, 24


def network(**options) -> DGCNNPartSeg:
    return randomise(DGCNNPartSeg(k=K, emb_dims=E, **options))


def categories(*numbers: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(numbers), 16)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_parts", [None, 11])
def test_partseg_is_the_loop_with_gradients_and_statistics(num_parts, training):
    model = network(num_parts=num_parts, dropout=0.0).train(training)
    weights = weights_of(model)
    points = random_clouds(B, N)
    category = categories(4, 0, 15) if num_parts else None
    outputs = model(points, category) if num_parts else model(points)
    outputs = [outputs] if num_parts else list(outputs)
    expected = reference.partseg(points, K, weights, training, category)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
    for values in (outputs, expected):
        sum((v * v).sum() + v.sum() for v in values).backward()
    reference.check_gradients(model, reference.gradients(weights))
    reference.check_running_statistics(model, weights)


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_starts_at_the_identity(training):
    transformer = SpatialTransformer().double().train(training)
    matrix = transformer(open_clouds(random_clouds(B, N), K))
    torch.testing.assert_close(matrix, torch.eye(3).double().expand(B, 3, 3))


def test_the_transformer_learns_from_its_start():
    model = DGCNNPartSeg(k=K, emb_dims=E).double().train()
    model(random_clouds(B, N))[0].square().sum().backward()
    assert model.transform_net.transform.weight.grad.abs().sum() > 0


def test_shapes_of_pretraining_and_segmentation():
    projection, feature = network()(random_clouds(2, N))
    assert projection.shape == (2, 256) and feature.shape == (2, E)
    assert DGCNNPartSeg(emb_dims=E).feature_dim == E
    logits = network(num_parts=11)(random_clouds(2, N), categories(0, 3))
    assert logits.shape == (2, 11, N)


def test_one_cloud_alone_gives_its_row_of_the_batch():
    points = random_clouds(B, N)
    model = network(num_parts=11).eval()
    whole, alone = model(points, categories(1, 2, 3)), model(points[1:2], categories(2))
    assert alone.shape == (1, 11, N)
    torch.testing.assert_close(alone, whole[1:2])
    model = network().eval()
    for of_batch, of_one in zip(model(points), model(points[1:2]), strict=True):
        torch.testing.assert_close(of_one, of_batch[1:2])


def test_features_are_the_second_output():
    model = network().eval()
    points = random_clouds(2, N)
    assert torch.equal(model.features(points), model(points)[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_order_of_the_points_moves_labels_and_leaves_the_feature(training):
    points = random_clouds(B, N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    feature = network().train(training).features(points)
    moved = network().train(training).features(points[:, :, order])
    torch.testing.assert_close(moved, feature, rtol=1e-8, atol=1e-9)
    category = categories(1, 2, 3)
    model = network(num_parts=11, dropout=0.0).train(training)
    logits, moved = model(points, category), model(points[:, :, order], category)
    torch.testing.assert_close(moved, logits[:, :, order], rtol=1e-7, atol=1e-8)


def test_the_category_matters():
    model = network(num_parts=11).eval()
    points = random_clouds(1, N)
    assert not torch.allclose(
        model(points, categories(0)), model(points, categories(1))
    )


def test_dropout_acts_in_training_alone_after_the_first_two_layers_of_the_head():
    points, category = random_clouds(B, N), categories(1, 2, 3)
    with_dropout = network(num_parts=11, dropout=0.5)
    without = network(num_parts=11, dropout=0.0)
    widths = reference.dropout_widths(with_dropout)
    dropped = with_dropout.train()(points, category)
    assert widths == [256, 256]
    assert not torch.equal(dropped, without.train()(points, category))
    with_dropout.load_state_dict(without.state_dict())
    assert torch.equal(
        with_dropout.eval()(points, category), without.eval()(points, category)
    )


def test_as_many_points_as_neighbours():
    model = network().eval()
    points = random_clouds(2, K)
    expected = reference.partseg(points, K, weights_of(model), False)
    torch.testing.assert_close(model(points)[1], expected[1])


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match=rf"k = {K} .* {K} points, got N = {K - 1}"):
        network()(random_clouds(2, K - 1))


@pytest.mark.parametrize("shape", [(2, N, 3), (3, N)])
def test_points_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"points must be \(B, 3, N\), got shape"):
        network()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("category", [None, categories(1), torch.zeros(2, 15)])
def test_categories_of_another_shape_are_refused(category):
    with pytest.raises(ValueError, match=r"category must be one-hot \(2, 16\), got"):
        network(num_parts=11)(random_clouds(2, N), category)
