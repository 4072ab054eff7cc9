"""A step as a CUDA graph, with a stand-in for the graph that runs on the CPU."""

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import train_crosspoint
from datasets.transforms import distinct_after_dropout, random_dropout
from models.crosspoint import CrossPoint
from models.dgcnn import DGCNN
from models.fused.batch import distinct_points
from models.losses import NTXentLoss, crosspoint_loss
from tests.helpers.runs import metrics, pretrain
from tests.models.reference import random_clouds, randomise
from tests.models.test_crosspoint import SmallImages
from utils.errors import UsageError
from utils.parallel.seed import generator
from utils.run.cuda_graph import GraphedStep, check_cuda_graph

B, N = 3, 24
CAPACITY = 100  # rows, of at most 144 points
OVERFLOWING = (0, 6)  # batches with more


class StandIn(GraphedStep):
    """What a graph does: recording computes nothing, and a replay runs no Python but
    writes results and gradients into the memory that the recording chose."""

    buffers: tuple[Tensor, ...] = ()
    replays = 0

    def _run_eagerly(self, batch: tuple) -> tuple[Tensor, ...]:
        return self._run(batch)

    def _record(self) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        before = [x.clone() for x in self.buffers]
        results = self._run(self._batch)
        gradients = [p.grad for p in self._parameters]
        for x, old in zip(self.buffers, before, strict=True):
            x.copy_(old)
        for x in (*results, *gradients):
            x.fill_(float("nan"))

        def replay() -> None:
            StandIn.replays += 1
            attributes = [p.grad for p in self._parameters]
            new = [*self._run(self._batch), *(p.grad for p in self._parameters)]
            for kept, x in zip([*results, *gradients], new, strict=True):
                kept.copy_(x)
            for p, attribute in zip(self._parameters, attributes, strict=True):
                p.grad = attribute

        return replay, results


def batch(number: int) -> tuple:
    """Views, images and the layout, which is padded unless the batch overflows."""
    points, random = random_clouds(2 * B, N, seed=number), torch.Generator()
    copies = 5 if number in OVERFLOWING else 12
    points[:, :, 2 : 2 + copies + number % 3] = points[:, :, :1]
    layout = distinct_points(points, CAPACITY)
    assert (len(layout.rows) > CAPACITY) == (number in OVERFLOWING)
    pixels = torch.randn(B, 3, 32, 32, generator=random.manual_seed(number))
    return (*points.chunk(2), pixels.double(), layout)


def train(graphed: bool, rates: list[float]) -> list[Tensor]:
    """A step for each learning rate; the losses, then weights and buffers."""
    model = randomise(CrossPoint(DGCNN(k=5, emb_dims=16), SmallImages()))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    criterion, losses = NTXentLoss(), []

    def forward_backward(*given: Tensor) -> tuple[Tensor, ...]:
        result = crosspoint_loss(*model(*given), criterion)
        optimizer.zero_grad(set_to_none=True)
        result[0].backward()
        return result

    step = forward_backward
    if graphed:
        step = StandIn(forward_backward, model.parameters())
        step.buffers = tuple(model.buffers())
    for number, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        losses.append(torch.stack(step(*batch(number))).detach().clone())
        optimizer.step()
    return [*losses, *model.state_dict().values()]


def test_graphed_steps_are_the_eager_ones_bit_for_bit() -> None:
    rates = [1e-3] * 5 + [3e-4] * 4
    before = StandIn.replays
    actual = train(True, rates)
    # Two batches overflow, three warm up, the next is captured and replayed.
    assert StandIn.replays - before == 9 - len(OVERFLOWING) - 3
    assert all(map(torch.equal, actual, train(False, rates)))


def test_pretraining_with_graphs_has_the_same_losses(
    tmp_path, synthetic_root, monkeypatch
) -> None:
    words = ("--epochs", "2", "--batch_size", "4", "--precision", "fp64")
    wanted = metrics(pretrain(tmp_path / "eager", synthetic_root, *words))[0]
    with pytest.raises(UsageError, match=r"--cuda_graph needs a GPU, .* is on cpu;"):
        pretrain(tmp_path / "no_gpu", synthetic_root, *words, "--cuda_graph")

    sizes = []

    def step(function: Callable, parameters: object) -> StandIn:
        made = StandIn(function, parameters)
        made.buffers = tuple(model.buffers())
        return made

    def remembered(*given: object) -> CrossPoint:
        nonlocal model
        model = CrossPoint(*given)
        return model

    def laid_out(*given: object) -> object:
        layout = distinct_points(*given)
        sizes.append(len(layout.rows))
        return layout

    model: CrossPoint
    aside = "models.crosspoint.on_second_stream"
    monkeypatch.setattr(aside, lambda function, x: partial(function, x))
    monkeypatch.setattr(train_crosspoint, "check_cuda_graph", lambda *given: None)
    monkeypatch.setattr(train_crosspoint, "CrossPoint", remembered)
    monkeypatch.setattr(train_crosspoint, "GraphedStep", step)
    monkeypatch.setattr(train_crosspoint, "distinct_points", laid_out)
    before = StandIn.replays
    run = pretrain(tmp_path / "graph", synthetic_root, *words, "--cuda_graph")
    actual = metrics(run)[0]
    assert len(actual) == 12 and StandIn.replays - before == 6  # each epoch warms up
    assert set(sizes) == {distinct_after_dropout(8, 64)}
    for name in ("loss", "imid_loss", "cmid_loss", "lr"):
        expected = pytest.approx([line[name] for line in wanted], rel=1e-9)
        assert [line[name] for line in actual] == expected


def test_the_capacity_holds_for_almost_every_batch() -> None:
    clouds, points = 16, 200
    capacity = distinct_after_dropout(clouds, points)
    cloud = generator(0).standard_normal((points, 3))
    counts = []
    for number in range(200):
        rng = generator(1, number)
        views = [random_dropout(cloud, rng) for _ in range(clouds)]
        stacked = torch.from_numpy(np.stack(views)).transpose(1, 2)
        counts.append(len(distinct_points(stacked).rows))
    assert max(counts) < capacity < 1.3 * max(counts)
    assert distinct_after_dropout(1, 10) == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("cpu", 1, "fp32", "fused"), "a GPU, and this run is on cpu"),
        (("cuda", 2, "fp32", "fused"), "one process, and there are 2"),
        (("cuda", 1, "fp64", "fused"), "--precision fp32, bf16 or fp16"),
        (("cuda", 1, "bf16", "plain"), "--edgeconv fused"),
    ],
)
def test_what_a_graph_needs(given: tuple, message: str) -> None:
    device, *others = given
    with pytest.raises(ValueError, match=f"--cuda_graph needs {message}.*; leave"):
        check_cuda_graph(torch.device(device), *others)
    check_cuda_graph(torch.device("cuda"), 1, "fp16", "fused")


class Streams:
    """Streams whose work is a list of words, in place of those of a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work: list[str] = []
        self.current = self.stream("first")
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Stream", lambda *given: self.stream("second"))
        monkeypatch.setattr(cuda, "current_stream", lambda *given: self.current)
        monkeypatch.setattr(cuda, "stream", self.on)
        recorded = lambda x, stream: self.say(f"kept for {stream.name}")  # noqa: E731
        monkeypatch.setattr(Tensor, "record_stream", recorded)

    def say(self, word: str) -> None:
        self.work.append(f"{self.current.name}: {word}")

    def stream(self, name: str) -> SimpleNamespace:
        def wait(other: SimpleNamespace) -> None:
            self.work.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, wait_stream=wait)

    @contextlib.contextmanager
    def on(self, stream: SimpleNamespace):
        before, self.current = self.current, stream
        yield
        self.current = before


def test_images_are_encoded_on_a_second_stream(monkeypatch) -> None:
    streams = Streams(monkeypatch)
    monkeypatch.setattr("models.crosspoint.second_stream", torch.cuda.Stream)
    model = randomise(CrossPoint(DGCNN(k=5, emb_dims=16), SmallImages()))
    twin, given = copy.deepcopy(model), batch(1)
    for name in ("point_encoder", "image_encoder"):
        part = getattr(model, name)
        part.register_forward_hook(lambda *_, name=name: streams.say(name))
    model.two_streams = True
    actual = model(*given)
    assert streams.work == [
        "second waits for first",
        "second: image_encoder",
        "first: kept for second",
        "first: point_encoder",
        "first waits for second",
        "first: kept for first",
    ]
    assert all(map(torch.equal, actual, twin(*given)))


def test_warm_up_and_capture_are_on_one_stream(monkeypatch) -> None:
    streams, options = Streams(monkeypatch), []

    @contextlib.contextmanager
    def capture(graph: str, **given: object):
        options.append((graph, given["stream"].name, given["capture_error_mode"]))
        with streams.on(given["stream"]):
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    weight = nn.Parameter(torch.ones(()))

    def replay() -> None:
        streams.say("replay")

    def step(x: Tensor) -> tuple[Tensor]:
        if failing:
            raise RuntimeError("operation not permitted when stream is capturing")
        streams.say("step")
        return (weight * x,)

    graphed, failing = GraphedStep(step, [weight]), False
    for number in range(5):
        (actual,) = graphed(torch.tensor(float(number)))
        assert not actual.requires_grad
    warm_up = ["second waits for first", "second: step", "first waits for second"]
    assert streams.work == [*warm_up * 3, "second: step", *["first: replay"] * 2]
    ((_, *chosen),) = options
    assert chosen == ["second", "thread_local"]

    graphed = GraphedStep(step, [weight])
    for _ in range(3):
        graphed(torch.ones(()))
    failing = True
    with pytest.raises(UsageError, match="cannot be captured: operation not permitted"):
        graphed(torch.ones(()))
