"""Memory that a step frees is the next step's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from utils.parallel import distributed
{call}
def step():
    torch.zeros(2**24).add_(1)  # 64 MiB, far above what glibc keeps by itself
for _ in range(10):  # until what lies between has found its place
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    """Pages that a further, equal step has to be given."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_further_step_needs_no_new_pages() -> None:
    assert faults("distributed.start()") < 100 < 10_000 < faults("")
