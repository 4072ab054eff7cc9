"""The optimisers, schedules, and the batches of an evaluation."""

import argparse
import copy
import math
import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import nn

from utils.parallel import distributed
from utils.run import signals
from utils.run.training import build_optimizer, evaluation_batches, scheduled

SETTINGS = {"lr": 0.1, "weight_decay": 0.01}
ARGS = argparse.Namespace(**SETTINGS, momentum=0.9)
PLAIN = {
    "adam": lambda p: torch.optim.Adam(p, **SETTINGS),
    "sgd": lambda p: torch.optim.SGD(p, **SETTINGS, momentum=0.9),
}


def updates(build: Callable, *layouts: torch.memory_format) -> torch.Tensor:
    """A convolution's weight after an update by each of several optimisers, of which
    one loads the state of another, each with its own memory layout of the weight."""
    torch.manual_seed(0)
    conv, images = nn.Conv2d(3, 4, 3).double(), torch.randn(2, 3, 8, 8).double()
    state = None
    for layout in layouts:
        conv = copy.deepcopy(conv).to(memory_format=layout)
        conv.zero_grad(set_to_none=True)
        optimizer = build(conv.parameters())
        if state is not None:
            optimizer.load_state_dict(state)
        conv(images).square().sum().backward()
        optimizer.step()
        state = optimizer.state_dict()
    return conv.weight.detach()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_updates_are_those_of_the_plain_optimiser_in_any_layout(kind: str) -> None:
    last, first = torch.channels_last, torch.contiguous_format
    expected = updates(PLAIN[kind], *[first] * 3)
    args = argparse.Namespace(**vars(ARGS), optimizer=kind)
    for layouts in ([first] * 3, [last] * 3, (first, last, last), (last, first, first)):
        actual = updates(lambda p: build_optimizer(p, args), *layouts)
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_schedules() -> None:
    rates = [scheduled("cos", 0.1, epoch, 300) for epoch in (0, 75, 150, 300)]
    quarter = 1e-3 + 0.099 * (1 + math.sqrt(0.5)) / 2
    assert rates == pytest.approx([0.1, quarter, (0.1 + 1e-3) / 2, 1e-3])
    rates = [scheduled("step", 0.1, e, 300) for e in (0, 19, 20, 39, 40, 265, 299)]
    expected = [0.1, 0.1, 0.05, 0.05, 0.025, 0.1 / 2**13, 1e-5]
    assert rates == pytest.approx(expected, rel=1e-12)
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


def test_a_signal_ends_an_evaluation_on_all_ranks(two_ranks) -> None:
    end = "SIGTERM: stopped in an evaluation"  # before the next batch
    assert batches_of((5,), 1) == [slice(0, 2), end]
    # Rank 1 has no batch left when rank 0 has two.
    ends = two_ranks.run(batches_of, (5, 1), 1)
    assert ends == [[slice(0, 2), end], [slice(0, 1), end]]
