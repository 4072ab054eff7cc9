"""Two ranks against one process: gathering, rank 0's work, the wrap."""

import contextlib
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.ddp import Pool
from tests.utils.parallel.test_batchnorm import normal
from utils.errors import UsageError
from utils.parallel import distributed
from utils.parallel.batchnorm import GlobalBatchNorm, synchronise_batchnorm
from utils.run import cli

CPU = torch.device("cpu")


def place() -> tuple[int, int]:
    return distributed.rank(), distributed.world_size()


def reductions() -> tuple[list[float], int]:
    own = torch.tensor([1.0, 10.0]) * (distributed.rank() + 1)
    most = distributed.all_reduce_max(place()[0])
    return distributed.all_reduce_sum(own).tolist(), most


def gather_rows_on_rank(parts: list[Tensor], weights: list[Tensor]):
    x = parts[distributed.rank()].clone().requires_grad_()
    gathered = distributed.gather_rows(x)
    (gathered**2 * weights[distributed.rank()]).sum().backward()
    return gathered.detach(), x.grad


def gather_array_on_rank(parts: list[np.ndarray]) -> np.ndarray:
    return distributed.gather_array(parts[distributed.rank()])


RESULT = {"accuracy": 0.5, "names": ["ä", "b"], "none": None, "pair": (1, 2)}


def work_on_main(fails: bool):
    """How often the rank worked, and what it got or which error it saw."""
    work = Mock(return_value=RESULT)
    if fails:
        work.side_effect = FileNotFoundError("no such data set")
    try:
        result = distributed.run_on_main(work)
        return work.call_count, result
    except Exception as error:
        return work.call_count, type(error).__name__, str(error)


def test_place_sum_and_maximum(two_ranks):
    assert two_ranks.run(place) == [(0, 2), (1, 2)]
    assert place() == (0, 1)
    assert two_ranks.run(reductions) == [([3.0, 30.0], 1)] * 2


def test_gather_rows_has_all_rows_and_the_gradient_of_all_losses(two_ranks):
    parts = [normal(3, 2, 4, seed=0), normal(3, 2, 4, seed=1)]
    weights = [normal(6, 2, 4, seed=2), normal(6, 2, 4, seed=3)]
    whole = torch.cat(parts)
    expected = 2 * whole * (weights[0] + weights[1])
    results = two_ranks.run(gather_rows_on_rank, parts, weights)
    for rank, (gathered, grad) in enumerate(results):
        assert torch.equal(gathered, whole)
        torch.testing.assert_close(grad, expected[3 * rank : 3 * rank + 3])


@pytest.mark.parametrize("counts", [(2, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [np.float32, bool])
@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_gather_array_takes_any_number_of_rows(two_ranks, counts, dtype, shape):
    random = np.random.default_rng(0)
    parts = [random.integers(0, 9, (count, *shape)).astype(dtype) for count in counts]
    whole = np.concatenate(parts)
    for gathered in two_ranks.run(gather_array_on_rank, parts):
        assert gathered.dtype == dtype and gathered.shape == whole.shape
        np.testing.assert_array_equal(gathered, whole)


def test_run_on_main_works_once_and_tells_every_rank(two_ranks):
    assert two_ranks.run(work_on_main, False) == [(1, RESULT), (0, RESULT)]
    first, second = two_ranks.run(work_on_main, True)
    assert first == (1, "FileNotFoundError", "no such data set")
    assert second[:2] == (0, "FailedElsewhere")
    assert "rank 0 failed: FileNotFoundError: no such data set" in second[2]
    assert two_ranks.run(place) == [(0, 2), (1, 2)]  # nobody waits any more


def test_one_process_needs_no_group():
    x, array = torch.ones(2, 3), np.ones((2, 3))
    assert distributed.gather_rows(x) is x
    assert distributed.gather_array(array) is array
    assert torch.equal(distributed.all_reduce_sum(x.clone()), x)
    assert distributed.run_on_main(lambda: {1, 2}) == {1, 2}
    with pytest.raises(KeyError):
        distributed.run_on_main(lambda: {}["missing"])
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert distributed.data_parallel(module, CPU) is module
    assert distributed.unwrap(module) is module
    assert type(module[1]) is nn.BatchNorm1d


def test_start_without_torchrun_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    process = distributed.start()
    assert (process.rank, process.world_size) == (0, 1)
    assert (process.device, process.backend) == (CPU, "none")
    assert not torch.distributed.is_initialized()
    distributed.stop()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"local rank 2 has no GPU: 2 visible"):
        distributed.start()


def small_model() -> nn.Module:
    norms = nn.BatchNorm1d(4), nn.BatchNorm1d(4, eps=1e-3, momentum=0.3)
    return nn.Sequential(nn.Conv1d(3, 4, 1, bias=False), *norms).double()


def wrapped_on_rank(x: Tensor):
    torch.manual_seed(0)
    model = synchronise_batchnorm(small_model())
    model = distributed.data_parallel(model, CPU)
    module = distributed.unwrap(model)
    assert type(module[1]) is GlobalBatchNorm
    half = len(x) // 2
    own = x[half * distributed.rank() :][:half]
    model(own).square().mean().backward()
    assert model.gradient_as_bucket_view
    return dict(module.state_dict()), [p.grad.clone() for p in model.parameters()]


def test_data_parallel_is_one_process_on_the_global_batch(two_ranks):
    torch.manual_seed(0)
    model = small_model()
    x = normal(6, 3, 5)
    model(x).square().mean().backward()
    for state, grads in two_ranks.run(wrapped_on_rank, x):
        torch.testing.assert_close(state, dict(model.state_dict()))
        expected = [p.grad for p in model.parameters()]
        torch.testing.assert_close(grads, expected, rtol=1e-8, atol=1e-10)


def damaged_on(rank: int | None, text: str) -> tuple[str, str, str]:
    """The error that this rank ends with, its message, and what caused it."""
    try:
        with distributed.fail_together():
            if rank in (None, distributed.rank()):
                raise ValueError(text)
    except Exception as error:
        return type(error).__name__, str(error), type(error.__cause__).__name__
    return "", "", ""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_file_damaged_for_one_rank_ends_all(two_ranks, rank) -> None:
    ends = two_ranks.run(damaged_on, rank, "x.h5 is damaged")
    assert ends[rank] == ("UsageError", "x.h5 is damaged", "ValueError")
    assert ends[1 - rank] == ("FailedElsewhere", f"rank {rank} failed", "NoneType")
    # An error without a message is an error all the same.
    assert two_ranks.run(damaged_on, rank, "")[1 - rank][0] == "FailedElsewhere"
    assert two_ranks.run(damaged_on, 2, "")[0] == ("", "", "")
    # A mistake that all ranks see is reported by one.
    ends = two_ranks.run(damaged_on, None, "no such file")
    assert ends[0][:2] == ("UsageError", "no such file")
    assert ends[1][:2] == ("FailedElsewhere", "rank 0 failed")
    assert two_ranks.run(place) == [(0, 2), (1, 2)]


def test_an_unexpected_error_is_not_exchanged() -> None:
    with pytest.raises(KeyError), distributed.fail_together():
        raise KeyError("x")


def slow_on_main() -> float:
    distributed.run_on_main(lambda: time.sleep(4.0))
    # The ranks are still in step: a collective under the short timeout works.
    return distributed.all_reduce_sum(torch.ones(1)).item()


def gather_late() -> str:
    """How a gather ends that rank 1 joins after the timeout."""
    time.sleep(5.0 * distributed.rank())
    try:
        distributed.gather_array(np.ones(2))
    except RuntimeError as error:
        return str(error)
    return "no error"


def rank_0_gets(number: int, file: Path) -> None:
    """Write how rank 1's waiting for rank 0 ends, when a signal stops or kills that."""

    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    try:
        distributed.run_on_main(work)
    except RuntimeError as error:
        file.write_text(str(error))


@pytest.mark.slow  # it starts processes of its own
def test_a_lost_rank_is_noticed_and_a_busy_one_waited_for(tmp_path: Path) -> None:
    with contextlib.closing(Pool(2, collective_timeout_s=2.0)) as pool:
        assert pool.run(slow_on_main) == [2.0] * 2
        late = pool.run(gather_late)[0]
        assert "imed out" in late and cli.is_loss_of_a_rank(late)
        pool.timeout_s, pool.grace_s = 5.0, 5.0  # rank 1 notices after 2 s
        for number in (signal.SIGKILL, signal.SIGSTOP):
            pool.close()
            with pytest.raises(BrokenProcessPool):
                pool.run(rank_0_gets, number, tmp_path / str(number))
            output = (tmp_path / str(number)).read_text()
            assert number == signal.SIGSTOP or cli.is_loss_of_a_rank(output)
