"""The command line: its parser, retired flags, errors without tracebacks.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from utils.run.interrupts import Interrupted

_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What a collective says when another rank has ended, or does not answer in time.
_LOST = ("closed by peer", "reset by peer", "Timed out", "timed out", "Broken pipe")


class UsageError(Exception):
    """The user asked for something that cannot be; the message says what to do."""


class FailedElsewhere(Exception):
    """Rank 0 failed and has said why; this rank ends without a word."""


UNTRAINED = "none"  # what --model_path says for an encoder without weights

# Flags of the paper's code and of CrossPoint-DDP, with what serves instead.
RETIRED = {
    "--use_sgd": "use --optimizer sgd (or --optimizer adam)",
    "--ft_dataset": "use --dataset",
    "--num_ft_points": "use --num_points",
    "--num_pt_points": "use --num_points",
    "--num_classes": "it is read from the data set; leave the flag out",
    "--wb_key": "no key here: set WANDB_API_KEY, or 'wandb login --host URL' once",
    "--no_cuda": "set CUDA_VISIBLE_DEVICES='' to run on the CPU",
    "--world_size": "start the processes with torchrun --nproc_per_node=N",
    "--backend": "NCCL on GPUs and gloo on the CPU are chosen from what is there",
}


class _Retired(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        flag = self.option_strings[0]
        parser.error(f"{flag} is gone: {RETIRED[flag]}")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that knows the retired flags and speaks once a node."""

    def __init__(self, doc: str) -> None:
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for flag in RETIRED:
            self.add_argument(
                flag,
                action=_Retired,
                nargs="?",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )

    def format_usage(self) -> str:
        return f"usage: {self.prog} [flags]; see {self.prog} --help\n"

    def error(self, message: str) -> NoReturn:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the flags are everybody's
            super().error(message)
        _let_the_other_speak()
        sys.exit(2)


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a script, before its imports, which take seconds: until
    :func:`run` Ctrl-C ends the process without a word, because nothing has begun."""
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wait_asleep()
    return args


def wait_asleep() -> None:
    """Let PyTorch's CPU threads sleep between two operations, unless the user says
    otherwise. Spinning, they take cores from the kernels' threads and other ranks.
    To be called before PyTorch is imported, which reads it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside, a ValueError is the user's: it ends the run without a traceback."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(main: Callable[[], None], *expected: type[Exception]) -> NoReturn:
    """Call ``main``; expected errors become one line and an exit code.

    2: what the user can mend; 1: a full disk, a lost rank; 128 + the signal's number:
    an interrupted run. What nobody expects keeps its traceback.

    Args:
        main: the script.
        expected: exception classes whose message is written for the user, beside
            :class:`UsageError`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `start`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = multiprocessing.active_children()
    try:
        code = _call(main, expected)
    finally:
        _end_workers(before)
    sys.exit(code)


def _call(main: Callable[[], None], expected: tuple[type[Exception], ...]) -> int:
    # The exit code; what is said is said by now.
    rank = os.environ.get("RANK", "0")
    told: tuple[type[Exception], ...] = (UsageError, *expected)
    try:
        main()
        return 0
    except FailedElsewhere:
        _let_the_other_speak()
        return 2
    except KeyboardInterrupt:
        if rank == "0":
            _say("interrupted")
        return 128 + signal.SIGINT
    except Interrupted as end:
        if rank == "0":
            _say(f"{end}; a checkpoint is written, --resume goes on from there")
        return 128 + end.number
    except told as error:
        place = f" (rank {rank})" if rank != "0" else ""
        _say(f"error{place}: {message(error)}")
        return 2
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        _say(
            f"error: {error}\nThe last checkpoint, if any, is whole: make room, then "
            "--resume"
        )
        return 1
    except RuntimeError as error:
        # torch.distributed's own errors are RuntimeErrors of many kinds.
        lost = any(word in str(error) for word in _LOST)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not lost:
            raise
        _say(
            f"error (rank {rank}): another process of the run has ended, or did not "
            f"answer within --dist_timeout: {str(error).splitlines()[0]}\nThe last "
            "checkpoint, if any, is whole: --resume goes on from there"
        )
        return 1


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)


def message(error: Exception) -> str:
    """An error's text; that of a sample without the loader process's traceback."""
    text = str(error)
    if "Original Traceback" in text:
        text = text[text.rindex(type(error).__name__) :].split(": ", 1)[-1].strip()
    return text


def _end_workers(others: list[BaseProcess]) -> None:
    # The loader's workers ignore the signals by which the interpreter's own end would
    # end them (utils/run/interrupts.py), and would keep this process waiting.
    workers = [p for p in multiprocessing.active_children() if p not in others]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's would raise
    for worker in workers:
        worker.kill()


def _let_the_other_speak() -> None:
    # torchrun ends all ranks when the first has left: let the one that speaks finish.
    time.sleep(3.0)
