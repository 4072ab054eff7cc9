"""Streams are functions of their names, and different names give different streams."""

import itertools

import numpy as np
import pytest

from utils.parallel.seed import ORDER, POINTS, generator


def test_the_same_name_gives_the_same_stream() -> None:
    first, second = (generator(POINTS, 1, 2, 3).random(5) for _ in range(2))
    assert (first == second).all()


def test_different_names_give_different_streams() -> None:
    # Trailing zeros, numbers of two words, and the purpose are where names could meet.
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32 + 1,), (1, 1)]
    names = [(purpose, *key) for purpose in (ORDER, POINTS) for key in keys]
    streams = [(name, generator(*name).random(4)) for name in names]
    for (one, a), (other, b) in itertools.combinations(streams, 2):
        assert not np.array_equal(a, b), (one, other)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        generator(POINTS, -1)
