"""The command line: parser, retired flags, and errors as one line and an exit status.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

import argparse
import ctypes
import errno
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from utils.errors import FailedElsewhere, UsageError
from utils.run.signals import Interrupted

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_INTACT = "The last checkpoint, if any, is complete"
UNTRAINED = "none"  # what --model_path says for an encoder without weights

# Flags of the paper's code and of CrossPoint-DDP, and what to use now.
RETIRED = {
    "--use_sgd": "use --optimizer sgd (or --optimizer adam)",
    "--ft_dataset": "use --dataset",
    "--num_ft_points": "use --num_points",
    "--num_pt_points": "use --num_points",
    "--pretrained_path": "use --model_path",
    "--start_epoch": "--resume continues where the run was stopped",
    "--visu": "train_partseg.py --save_predictions DIR writes coloured clouds",
    "--visu_format": "train_partseg.py --save_predictions DIR writes PLY files",
    "--num_classes": "it is read from the data set; leave the flag out",
    "--wb_key": "no key here: set WANDB_API_KEY, or 'wandb login --host URL' once",
    "--no_cuda": "set CUDA_VISIBLE_DEVICES='' to run on the CPU",
    "--world_size": "start the processes with torchrun --nproc_per_node=N",
    "--rank": "torchrun numbers the processes; CUDA_VISIBLE_DEVICES=N chooses a GPU",
    "--gpu_id": "CUDA_VISIBLE_DEVICES=N chooses a GPU",
    "--master_addr": "over several nodes, torchrun --rdzv_endpoint=HOST:PORT",
    "--master_port": "over several nodes, torchrun --rdzv_endpoint=HOST:PORT",
    "--backend": "NCCL on GPUs and gloo on the CPU are chosen from what is there",
}


class _Retired(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        flag = self.option_strings[0]
        parser.error(f"{flag} was removed: {RETIRED[flag]}")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Appends a flag's default to its help, unless it is empty or already there."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, "", argparse.SUPPRESS)
        silent = silent or isinstance(action.default, bool)
        if silent or "(default" in (action.help or ""):
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that explains retired flags and reports errors once a node."""

    def __init__(self, doc: str, **options: Any) -> None:
        options |= {"formatter_class": _Help, "allow_abbrev": False}
        super().__init__(description=doc, **options)
        hidden: dict[str, Any] = dict.fromkeys(("default", "help"), argparse.SUPPRESS)
        for flag in RETIRED:
            self.add_argument(flag, action=_Retired, nargs="?", **hidden)

    def format_usage(self) -> str:
        return f"usage: {self.prog} [flags]; see {self.prog} --help\n"

    def error(self, message: str) -> NoReturn:
        unread = message.startswith("unrecognized") or "ignored explicit" in message
        if unread and {"True", "False"} & {*message.replace("'", " ").split()}:
            message += " (a switch takes no value: give it for yes, or leave it out)"
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all ranks have the same flags
            super().error(message)
        _wait_for_the_failing_rank()
        sys.exit(2)


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the arguments of a script, before its imports, which take seconds.

    Until :func:`run`, Ctrl-C ends the process silently: nothing has started.
    """
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wait_asleep()
    # A SIGKILL to torchrun and its process group (`pueue kill`, lack of memory) does
    # not reach the ranks, each in its own session: they would keep training unnoticed.
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        # 1, PR_SET_PDEATHSIG: Linux sends a SIGTERM when torchrun dies.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    return args


def wait_asleep() -> None:
    """Let idle OpenMP threads sleep, unless the user says otherwise.

    Spinning, they take cores from the kernels' threads and from other ranks. Call it
    before PyTorch is imported, which reads the variable.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def run(main: Callable[[], None], debug: bool = False) -> NoReturn:
    """Call ``main`` and exit; errors made for the user become one line.

    Exit status 2: something the user can fix; 1: no room for a record on the disk, or
    another rank was lost; 128 + the signal's number: an interrupted run. Any other
    error keeps its traceback, and with ``debug`` all do.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `start`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = multiprocessing.active_children()
    rank, text, status = os.environ.get("RANK", "0"), "", 0
    try:
        main()
    except FailedElsewhere:
        _wait_for_the_failing_rank()
        status = 2
    except KeyboardInterrupt:
        text = "interrupted" if rank == "0" else ""
        status = 128 + signal.SIGINT
    except Interrupted as end:
        if rank == "0":
            text = f"{end}; checkpoint written; rerun with --resume to continue"
        status = 128 + end.number
    except UsageError as error:
        if debug:
            traceback.print_exc()
        suffix = f" (rank {rank})" if rank != "0" else ""
        text, status = f"error{suffix}: {message(error)}", 2
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        text, status = f"error: {error}\n{_INTACT}: make room, then --resume", 1
    except RuntimeError as error:
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        if alone or not is_loss_of_a_rank(str(error)):
            raise
        text = (
            f"error (rank {rank}): another process of the run has ended, or did not "
            f"answer within --dist_timeout: {str(error).splitlines()[0]}\n{_INTACT}: "
            "continue with --resume"
        )
        status = 1
    finally:
        # The loader's workers ignore SIGINT and SIGTERM (utils/run/signals.py), by
        # which the interpreter's own exit would end them, and would keep it waiting.
        workers = [p for p in multiprocessing.active_children() if p not in before]
        if workers and hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's would raise
        for worker in workers:
            worker.kill()
    if text:
        print(f"\n{text}", file=sys.stderr, flush=True)
    sys.exit(status)


def is_loss_of_a_rank(text: str) -> bool:
    """Whether a collective's error says that another rank has died or is silent."""
    gloo = "closed by peer|reset by peer|imed out|Broken pipe"
    nccl = "closed by remote peer|remote process exited|before timing out"
    return bool(re.search(f"{gloo}|{nccl}|communicator was aborted", text))


def message(error: Exception) -> str:
    """An error's text, without the traceback that a loader's worker puts before it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text[text.rindex(type(error).__name__) :].split(": ", 1)[-1].strip()
    return text


def _wait_for_the_failing_rank() -> None:
    # torchrun ends all ranks when the first one exits: give the other time to print.
    time.sleep(3.0)
