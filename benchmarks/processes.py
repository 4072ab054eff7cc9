"""Measuring in new processes: several ranks, or one that may be killed."""

from __future__ import annotations

import os
import sys

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks.measure import Case, Measured, Setting, take_turns
from utils.parallel import distributed


def measure_apart(case: Case, setting: Setting, repeats: int) -> Measured:
    """:func:`benchmarks.measure.take_turns` on every rank; rank 0's result.

    Raises:
        ChildFailedError: if a process ended early.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=case.processes,
        run_id="benchmarks",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    threads = case.threads or torch.get_num_threads()
    return elastic_launch(config, _rank)(case, setting, repeats, threads)[0]


def _rank(case: Case, setting: Setting, repeats: int, threads: int) -> Measured:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if setting.device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(threads)
    device = distributed.start().device
    forms = case.make(Setting(device, setting.precision))
    measured = take_turns(forms, repeats, device, case)
    distributed.stop()
    return measured
