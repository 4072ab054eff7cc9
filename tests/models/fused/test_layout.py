"""The layout of distinct points that is made on the host: exact, padded, no waiting."""

import copy
import importlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from models import ENCODERS, point_encoder
from models.fused.batch import Layout, distinct_points
from models.fused.clouds import FusedClouds
from models.losses import NTXentLoss
from tests.models.conftest import Record, use_kernels
from tests.models.reference import random_clouds, randomise
from tests.models.test_edgeconv import with_duplicates

POINTS = 22
PADDING = 9


def clouds() -> Tensor:
    """Different shares of duplicates, none, and one cloud of copies alone."""
    points = with_duplicates(random_clouds(4, POINTS, seed=2))
    points[1] = points[1, :, :1]
    return points


def padded(points: Tensor) -> Layout:
    return distinct_points(points, len(distinct_points(points).rows) + PADDING)


def values(model: nn.Module, points: Tensor, layout: Layout | None) -> list[Tensor]:
    """Outputs, gradients and buffers of a copy after a pass."""
    model = copy.deepcopy(model)
    projection, feature = model(points, layout=layout)
    (projection.sin().sum() + feature.sin().sum()).backward()
    gradients = [p.grad for p in model.parameters()]
    return [projection, feature, *gradients, *model.buffers()]


def test_distinct_points_are_those_of_a_loop():
    points, rows, counts, offsets = clouds(), [], [], [0]
    for b, cloud in enumerate(points):
        copies = [n for n in range(POINTS) if torch.equal(cloud[:, n], cloud[:, 0])]
        own = [n for n in range(POINTS) if n == 0 or n not in copies]
        rows += [b * POINTS + n for n in own]
        counts += [len(copies), *[1] * (len(own) - 1)]
        offsets.append(len(rows))
    assert len(rows) < 4 * POINTS and offsets[2] - offsets[1] == 1
    for capacity in (0, len(rows) - 1, len(rows) + 3):
        more = [0] * max(0, capacity - len(rows))
        actual = distinct_points(points, capacity)
        assert [x.tolist() for x in actual] == [rows + more, offsets, counts + more]
    assert len(FusedClouds(points, 6).points) == len(rows)
    assert len(FusedClouds(points, 6, distinct=False).points) == 4 * POINTS


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_given_layout_changes_no_bit(name, training):
    model = randomise(point_encoder(name, 6, 24)).train(training)
    actual = values(model, clouds(), distinct_points(clouds()))
    assert all(map(torch.equal, actual, values(model, clouds(), None)))


@pytest.fixture
def nothing_is_initialised(monkeypatch: pytest.MonkeyPatch):
    """Memory that nothing is written to has NaN in it."""

    def filled(x: np.ndarray, like=np.empty_like) -> np.ndarray:
        return np.full_like(x, np.nan) if x.dtype.kind == "f" else like(x)

    monkeypatch.setattr(np, "empty_like", filled)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield  # torch.empty gives NaN as well
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.parametrize(
    ("package", "training"),
    [
        ("numba", True),
        ("numba", False),
        pytest.param("triton", True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_no_number(
    name, package, training, nothing_is_initialised, monkeypatch
):
    use_kernels(package, monkeypatch)
    model = randomise(point_encoder(name, 6, 24)).train(training)
    layout = padded(clouds())
    actual = values(model, clouds(), layout)
    if not training:  # eval mode without gradients has a kernel of its own
        with torch.no_grad():
            outputs = model(clouds(), layout=layout)
        torch.testing.assert_close(list(outputs), actual[:2], rtol=1e-9, atol=1e-10)
    model.edgeconv = "plain"
    expected = values(model, clouds(), None)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def test_padding_as_large_as_the_batch_still_counts_duplicates():
    """As many rows as points, which without padding means that there are none."""
    model = randomise(point_encoder("dgcnn", 6, 24))
    layout = distinct_points(clouds(), 4 * POINTS)
    assert len(layout.rows) == 4 * POINTS
    expected = values(model, clouds(), None)
    torch.testing.assert_close(values(model, clouds(), layout), expected)


def test_the_graph_of_padding_ends_at_itself(kernels):
    batch = FusedClouds(clouds(), 6, layout=padded(clouds())).batch
    idx = kernels.knn(random_clouds(1, len(batch.counts))[0].T.contiguous(), batch, 6)
    start = int(batch.offsets[-1])
    every = torch.arange(start, start + PADDING, dtype=torch.int32)
    assert torch.equal(idx[start:], every[:, None].expand(-1, 6))
    assert (idx[:start] < start).all()


def test_a_layout_of_other_clouds_is_refused():
    layout = distinct_points(clouds())
    with pytest.raises(ValueError, match="2 clouds, but a layout of 4"):
        FusedClouds(clouds()[:2], 6, layout=layout)


def name_if_it_waits(name: str, args: tuple) -> str | None:
    """The operation if the host would wait for a GPU's result."""
    lists = [x for x in args if isinstance(x, list | tuple)]
    indices = [i for one in lists for i in one if isinstance(i, Tensor)]
    masked = "index" in name and any(i.dtype == torch.bool for i in indices)
    slow = ("nonzero", "_local_scalar_dense", "masked_select", "_unique2")
    return name if masked or name in slow else None


@pytest.mark.parametrize("name", ENCODERS)
def test_with_a_layout_the_host_never_waits_for_a_gpu(name, monkeypatch):
    """A step of the GPU's form on tensors that have no values."""
    use_kernels("triton", monkeypatch)
    for module in ("edges", "graph", "norm", "pool"):
        kernels = importlib.import_module(f"models.fused.triton.{module}")
        monkeypatch.setattr(kernels, "launch", lambda *args, **options: None)
    layout = padded(clouds())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = point_encoder(name, 6, 24)
        update = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        points = torch.empty(4, 3, POINTS)
        layout = Layout(*map(torch.empty_like, layout))

        def step(layout: Layout | None) -> list[str]:
            with Record(name_if_it_waits) as waits:
                z1, z2 = model(points, layout=layout)[0].chunk(2)
                NTXentLoss()(z1, z2).backward()
                update.step()
            return waits.seen

        assert step(layout) == []
        with pytest.raises(DynamicOutputShapeException, match="nonzero"):
            step(None)
