"""SIGTERM and SIGINT: recorded when they arrive, handled between steps.

SIGTERM (queues, ``kill``) and SIGINT (Ctrl-C) let a training script finish its step and
write a checkpoint. A second Ctrl-C ends it at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received = 0


class Interrupted(Exception):
    """A signal has stopped the run; nothing is lost."""

    def __init__(self, number: int, location: str) -> None:
        self.number = number
        super().__init__(f"{signal.Signals(number).name}: stopped {location}")


def _on_signal(number: int, _: FrameType | None) -> None:
    global _received
    if _received and number == signal.SIGINT:
        raise KeyboardInterrupt
    _received = number
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # Not print: the signal may have interrupted one.
        os.write(2, b"\nstopping after this step, or before the next test batch\n")


@contextmanager
def listening() -> Iterator[None]:
    """Inside, signals are noted; outside the main thread nothing changes."""
    global _received
    _received = 0
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _received = 0
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int:
    """The number of the signal that arrived while :func:`listening`, or 0."""
    return _received


def check(location: str) -> None:
    """Raise :class:`Interrupted` if a signal has arrived; for long work of one rank.

    What all ranks do together ends together: see ``evaluation_batches`` and ``Run``.
    """
    if _received:
        raise Interrupted(_received, location)


def ignore_signals(_: int = 0) -> None:
    """Ignore the signals in a loader's worker: its parent process handles them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
