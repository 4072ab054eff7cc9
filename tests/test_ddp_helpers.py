"""The pool of worker processes: order, exceptions, survival, time limit."""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from utils.parallel import distributed


def rank_plus(x):
    return distributed.rank() + x


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def fail_on_every_rank(kind):
    raise kind(*[f"rank {distributed.rank()}"] * (1 + (kind is Unpicklable)))


def sleep_on_rank_1():
    if distributed.rank() == 1:
        time.sleep(60)


def test_results_come_in_order_and_an_exception_leaves_the_ranks_running(two_ranks):
    assert two_ranks.run(rank_plus, 10) == [10, 11]
    with pytest.raises(KeyError, match="rank 0") as caught:
        two_ranks.run(fail_on_every_rank, KeyError)
    assert "in fail_on_every_rank" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Unpicklable: rank 0 rank 0"):
        two_ranks.run(fail_on_every_rank, Unpicklable)
    assert two_ranks.run(rank_plus, 0) == [0, 1]


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_ended_and_new_ones_start(
    two_ranks, monkeypatch
):
    assert two_ranks.run(rank_plus, 0) == [0, 1]
    old = two_ranks.processes
    with monkeypatch.context() as patch:
        patch.setattr(two_ranks, "timeout_s", 0.5)
        patch.setattr("tests.ddp_helpers.GRACE_S", 0.5)
        with pytest.raises(BrokenProcessPool):
            two_ranks.run(sleep_on_rank_1)
    assert two_ranks.run(rank_plus, 0) == [0, 1]
    assert not set(old) & set(two_ranks.processes)
