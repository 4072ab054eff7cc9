"""The pool of worker processes: order, exceptions, survival, time limit."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from tests.ddp_helpers import RankFailure
from utils.parallel import distributed


def rank_plus(x):
    return distributed.rank() + x


def group():
    return distributed.world_size(), dist.get_backend(), torch.get_num_threads()


def fail_on_every_rank(word):
    raise KeyError(f"{word} {distributed.rank()}")


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def raise_unpicklable():
    raise Unpicklable("one", "two")


def sleep_on_rank_1():
    if distributed.rank() == 1:
        time.sleep(60)


def test_results_come_in_order_of_rank(two_ranks):
    assert two_ranks.run(rank_plus, 10) == [10, 11]
    assert two_ranks.run(group) == [(2, "gloo", 1)] * 2


def test_an_exception_is_raised_with_every_ranks_traceback_and_the_pool_survives(
    two_ranks,
):
    with pytest.raises(KeyError, match="word 0") as caught:
        two_ranks.run(fail_on_every_rank, "word")
    cause = caught.value.__cause__
    assert isinstance(cause, RankFailure)
    assert "in fail_on_every_rank" in str(cause) and "word 1" in str(cause)
    assert two_ranks.run(rank_plus, 0) == [0, 1]


def test_an_exception_that_does_not_pickle_is_told_in_words(two_ranks):
    with pytest.raises(RuntimeError, match="Unpicklable: one two"):
        two_ranks.run(raise_unpicklable)


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_ended_and_new_ones_start(
    two_ranks, monkeypatch
):
    assert two_ranks.run(rank_plus, 0) == [0, 1]
    old = two_ranks.processes
    with monkeypatch.context() as patch:
        patch.setattr(two_ranks, "timeout_s", 0.5)
        with pytest.raises(TimeoutError, match=r"\[1\] of sleep_on_rank_1"):
            two_ranks.run(sleep_on_rank_1)
    assert two_ranks.run(rank_plus, 0) == [0, 1]
    assert not set(old) & set(two_ranks.processes)
    assert two_ranks.run(rank_plus, 0) == [0, 1]
