"""DGCNN against a literal float64 re-implementation; shapes, limits, invariances."""

from __future__ import annotations

import pytest
import torch

from models.dgcnn import DGCNN
from tests.models import reference
from tests.models.reference import random_clouds, randomise, weights_of

K, E, B, N = 5, 32, 3, 24


def encoder(**options) -> DGCNN:
    return randomise(DGCNN(k=K, emb_dims=E, **options))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_classes", [None, 7])
def test_dgcnn_is_the_loop_with_gradients_and_statistics(num_classes, training):
    model = encoder(num_classes=num_classes, dropout=0.0).train(training)
    weights = weights_of(model)
    points = random_clouds(B, N)
    outputs = model(points)
    outputs = [outputs] if num_classes else list(outputs)
    expected = reference.dgcnn(points, K, weights, training)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
    for values in (outputs, expected):
        sum((v * v).sum() + v.sum() for v in values).backward()
    reference.check_gradients(model, reference.gradients(weights))
    reference.check_running_statistics(model, weights)
    counted = {n: b for n, b in model.named_buffers() if n.endswith("tracked")}
    assert {int(b) for b in counted.values()} == {int(training)}


def test_shapes_of_pretraining_and_classification():
    projection, feature = encoder()(random_clouds(2, N))
    assert projection.shape == (2, 256) and feature.shape == (2, 2 * E)
    assert DGCNN(emb_dims=E).feature_dim == 2 * E
    assert encoder(num_classes=7)(random_clouds(2, N)).shape == (2, 7)


@pytest.mark.parametrize("num_classes", [None, 7])
def test_one_cloud_alone_gives_its_row_of_the_batch(num_classes):
    model = encoder(num_classes=num_classes).eval()
    points = random_clouds(B, N)
    whole, alone = model(points), model(points[1:2])
    if num_classes:
        whole, alone = [whole], [alone]
    for of_batch, of_one in zip(whole, alone, strict=True):
        assert len(of_one) == 1
        torch.testing.assert_close(of_one, of_batch[1:2])


def test_features_are_the_second_output():
    model = encoder().eval()
    points = random_clouds(2, N)
    assert torch.equal(model.features(points), model(points)[1])


@pytest.mark.parametrize("training", [True, False])
def test_the_order_of_the_points_does_not_matter(training):
    points = random_clouds(B, N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(
        encoder().train(training)(points[:, :, order]),
        encoder().train(training)(points),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_dropout_acts_in_training_alone():
    points = random_clouds(B, N)
    with_dropout = encoder(num_classes=7, dropout=0.5)
    without = encoder(num_classes=7, dropout=0.0)
    assert not torch.equal(with_dropout.train()(points), without.train()(points))
    with_dropout.load_state_dict(without.state_dict())
    assert torch.equal(with_dropout.eval()(points), without.eval()(points))


def test_dropout_follows_both_hidden_layers_of_the_classifier():
    model = encoder(num_classes=7)
    widths = reference.dropout_widths(model)
    model(random_clouds(B, N))
    assert widths == [512, 256]


def test_as_many_points_as_neighbours():
    model = encoder().eval()
    points = random_clouds(2, K)
    expected = reference.dgcnn(points, K, weights_of(model), False)
    torch.testing.assert_close(model(points)[1], expected[1])


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match=rf"k = {K} .* {K} points, got N = {K - 1}"):
        encoder()(random_clouds(2, K - 1))


@pytest.mark.parametrize("shape", [(2, N, 3), (3, N), (2, 4, N)])
def test_points_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"points must be \(B, 3, N\), got shape"):
        encoder()(torch.zeros(shape, dtype=torch.float64))
