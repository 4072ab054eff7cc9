"""The fused form against the loop over every edge, and against the plain form."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from torch import Tensor, nn

from models.dgcnn import DGCNN, point_layer
from models.edgeconv import PlainClouds, chosen_form, edge_layer, open_clouds
from models.fused.clouds import FusedClouds, _Pool
from models.partseg import DGCNNPartSeg
from tests.models import reference
from tests.models.conftest import triton_kernels
from tests.models.reference import random_clouds, randomise, weights_of


def layers(*widths: int) -> nn.Sequential:
    """Edge layers at random, with BatchNorm weights of both signs and zero."""
    pairs = zip([2 * widths[0], *widths[1:-1]], widths[1:], strict=True)
    module = randomise(nn.Sequential(*[edge_layer(a, b) for a, b in pairs]), seed=1)
    for layer in module:
        layer[1].weight.data[2] = 0.0
        assert (layer[1].weight > 0).any() and (layer[1].weight < 0).any()
    return module


def with_copies(points: Tensor) -> Tensor:
    """Another number of each cloud's points replaced by its first; the last kept."""
    points = points.clone()
    for number, cloud in enumerate(points[:-1]):
        generator = torch.Generator().manual_seed(number)
        chosen = torch.rand(cloud.shape[1], generator=generator) < 0.3 + 0.4 * number
        cloud[:, chosen] = cloud[:, :1]
    return points


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(3, 8), (6, 70), (3, 8, 7)])
@pytest.mark.parametrize(("batch", "points", "k"), [(2, 14, 5), (1, 9, 9), (3, 131, 4)])
def test_edge_conv_is_the_loop_with_gradients_and_statistics(
    batch, points, k, widths, training, kernels
):
    module = layers(*widths).train(training)
    weights = weights_of(module)
    given = random_clouds(batch, points, seed=3, channels=widths[0])
    clouds = FusedClouds(given[:, :3], k)
    rows = given.transpose(1, 2).reshape(batch * points, -1).requires_grad_()
    found = clouds.edge_conv(rows, *module)
    x = given.clone().requires_grad_()
    names = [str(i) for i in range(len(module))]
    expected = reference.edge_conv(x, k, weights, names, training)
    upstream = random_clouds(*expected.shape[::2], seed=9, channels=expected.shape[1])
    (clouds.of_points(found) * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(clouds.of_points(found), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        clouds.of_points(rows.grad), x.grad, rtol=1e-8, atol=1e-9
    )
    reference.check_gradients(module, reference.gradients(weights))
    reference.check_running_statistics(module, weights)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 6])
def test_edge_conv_without_gradients_is_the_loop(k, kernels):
    """BatchNorm in the weights, neighbours three at a time and those that are left."""
    module = layers(6, 70).eval()
    given = with_copies(random_clouds(3, 131, seed=3, channels=6))
    clouds = FusedClouds(given[:, :3], k, distinct=False)
    rows = given.transpose(1, 2).reshape(-1, 6)
    with torch.no_grad():
        found = clouds.of_points(clouds.edge_conv(rows, *module))
    expected = reference.edge_conv(given, k, weights_of(module), ["0"], training=False)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
def test_pooling_is_the_plain_one(training, kernels):
    layer = randomise(point_layer(6, 70)).train(training)
    layer[1].weight.data[2] = 0.0
    twin = copy.deepcopy(layer)
    x = random_clouds(3, 131, seed=5, channels=6)
    clouds = FusedClouds(x[:, :3], 4)
    rows = x.transpose(1, 2).reshape(-1, 6).requires_grad_()
    y = x.clone().requires_grad_()
    pairs = (clouds.pool(rows, layer), PlainClouds(x, 4).pool(y, twin))
    for found, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for greatest, mean in pairs:
        # Channel 2 is constant: all points tie for its maximum.
        greatest = greatest[:, [c for c in range(70) if c != 2]]
        ((greatest**2).sum() + (mean**3).sum()).backward()
    torch.testing.assert_close(clouds.of_points(rows.grad), y.grad)
    for one, two in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-9, atol=1e-11)
    for one, two in zip(layer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_of_what_autocast_leaves_in_half_precision(dtype):
    triton = triton_kernels()
    layer = randomise(point_layer(6, 70)).float().train()
    twin = copy.deepcopy(layer)
    y = random_clouds(3, 90, seed=5, channels=70).to(dtype)
    clouds = FusedClouds(y[:, :3].float(), 4)
    rows = y.transpose(1, 2).reshape(-1, 70).clone().requires_grad_()
    greatest, mean = _Pool.apply(
        rows, layer[1].weight, layer[1].bias, layer[1], clouds.rows, triton
    )
    assert greatest.dtype == mean.dtype == torch.float32
    exact = y.float().requires_grad_()
    z = twin[2](twin[1](exact))  # (B, 70, N), in float32 from the same numbers
    torch.testing.assert_close(greatest, z.amax(dim=2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean, z.mean(dim=2), rtol=1e-5, atol=1e-5)
    for one, two in ((greatest, mean), (z.max(dim=2).values, z.mean(dim=2))):
        (one.square().sum() + (two * 30).square().sum()).backward()
    assert rows.grad.dtype == dtype
    unit = torch.finfo(dtype).eps
    found = clouds.of_points(rows.grad).float()
    error = (found - exact.grad).abs()
    # At an extreme two terms are rounded and added, as in the plain form.
    limit = (
        2
        * unit
        * torch.where(
            z == z.amax(dim=2, keepdim=True),
            exact.grad.abs().max(),
            exact.grad.abs() + 1,
        )
    )
    assert (error < limit).all()
    for one, two in zip(layer[1].parameters(), twin[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", [DGCNN, DGCNNPartSeg])
def test_distinct_points_give_the_numbers_of_all(network, training, kernels):
    model = randomise(network(k=6, emb_dims=24)).train(training)
    twin = copy.deepcopy(model)
    twin.edgeconv = "plain"
    points = with_copies(random_clouds(4, 50, seed=2))
    few = FusedClouds(points, 6)
    assert len(few.points) < 200 == len(FusedClouds(points, 6, distinct=False).points)
    for found, expected in zip(model(points), twin(points), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        upstream = random_clouds(len(found), found[0].numel(), seed=7)[:, 0]
        (found * upstream).sum().backward(retain_graph=True)
        (expected * upstream).sum().backward(retain_graph=True)
    reference.check_gradients(
        model, {n: p.grad for n, p in twin.named_parameters()}, tolerance=1e-7
    )
    reference.check_running_statistics(model, dict(twin.named_buffers()))


def test_a_cloud_of_nothing_but_copies(kernels):
    model = randomise(DGCNN(k=6, emb_dims=24)).eval()
    points = random_clouds(2, 30)
    points[0] = points[0, :, :1]
    found = model.features(points)
    model.edgeconv = "plain"
    torch.testing.assert_close(found, model.features(points))


def test_segmentation_sees_every_point_of_a_cloud_with_copies(kernels):
    model = randomise(DGCNNPartSeg(k=6, emb_dims=24, num_parts=5)).eval()
    points, category = with_copies(random_clouds(3, 40)), torch.eye(16)[[0, 3, 5]]
    found = model(points, category.double())
    model.edgeconv = "plain"
    torch.testing.assert_close(found, model(points, category.double()))


@pytest.mark.parametrize("widths", [(3, 8), (3, 8, 7)])
def test_gradcheck(widths, kernels):
    module = layers(*widths).train()
    points = random_clouds(2, 7, seed=8)

    def convolve(x: Tensor) -> Tensor:
        return FusedClouds(points, 3).edge_conv(x, *module)

    rows = points.transpose(1, 2).reshape(-1, 3).clone().requires_grad_()
    # Every column of the Jacobian, or a random product with it: an interpreter is slow.
    few = kernels.__name__ != "models.fused.numba"
    assert torch.autograd.gradcheck(convolve, (rows,), fast_mode=few)


@pytest.mark.parametrize("widths", [(3, 64), (64, 128), (3, 64, 64)])
def test_float32_is_near_float64_and_no_worse_than_the_plain_form(widths, kernels):
    exact = layers(*widths).train()
    x = random_clouds(3, 70, seed=6, channels=widths[0]).float()
    results = []
    for dtype, form in (
        *((torch.float64, FusedClouds), (torch.float32, FusedClouds)),
        (torch.float32, PlainClouds),
    ):
        module, given = copy.deepcopy(exact).to(dtype), x.to(dtype)
        clouds = form(given[:, :3], 6)
        if form is FusedClouds:
            given = given.transpose(1, 2).reshape(-1, widths[0])
        given = given.clone().requires_grad_()
        found = clouds.of_points(clouds.edge_conv(given, *module))
        found.square().sum().backward()
        weight = module[0][0].weight.grad
        gradient = clouds.of_points(given.grad)
        results.append([found.detach().double(), gradient.double(), weight.double()])
    wanted, fused, plain = results
    for number, limit in enumerate((1e-4, 1e-3, 1e-3)):
        error, plain_error = (
            reference.relative_error(values[number], wanted[number])
            for values in (fused, plain)
        )
        assert error < limit
        assert error < 2 * plain_error + 1e-6


def test_the_number_of_threads_changes_no_bit():
    points = random_clouds(3, 300, seed=6).float()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            model = randomise(DGCNNPartSeg(k=6, emb_dims=24)).float()
            rows = points.transpose(1, 2).reshape(-1, 3).clone().requires_grad_()
            clouds = FusedClouds(points, 6)
            y = clouds.edge_conv(rows, model.conv1, model.conv2)
            (y.sin()).sum().backward()
            results.append([y, rows.grad, model.conv2[0].weight.grad])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        # What PyTorch itself adds up may depend on its threads; to the last bits.
        torch.testing.assert_close(one, three, rtol=1e-6, atol=1e-6)
    assert torch.equal(results[0][0], results[1][0])


def test_autocast_leaves_the_point_operations_in_float32():
    model = DGCNN(k=6, emb_dims=24).eval()
    points = random_clouds(2, 50).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.features(points)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, model.features(points))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_no_worse_than_the_plain_form(dtype, kernels):
    exact = layers(64, 128).train()
    x = random_clouds(3, 70, seed=6, channels=64)
    # Points far from the origin and near each other: a and b nearly cancel.
    x = 0.3 * x + random_clouds(1, 1, seed=7, channels=64)
    results = []
    for form, autocast in (
        *((FusedClouds, None), (FusedClouds, dtype)),
        *((PlainClouds, None), (PlainClouds, dtype)),
    ):
        kind = torch.float64 if autocast is None else torch.float32
        module, given = copy.deepcopy(exact).to(kind), x.to(kind)
        clouds = form(given[:, :3], 6)
        if form is FusedClouds:
            given = given.transpose(1, 2).reshape(-1, 64)
        given = given.clone().requires_grad_()
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            found = clouds.of_points(clouds.edge_conv(given, *module))
        found.double().square().sum().backward()
        gradients = (clouds.of_points(given.grad), module[0][0].weight.grad)
        results.append([t.detach().double() for t in (found, *gradients)])
    wanted, fused, _, plain = results
    for number in range(3):
        error, plain_error = (
            reference.relative_error(values[number], wanted[number])
            for values in (fused, plain)
        )
        assert error <= plain_error


def test_points_that_are_not_finite_do_no_harm():
    model = DGCNN(k=6, emb_dims=24).eval()
    points = random_clouds(2, 50).float()
    points[0, 1, 3] = float("nan")
    found = model.features(points)
    assert found[1].isfinite().all() and not found[0].isfinite().all()


def test_which_form_runs(monkeypatch: pytest.MonkeyPatch):
    points = random_clouds(2, 20)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_form("auto", cpu)[0] == chosen_form("fused", cpu)[0] == "fused"
    assert isinstance(open_clouds(points, 4), FusedClouds)
    assert isinstance(open_clouds(points, 4, "plain"), PlainClouds)
    assert chosen_form("plain", cpu) == ("plain", "as asked for")
    other = torch.device("mps")
    assert chosen_form("auto", other) == ("plain", "there are no fused kernels for mps")
    with pytest.raises(ValueError, match=r"--edgeconv fused: there are no .* for mps"):
        chosen_form("fused", other)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert chosen_form("auto", gpu)[0] == "fused"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert chosen_form("auto", gpu)[0] == "plain"
    with pytest.raises(ValueError, match=r"compute capability 8.0, this GPU has 7.5"):
        chosen_form("fused", gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen_form("auto", cpu) == ("plain", "Numba is not installed")
    assert chosen_form("auto", gpu) == ("plain", "Triton is not installed")
    assert isinstance(open_clouds(points, 4), PlainClouds)
    with pytest.raises(ValueError, match="--edgeconv fused: Numba is not installed"):
        chosen_form("fused", cpu)
