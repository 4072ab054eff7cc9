"""Tasks on threads: each once, on as many threads as PyTorch uses, errors not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from models.fused.numba.tasks import run_tasks


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_task_is_done_once_by_one_of_the_threads(three_threads: None) -> None:
    done, met = [], threading.Barrier(3)

    def task(number: int, waits: bool) -> None:
        if waits:
            met.wait(60)  # three tasks at a time, or never
        done.append((number, threading.get_ident(), torch.get_num_threads()))

    run_tasks(task, [(number, number < 3) for number in range(500)])
    assert sorted(number for number, _, _ in done) == list(range(500))
    assert len({thread for _, thread, _ in done}) == 3
    assert {threads for _, _, threads in done} == {1}


@pytest.mark.parametrize("bad", [0, 7, 49])
def test_the_error_of_a_task_is_raised(bad: int, three_threads: None) -> None:
    def task(number: int) -> None:
        if number == bad:
            raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match=f"task {bad}$"):
        run_tasks(task, [(number,) for number in range(50)])
