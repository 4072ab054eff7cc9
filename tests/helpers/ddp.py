"""Worker processes for distributed tests, started once and shared by all of them.

    def on_rank(x):                      # at module level: it is sent by reference
        return distributed.rank() + x

    def test_it(two_ranks):              # a fixture of tests/conftest.py
        assert two_ranks.run(on_rank, 10) == [10, 11]

Arguments and results are pickled; tensors arrive as copies.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Pool:
    """``world_size`` processes on gloo and the loopback interface.

    The processes start with the first :meth:`run` and serve until :meth:`close`. An
    exception leaves them running; if a rank does not answer all are ended, and the next
    :meth:`run` starts new ones.
    """

    def __init__(self, world_size: int, collective_timeout_s: float = 60.0) -> None:
        self.world_size = world_size
        self.timeout_s = 300.0
        self.grace_s = 15.0  # one rank has raised: others may wait for it for ever
        self.collective_timeout_s = collective_timeout_s
        self.processes: list[int] = []  # their numbers
        self._ranks: list[ProcessPoolExecutor] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args)`` on every rank; the results, in order of rank.

        Args:
            function: a function at the top level of a module, not a lambda.
            args: anything that pickles, the same for every rank.

        Raises:
            Exception: what the lowest failing rank raised, its traceback as the cause.
            BrokenProcessPool: if a rank has died or did not answer in time.
        """
        if not self._ranks:
            self._start()
        calls = [rank.submit(_call, function, *args) for rank in self._ranks]
        _, others = wait(calls, self.timeout_s, FIRST_EXCEPTION)
        _, silent = wait(others, self.grace_s)
        lost = [isinstance(x.exception(), BrokenProcessPool) for x in {*calls} - silent]
        if silent or any(lost):
            self.close()
        # What a rank raised says more than that another one is lost.
        ends = [call.exception() for call in calls]
        for error in sorted(ends, key=lambda end: isinstance(end, BrokenProcessPool)):
            if error is not None:
                raise error
        return [call.result() for call in calls]

    def close(self) -> None:
        """End the processes, if any."""
        for number, rank in zip(self.processes, self._ranks, strict=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
            rank.shutdown()
        self.processes, self._ranks = [], []

    def _start(self) -> None:
        port = free_port()
        spawn = multiprocessing.get_context("spawn")
        for rank in range(self.world_size):
            place = (rank, self.world_size, port)
            self._ranks.append(ProcessPoolExecutor(1, spawn, _prepare, place))
        numbers = [rank.submit(os.getpid) for rank in self._ranks]
        self.processes = [number.result(300) for number in numbers]
        self.run(_join, self.collective_timeout_s)  # all are there: nobody waits long


def _prepare(rank: int, world_size: int, port: int) -> None:
    """Make a process one of the ranks, up to the imports, which take seconds."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.chdir(ROOT)  # not the folder of the first test, which is deleted
    import torch

    import tests.helpers.small_resnet  # noqa: F401  # before any script
    import utils.parallel.distributed  # noqa: F401

    torch.set_num_threads(1)


def _join(timeout_s: float) -> None:
    from utils.parallel import distributed

    distributed.start(timeout_s)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except BaseException as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise
