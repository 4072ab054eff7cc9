"""Measuring in new processes: several ranks, or one that may be killed."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from benchmarks.measure import Case, Measured, Setting, Work, take_turns
from utils.parallel import distributed


class Killed(Exception):
    """A process of a case ended without a result."""


def measure_apart(case: Case, setting: Setting, repeats: int) -> Measured:
    """:func:`benchmarks.measure.take_turns` on every rank; rank 0's result.

    Raises:
        Killed: if a process ended early; the message has its exit code or signal.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = case.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "measured.json")
        sent = replace(case, work=Work)  # a count need not be picklable
        arguments = (sent, setting, repeats, port, threads, answer)
        try:
            torch.multiprocessing.spawn(_rank, arguments, case.processes)
        except torch.multiprocessing.ProcessExitedException as error:
            cause = error.signal_name or f"exit code {error.exit_code}"
            raise Killed(f"ended early: {cause}") from error
        return Measured(**json.loads(answer.read_text()))


def _rank(
    rank: int,
    case: Case,
    setting: Setting,
    repeats: int,
    port: int,
    threads: int,
    answer: Path,
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(case.processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if setting.device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(threads)
    device = distributed.start().device
    forms = case.make(Setting(device, setting.precision))
    measured = take_turns(forms, repeats, device, case)
    if rank == 0:
        answer.write_text(json.dumps(asdict(measured)))
    distributed.stop()


def join_alone(device: torch.device) -> None:
    """A process group of this process alone if there is none, for
    DistributedDataParallel."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
