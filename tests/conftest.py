"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ddp_helpers import Pool


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Pool]:
    """Two processes on gloo, started by the first test that runs something on them."""
    pool = Pool(2)
    yield pool
    pool.close()
