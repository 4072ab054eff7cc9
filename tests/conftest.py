"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.ddp_helpers import Pool

# The tests are many and small, and some run several processes: threads of one would
# wait for each other. The variable is for the scripts that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Pool]:
    """Two processes on gloo, started by the first test that runs something on them."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four data sets, 24 rendered shapes: a ``--data_root``."""
    from datasets.synthetic import generate

    root = tmp_path_factory.mktemp("synthetic") / "data"
    generate(root, shapes=24, seed=0, workers=1, progress=False)
    return root
