"""Cores are shared, and memory that a step frees is the next step's."""

import sys

import pytest

from tests.utils.conftest import start_python
from utils.parallel import machine

FAULTS = """
import resource, torch
from utils.parallel import distributed

def faults():  # pages that a further, equal step has to be given
    for _ in range(11):  # the first ones until what lies between has found its place
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(2**24).add_(1)  # 64 MiB, far above what glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = faults()
distributed.start()
print(by_default, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_further_step_needs_no_new_pages() -> None:
    process = start_python(FAULTS, env={"CUDA_VISIBLE_DEVICES": ""})
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    by_default, kept = map(int, output.split())
    assert kept < 100 < 10_000 < by_default


def test_loader_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 32)
    for ranks, expected in (("1", 12), ("4", 8), ("64", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert machine.loader_workers() == expected
