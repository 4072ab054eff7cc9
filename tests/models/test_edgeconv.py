"""EdgeConv and pooling in every form, against a loop over every edge."""

import contextlib
import copy
import importlib.util
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from models.dgcnn import DGCNN, point_layer
from models.edgeconv import (
    PlainClouds,
    chosen_form,
    cloud_batch,
    edge_features,
    edge_layer,
)
from models.fused.clouds import FusedClouds
from models.fused.functions import NormActivation, Pool
from models.partseg import DGCNNPartSeg
from models.pointnet import mlp_layer
from tests.models import reference
from tests.models.conftest import Record, load_kernels
from tests.models.reference import random_clouds, randomise, weights_of

# Batch, points, k: every point a neighbour, and more than a task or tile of points.
SIZES = [(1, 9, 9), (3, 45, 4)]


def layers(*widths: int) -> nn.Sequential:
    """Edge layers at random, with BatchNorm weights of both signs and zero."""
    pairs = zip([2 * widths[0], *widths[1:-1]], widths[1:], strict=True)
    module = randomise(nn.Sequential(*[edge_layer(a, b) for a, b in pairs]), seed=1)
    for layer in module:
        layer[1].weight.data[2] = 0.0
        assert (layer[1].weight > 0).any() and (layer[1].weight < 0).any()
    return module


def with_duplicates(x: Tensor) -> Tensor:
    """Each cloud but the last with a different share of points that copy its first."""
    x = x.clone()
    for number, cloud in enumerate(x[:-1]):
        generator = torch.Generator().manual_seed(number)
        chosen = torch.rand(cloud.shape[1], generator=generator) < 0.3 + 0.4 * number
        cloud[:, chosen] = cloud[:, :1]
    return x


class Rows:
    """The features (B, C, N) of a batch in the form of its clouds, and back."""

    def __init__(self, clouds: PlainClouds | FusedClouds, x: Tensor) -> None:
        self.plain = isinstance(clouds, PlainClouds)
        self.merged = not self.plain and clouds.batch.merged
        points = x.transpose(1, 2).flatten(0, 1)  # (B N, C)
        every = torch.arange(len(points)).view(len(x), -1)  # (B, N)
        copies = (x == x[:, :, :1]).all(dim=1)
        first = torch.where(copies, every[:, :1], every).flatten()
        kept, self.row = first.unique(return_inverse=True)  # of rows, of points
        given = x if self.plain else points[kept] if self.merged else points
        self.x = given.clone().requires_grad_()

    def of_points(self, features: Tensor) -> Tensor:
        """(B N, C) for features in either form."""
        if self.plain:
            return features.transpose(1, 2).flatten(0, 1)
        return features[self.row] if self.merged else features

    def add_duplicates(self, gradient: Tensor) -> Tensor:
        """(B, C, N) or (B N, C) -> the sum over the points of each merged row, which
        alone is defined where equal points tie."""
        if gradient.dim() == 3:
            gradient = gradient.transpose(1, 2).flatten(0, 1)
        rows = gradient.new_zeros(int(self.row.max()) + 1, gradient.shape[1])
        return rows.index_add_(0, self.row, gradient)

    def gradient(self) -> Tensor:
        return self.x.grad if self.merged else self.add_duplicates(self.x.grad)


def test_edge_features_are_the_difference_then_the_centre():
    x = random_clouds(2, 9, channels=4)
    idx = torch.randint(0, 9, (2, 9, 3), generator=torch.Generator().manual_seed(0))
    actual = edge_features(x, idx)
    assert actual.shape == (2, 8, 9, 3)
    torch.testing.assert_close(actual, reference.edges(x, idx).permute(0, 3, 1, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("duplicates", [True, False])
@pytest.mark.parametrize(
    ("widths", "size"),
    [((3, 8), SIZES[0]), ((6, 70), SIZES[1]), ((3, 8, 7), SIZES[1])],
)
def test_edge_conv_is_the_loop_with_gradients_and_statistics(
    widths, size, duplicates, training, form
):
    (batch, points, k), module = size, layers(*widths).train(training)
    weights = weights_of(module)  # before the forward pass changes the statistics
    x = random_clouds(batch, points, seed=3, channels=widths[0])
    x = with_duplicates(x) if duplicates else x
    clouds = form(x[:, :3], k)
    rows = Rows(clouds, x)
    y = clouds.edge_conv(rows.x, *module)
    x_ref = x.clone().requires_grad_()
    names = [str(i) for i in range(len(module))]
    y_ref = reference.edge_conv(x_ref, k, weights, names, training)
    upstream = random_clouds(batch, points, seed=9, channels=widths[-1])
    (rows.of_points(y) * upstream.transpose(1, 2).flatten(0, 1)).sum().backward()
    (y_ref * upstream).sum().backward()
    expected = y_ref.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(rows.of_points(y), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        rows.gradient(), rows.add_duplicates(x_ref.grad), rtol=1e-8, atol=1e-9
    )
    reference.check_gradients(module, weights)
    reference.check_running_statistics(module, weights)
    assert {int(layer[1].num_batches_tracked) for layer in module} == {int(training)}
    if not training:
        with torch.no_grad():  # the fused form has a kernel for this alone
            again = rows.of_points(clouds.edge_conv(rows.x, *module))
        torch.testing.assert_close(again, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_edge_conv_without_gradients_with_any_number_of_neighbours(k):
    """The kernel takes neighbours three at a time, and then those that are left."""
    module, x = layers(3, 8).eval(), random_clouds(2, 20, seed=3)
    clouds = FusedClouds(x, k)
    with torch.no_grad():
        actual = clouds.per_point(clouds.edge_conv(clouds.points, *module))
        expected = PlainClouds(x, k).edge_conv(x, *module)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("make", "pools"), [(point_layer, True), (point_layer, False), (mlp_layer, False)]
)
def test_layers_on_points_and_their_pooling_are_the_plain_ones(
    make, pools, training, kernels
):
    layer = randomise(make(6, 70)).train(training)
    layer[1].weight.data[2] = 0.0  # all points tie for the maximum of channel 2
    twin = copy.deepcopy(layer)
    x = with_duplicates(random_clouds(3, 45, seed=5, channels=6))
    clouds = FusedClouds(x[:, :3], 4)
    rows, y = Rows(clouds, x), x.clone().requires_grad_()
    if pools:
        actual, expected = clouds.pool(rows.x, layer), PlainClouds(x, 4).pool(y, twin)
    else:
        actual = [rows.of_points(clouds.point_layer(rows.x, layer))]
        expected = [twin(y).transpose(1, 2).flatten(0, 1)]  # (B N, C)
    torch.testing.assert_close(list(actual), list(expected), rtol=1e-10, atol=1e-12)
    untied = [c for c in range(70) if c != 2] if pools else slice(None)
    for first, *mean in (actual, expected):
        weight = random_clouds(1, len(first), seed=7, channels=70)[0].T
        loss = (first * weight)[:, untied].sum() + sum((m**3).sum() for m in mean)
        loss.backward()
    torch.testing.assert_close(rows.gradient(), rows.add_duplicates(y.grad))
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close([*layer.buffers()], [*twin.buffers()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_of_what_autocast_leaves_in_half_precision(dtype):
    layer = randomise(point_layer(6, 70)).float().train()
    twin = copy.deepcopy(layer)
    y = random_clouds(3, 45, seed=5, channels=70).to(dtype)
    clouds = FusedClouds(y[:, :3].float(), 4)
    rows = Rows(clouds, y)
    norm = NormActivation(layer, load_kernels("triton"))
    maximum, mean = Pool.apply(rows.x, *norm.parameters, norm, clouds.batch)
    exact = y.float().requires_grad_()
    z = twin[2](twin[1](exact))  # (B, 70, N), in float32 from the same numbers
    expected = (z.max(dim=2).values, z.mean(dim=2))
    assert maximum.dtype == mean.dtype == torch.float32
    torch.testing.assert_close((maximum, mean), expected, rtol=1e-5, atol=1e-5)
    for one, two in ((maximum, mean), expected):
        (one.square().sum() + (two * 30).square().sum()).backward()
    assert rows.x.grad.dtype == dtype
    error = (clouds.per_point(rows.x.grad).float() - exact.grad).abs()
    # At a maximum two terms are rounded and added, as in the plain form.
    at_maximum = z == z.amax(dim=2, keepdim=True)
    size = torch.where(at_maximum, exact.grad.abs().max(), exact.grad.abs() + 1)
    assert (error < 2 * torch.finfo(dtype).eps * size).all()
    for one, two in zip(layer[1].parameters(), twin[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-3)


def test_segmentation_keeps_every_point_of_a_cloud_with_duplicates():
    model = randomise(DGCNNPartSeg(k=6, emb_dims=24, num_parts=5)).eval()
    points, category = with_duplicates(random_clouds(3, 40)), torch.eye(16)[[0, 3, 5]]
    actual = model(points, category.double())
    model.edgeconv = "plain"
    torch.testing.assert_close(actual, model(points, category.double()))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("widths", [(64, 40), (6, 16, 16)])
def test_in_float32_no_worse_than_the_plain_form(widths, autocast, kernels):
    exact = layers(*widths).train()
    x = random_clouds(2, 45, seed=6, channels=widths[0]).float()
    if autocast:  # points that are near each other: a and b nearly cancel
        x = 0.3 * x + random_clouds(1, 1, seed=7, channels=widths[0]).float()
    results = []
    single = torch.float32
    cases = [(torch.float64, FusedClouds), (single, FusedClouds), (single, PlainClouds)]
    for dtype, form in cases:
        module, given = copy.deepcopy(exact).to(dtype), x.to(dtype)
        clouds = form(given[:, :3], 6)
        rows, half = Rows(clouds, given), dtype == torch.float32 and autocast
        with torch.autocast("cpu", dtype=half or None, enabled=bool(half)):
            actual = rows.of_points(clouds.edge_conv(rows.x, *module))
        actual.double().square().sum().backward()
        values = (actual, rows.gradient(), module[0][0].weight.grad)
        results.append([t.detach().double() for t in values])
    for expected, fused, plain in zip(*results, strict=True):
        error = reference.relative_error(fused, expected)
        assert error < 1e-3
        assert error < 2 * reference.relative_error(plain, expected) + 1e-6


def precision_of_product(name: str, args: tuple) -> str | None:
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        return torch.get_float32_matmul_precision()
    return None


@pytest.mark.parametrize("widths", [(6, 8), (6, 8, 7)])
def test_tf32_is_off_where_numbers_nearly_cancel(widths, form, request):
    module, x = layers(*widths).float().train(), random_clouds(2, 20, channels=6)
    clouds = form(x[:, :3].float(), 4)
    rows, before = Rows(clouds, x.float()), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with Record(precision_of_product) as products:
            clouds.edge_conv(rows.x, *module).square().sum().backward()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    # The graph's distances on a CPU, or a and b with their gradients, which Numba's
    # package leaves to NumPy.
    assert len(products.seen) >= (6 if "triton" in request.node.name else 1)
    assert set(products.seen) == {"highest"}


def test_the_number_of_threads_changes_no_bit(set_threads):
    points, results = random_clouds(3, 300, seed=6).float(), []
    for threads in (1, 3):
        set_threads(threads)
        model = randomise(DGCNNPartSeg(k=6, emb_dims=24)).float()
        clouds = FusedClouds(points, 6)
        rows = Rows(clouds, points)
        y = clouds.edge_conv(rows.x, model.conv1, model.conv2)
        y.sin().sum().backward()
        results.append([y, rows.x.grad, model.conv2[0].weight.grad])
    assert torch.equal(results[0][0], results[1][0])
    # PyTorch's own sums in the backward pass may depend on its threads.
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_autocast_leaves_the_point_operations_in_float32():
    model, points = DGCNN(k=6, emb_dims=24).eval(), random_clouds(2, 50).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model.features(points)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, model.features(points))


def test_a_cloud_with_nan_leaves_the_others_alone():
    model, points = DGCNN(k=6, emb_dims=24).eval(), random_clouds(2, 50).float()
    points[0, 1, 3] = float("nan")
    actual = model.features(points)
    assert actual[1].isfinite().all() and not actual[0].isfinite().all()


def test_which_form_runs(monkeypatch: pytest.MonkeyPatch):
    points = random_clouds(2, 20)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_form("auto", cpu)[0] == chosen_form("fused", cpu)[0] == "fused"
    assert isinstance(cloud_batch(points, 4), FusedClouds)
    assert isinstance(cloud_batch(points, 4, "plain"), PlainClouds)
    assert chosen_form("plain", cpu) == ("plain", "as --edgeconv says")
    other = torch.device("mps")
    assert chosen_form("auto", other) == ("plain", "there are no fused kernels for mps")
    with pytest.raises(ValueError, match=r"--edgeconv fused: there are no .* for mps"):
        chosen_form("fused", other)
    tiles = pytest.importorskip("models.fused.triton.tiles")
    monkeypatch.setattr(tiles, "launch_error", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert chosen_form("auto", gpu)[0] == "fused"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert chosen_form("auto", gpu)[0] == "plain"
    with pytest.raises(ValueError, match=r"compute capability 8.0, this GPU has 7.5"):
        chosen_form("fused", gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen_form("auto", cpu) == ("plain", "Numba is not installed")
    assert chosen_form("auto", gpu) == ("plain", "Triton is not installed")
    assert isinstance(cloud_batch(points, 4), PlainClouds)
    with pytest.raises(ValueError, match="--edgeconv fused: Numba is not installed"):
        chosen_form("fused", cpu)


def test_without_a_compiler_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch):
    tiles = pytest.importorskip("models.fused.triton.tiles")
    zeros, cpu, gpu = torch.zeros, torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert tiles.launch_error.__wrapped__(cpu) == ""
    error = RuntimeError("Failed to find C compiler.\nPlease specify via CC")
    monkeypatch.setattr(tiles, "launch", Mock(side_effect=error))
    tiles.launch_error.cache_clear()
    form, reason = chosen_form("auto", gpu)
    assert form == "plain"
    assert "Failed to find C compiler. Please specify via CC; gcc and" in reason
    with pytest.raises(ValueError, match="--edgeconv fused: Triton cannot compile"):
        chosen_form("fused", gpu)
    tiles.launch_error.cache_clear()
