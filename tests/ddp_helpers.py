"""Worker processes for distributed tests, started once and shared by all of them.

    def on_rank(x):                      # at module level: it is sent by reference
        return distributed.rank() + x

    def test_it(two_ranks):              # a fixture of tests/conftest.py
        assert two_ranks.run(on_rank, 10) == [10, 11]

Arguments and results are pickled; tensors arrive as copies.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# After one rank has raised, the others may hang in a collective it left out.
GRACE_S = 15.0


class RankFailure(Exception):
    """The tracebacks of the ranks, chained as the cause of what a test sees raised."""


class Pool:
    """``world_size`` processes on gloo and the loopback interface.

    The processes start with the first :meth:`run` and serve until :meth:`close`. An
    exception leaves them running; ranks that do not answer are ended, and the next
    :meth:`run` starts new ones.
    """

    def __init__(
        self,
        world_size: int,
        timeout_s: float = 300.0,
        collective_timeout_s: float = 60.0,
    ) -> None:
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.collective_timeout_s = collective_timeout_s
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._connections: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args)`` on every rank; the results, in order of rank.

        Args:
            function: a function at the top level of a module, not a lambda.
            args: anything that pickles, the same for every rank.

        Raises:
            Exception: what the lowest failing rank raised, its traceback as the cause.
            TimeoutError: if a rank did not answer in ``timeout_s`` seconds.
        """
        if not self._processes:
            self._start()
        call = pickle.dumps((function, args))
        for connection in self._connections:
            connection.send_bytes(call)
        answers = self._answers()
        errors = {
            rank: answer[1:] for rank, answer in answers.items() if answer[0] == "error"
        }
        silent = [rank for rank in range(self.world_size) if rank not in answers]
        if silent:
            self.close()
        text = "".join(f"\n\nrank {rank}:\n{errors[rank][1]}" for rank in errors)
        if errors:
            if silent:
                text += f"\n\nno answer from rank(s) {silent}, ended"
            raise errors[min(errors)][0] from RankFailure(text)
        if silent:
            raise TimeoutError(
                f"no answer from rank(s) {silent} of {function.__qualname__}: "
                f"dead, or {self.timeout_s:g} s were not enough; all ranks were ended"
            )
        return [answers[rank][1] for rank in range(self.world_size)]

    def close(self) -> None:
        """End the processes, if any."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        for rank in range(self.world_size):
            here, there = context.Pipe()
            place = (rank, self.world_size, port, self.collective_timeout_s)
            process = context.Process(target=_serve, args=(there, *place), daemon=True)
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def _answers(self) -> dict[int, tuple]:
        """One answer a rank, without those that were silent for too long."""
        answers: dict[int, tuple] = {}
        waiting = dict(zip(self._connections, range(self.world_size), strict=True))
        deadline = time.monotonic() + self.timeout_s
        while waiting and (left := deadline - time.monotonic()) > 0:
            for connection in wait(list(waiting), left):
                rank = waiting.pop(connection)
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionError):  # the process has died
                    deadline = min(deadline, time.monotonic() + GRACE_S)
                    continue
                if answers[rank][0] == "error":
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return dict(sorted(answers.items()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(
    connection: Connection, rank: int, world_size: int, port: int, timeout_s: float
) -> None:
    """What a worker process does: calls in, answers out, until the pipe is closed."""
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

    import tests.small_resnet  # noqa: F401  # before any script
    from utils.parallel import distributed

    torch.set_num_threads(1)
    distributed.start(timeout_s)
    while True:
        try:
            call = connection.recv_bytes()
        except (EOFError, ConnectionError):
            break
        connection.send_bytes(_answer(call))
    distributed.stop()


def _answer(call: bytes) -> bytes:
    try:
        function, args = pickle.loads(call)
        return pickle.dumps(("result", function(*args)))
    except BaseException as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return pickle.dumps(("error", error, text))
