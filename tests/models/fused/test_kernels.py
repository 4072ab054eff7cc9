"""How the kernels are called: equal names, strided tensors, the device, tasks."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.fused.batch import Graph, RaggedBatch
from models.fused.numba.tasks import run_tasks
from tests.models.conftest import Kernels, load_kernels


def every_operation(kernels: Kernels, strided: bool) -> list[Tensor]:
    """What each kernel returns, for tensors (R, C) of either layout."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return x.T.contiguous().T if strided and len(shape) == 2 else x

    counts = torch.randint(1, 4, (30,), generator=generator).double()
    batch = RaggedBatch(torch.tensor([0, 18, 30]), counts, 50, True)
    idx = torch.randint(0, 18, (30, 5), generator=generator).int()
    graph = Graph(
        torch.where(torch.arange(30)[:, None] < 18, idx, 18 + idx % 12), batch
    )
    a, b, y, total = (normal(30, 7) for _ in range(4))
    scale, offset, mean, alpha, beta = (normal(7) for _ in range(5))
    affine, share = torch.stack([scale, offset, mean, normal(7).exp()]), normal(2, 7)
    norm = nn.BatchNorm1d(7, momentum=0.3).double().train()
    sums = torch.stack([normal(7), normal(7).exp() + 9]).double()
    batch_affine, count = kernels.batch_affine(norm, sums, mean, 12, False)
    extreme = kernels.edge_extremes(a, b, graph, scale.sign(), mean, True)
    argmax = extreme[1].T.contiguous().T if strided else extreme[1]
    gradients = [(normal(30, 7), normal(30, 7)) for _ in range(2)]
    return [
        kernels.knn(normal(30, 7), batch, 4),
        kernels.product(a, normal(7, 9)),
        *extreme,
        kernels.edge_maximum(a, b, graph, offset, 0.2),
        *kernels.edge_gradients(*gradients[0], None, a, b, graph, total, alpha, beta),
        *kernels.edge_gradients(*gradients[1], argmax, a, b, graph, total, alpha, beta),
        kernels.column_sums(y, mean, batch),
        *kernels.pool(y, affine, scale.sign(), 0.2, batch),
        kernels.pool_gradient(share, y, affine, alpha, beta, 0.2, batch),
        batch_affine,
        *norm.buffers(),
        *kernels.activation_gradient(a, y, affine, 0.2),
        *kernels.statistics_gradient(sums, 2 * sums, batch_affine, count),
    ]


def test_both_packages_agree_in_any_memory_layout():
    results = [
        every_operation(load_kernels(name), strided)
        for name in ("numba", "triton")
        for strided in (False, True)
    ]
    expected, *others = results
    for found in others:
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the interpreter's runs")
def test_every_launch_is_on_the_device_of_its_tensors(monkeypatch):
    package = load_kernels("triton")
    interpreter = importlib.import_module("triton.runtime.interpreter")
    inside, launches = [], []

    @contextlib.contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        inside.append(x)
        yield
        inside.pop()

    class Launch(interpreter.GridExecutor):
        def __call__(self, *args, **options):
            launches.append(len(inside) == 1 and isinstance(inside[0], Tensor))
            return super().__call__(*args, **options)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(interpreter, "GridExecutor", Launch)
    every_operation(package, strided=False)
    package.knn(torch.zeros(6, 3), small_batch(), 2)
    assert len(launches) >= 7 and all(launches)


def small_batch() -> RaggedBatch:
    return RaggedBatch(torch.tensor([0, 6]), torch.ones(6), 6, False)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_task_runs_once_on_one_of_the_threads(three_threads: None):
    done, met = [], threading.Barrier(3)

    def task(number: int, waits: bool) -> None:
        if waits:
            met.wait(60)  # three tasks at a time, or never
        done.append((number, threading.get_ident(), torch.get_num_threads()))

    run_tasks(task, [(number, number < 3) for number in range(500)])
    assert sorted(number for number, _, _ in done) == list(range(500))
    assert len({thread for _, thread, _ in done}) == 3
    assert {threads for _, _, threads in done} == {1}


@pytest.mark.parametrize("bad", [0, 49])
def test_the_error_of_a_task_is_raised(bad: int, three_threads: None):
    def task(number: int) -> None:
        if number == bad:
            raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match=f"task {bad}$"):
        run_tasks(task, [(number,) for number in range(50)])
