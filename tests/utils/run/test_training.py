"""The optimisers, schedules, and the batches of an evaluation."""

from __future__ import annotations

import argparse
import copy
import math
import os
import signal

import pytest
import torch
from torch import nn

from utils.parallel import distributed
from utils.run import signals
from utils.run.training import build_optimizer, evaluation_batches, scheduled


def updates(
    kind: str,
    layouts: tuple[torch.memory_format, torch.memory_format],
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """A convolution's weight after two updates, one by the first optimiser, and one by
    a second that loads its state, each with its own memory layout of the weight."""
    args = argparse.Namespace(optimizer=kind, lr=0.1, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(0)
    conv, images = nn.Conv2d(3, 4, 3).to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    state = None
    for layout in layouts:
        conv = copy.deepcopy(conv).to(memory_format=layout)
        conv.zero_grad(set_to_none=True)
        optimizer = build_optimizer(conv.parameters(), args)
        if state is not None:
            optimizer.load_state_dict(state)
        conv(images).square().sum().backward()
        optimizer.step()
        state = optimizer.state_dict()
    return conv.weight.detach()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_state_of_another_memory_layout_gives_the_same_updates(kind: str) -> None:
    last, first = torch.channels_last, torch.contiguous_format
    expected = updates(kind, (first, first))
    for layouts in ((last, last), (first, last), (last, first)):
        torch.testing.assert_close(updates(kind, layouts), expected)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_updates_are_those_of_the_plain_optimiser(kind: str) -> None:
    args = argparse.Namespace(optimizer=kind, lr=0.1, momentum=0.9, weight_decay=0.01)
    start = nn.Linear(5, 3).double()
    ours, plain = copy.deepcopy(start), copy.deepcopy(start)
    makers = {
        "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01),
        "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01),
    }
    pairs = (
        (ours, build_optimizer(ours.parameters(), args)),
        (plain, makers[kind](plain.parameters())),
    )
    for number in range(3):
        x = torch.full((2, 5), 1.0 + number, dtype=torch.float64)
        for model, optimizer in pairs:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-12, atol=1e-12)


def test_schedules() -> None:
    assert scheduled("cos", 0.1, 0, 300) == pytest.approx(0.1)
    assert scheduled("cos", 0.1, 150, 300) == pytest.approx((0.1 + 1e-3) / 2)
    assert scheduled("cos", 0.1, 300, 300) == pytest.approx(1e-3)
    assert scheduled("cos", 0.1, 75, 300) == pytest.approx(
        1e-3 + 0.099 * (1 + math.sqrt(0.5)) / 2
    )
    rates = [scheduled("step", 0.1, e, 300) for e in (0, 19, 20, 39, 40, 265, 299)]
    assert rates == pytest.approx(
        [0.1, 0.1, 0.05, 0.05, 0.025, 0.1 / 2**13, 1e-5], rel=1e-12
    )
    for name in ("cos", "step"):  # a start below the end does not rise
        rates = [scheduled(name, 1e-6, epoch, 300) for epoch in range(300)]
        assert max(rates) == pytest.approx(1e-6)


def batches_of(counts: tuple[int, ...], interrupt: int | None = None) -> list[slice]:
    """This rank's batches; the last rank gets a signal in its ``interrupt``-th."""
    result = []
    rank, world = distributed.rank(), distributed.world_size()
    with signals.listening():
        try:
            for rows in evaluation_batches(counts[rank], 2 * world):
                result.append(rows)
                if rank == world - 1 and len(result) == interrupt:
                    os.kill(os.getpid(), signal.SIGTERM)
        except signals.Interrupted as end:
            result.append(str(end))
    return result


def test_an_evaluation_covers_every_sample_once(two_ranks) -> None:
    three = [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert batches_of((5,)) == three
    assert batches_of((0,)) == []
    assert two_ranks.run(batches_of, (5, 0)) == [three, []]
    assert two_ranks.run(batches_of, (1, 5)) == [[slice(0, 1)], three]


def test_a_signal_ends_an_evaluation_on_all_ranks_before_the_next_batch(
    two_ranks,
) -> None:
    end = "SIGTERM: stopped in an evaluation"
    assert batches_of((5,), 1) == [slice(0, 2), end]
    # Rank 1 has no batch left when rank 0 has two.
    ends = two_ranks.run(batches_of, (5, 1), 1)
    assert ends == [[slice(0, 2), end], [slice(0, 1), end]]
