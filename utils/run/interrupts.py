"""Signals that ask a run to end: noted when they come, acted on between two steps.

SIGTERM (queues, ``kill``) and SIGINT (Ctrl-C) let a training script finish its step and
write a checkpoint. Ctrl-C once more ends it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received = 0


class Interrupted(Exception):
    """A signal has ended the run, and nothing is lost.

    Args:
        number: of the signal.
        place: where the run has stopped, for the message.
    """

    def __init__(self, number: int, place: str) -> None:
        self.number = number
        super().__init__(f"{signal.Signals(number).name}: stopped {place}")


def _note(number: int, _: FrameType | None) -> None:
    global _received
    if _received and number == signal.SIGINT:
        raise KeyboardInterrupt
    _received = number
    if os.environ.get("LOCAL_RANK", "0") == "0":
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nfinishing the step; a checkpoint follows if all ranks can\n")


@contextmanager
def listening() -> Iterator[None]:
    """Inside, signals are noted; in a thread other than the main one nothing is."""
    global _received
    _received = 0
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        _received = 0
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int:
    """The number of the signal that came while :func:`listening`, or 0."""
    return _received


def check(place: str) -> None:
    """Raise :class:`Interrupted` if a signal has come: inside long work of one rank."""
    if _received:
        raise Interrupted(_received, place)


def leave_to_parent(_: int = 0) -> None:
    """Ignore the signals: a loader's worker gets them too, and its parent decides."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
