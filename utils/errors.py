"""Errors whose message is written for the user: the scripts print it and exit."""

from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """A flag, file or folder is wrong; the message says which, and what to do."""


class FailedElsewhere(Exception):
    """Another rank failed and reports the reason; this rank ends silently."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError into a UsageError: inside, bad values come from the user."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error) or type(error).__name__) from error
