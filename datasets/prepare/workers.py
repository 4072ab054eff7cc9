"""Jobs on several processes, for the commands that make or check data."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

Job = Callable[[], Any]
_jobs: list[Job] = []  # of a worker process


def _start(jobs: Sequence[Job]) -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed.

    A worker gets all jobs at once: they share what they read from.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _jobs.extend(jobs)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run(number: int) -> Any:
    return _jobs[number]()


def results(jobs: Sequence[Job], workers: int) -> Generator[Any, None, None]:
    """Yield each job's result in order, using `workers` processes.

    Close it (`contextlib.closing`) before removing what workers may be writing to.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from (job() for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (jobs,))
    try:
        yield from pool.map(_run, range(len(jobs)), chunksize=4)
    except BrokenProcessPool:
        sys.exit("a worker process died (out of memory?): try fewer --workers")
    finally:
        pool.shutdown(cancel_futures=True)
