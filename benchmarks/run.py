"""Times of what is fast here against its plain reference, on the same input.

    python -m benchmarks.run [--device cpu] [--only NAME] [--repeats 7] [--json FILE]

Both forms take turns, so that other work on the machine slows both down. Columns:

    reference s, ours s   median seconds of a call
    ratio                 of the medians; lowest - highest: the ratios of single turns
    spread                (slowest - fastest) / median of ours
    extra MiB             peak memory above that before the call: resident on a CPU,
                          allocated on a GPU
    roofline              the least time that the machine needs, as a share of ours: the
                          matrix products at the rate measured for a large one, or the
                          memory traffic at that of a copy, whichever is longer
    per second            clouds, pairs or shapes

On a CPU ours keeps freed memory, as the scripts do, and the reference returns it to the
system, as PyTorch programs do; in rows that say so both keep it. On a GPU there are
only the rows that use it, and no "ours" where the fused form has no kernels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from benchmarks.cases import cases
from benchmarks.forms import Step, pretraining
from benchmarks.measure import (
    Case,
    Rates,
    Setting,
    free_memory,
    heading,
    measure_apart,
    measure_rates,
    result,
    row,
    synchronise,
    take_turns,
    unmeasured,
)
from utils.run.flags import positive_int
from utils.run.logger import describe_environment


def measure(case: Case, setting: Setting, repeats: int, rates: Rates) -> dict:
    """A row's values, or none and a note that says why."""
    free = free_memory(setting.device)
    if free is not None and free < case.gib:
        return unmeasured(case, f"not run: {case.gib:.1f} GiB needed, {free:.1f} free")
    on_gpu, gpus = setting.device.type == "cuda", torch.cuda.device_count()
    if on_gpu and case.processes > gpus:
        return unmeasured(case, f"not run: {gpus} GPU")
    try:
        if case.processes:
            measured = measure_apart(case, setting, repeats)
        else:
            forms = case.make(setting)
            measured = take_turns(forms, repeats, setting.device, case)
    except torch.OutOfMemoryError as error:
        return unmeasured(case, str(error).splitlines()[0])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        killed = failure.exitcode < 0
        cause = failure.signal_name() if killed else f"exit code {failure.exitcode}"
        return unmeasured(case, f"ended early: {cause}")
    # Each process has a GPU of its own; processes on a CPU share it.
    return result(case, measured, rates, max(1, case.processes) if on_gpu else 1)


def write_profile(path: Path, run: Callable[[], object], device: torch.device) -> None:
    """torch.profiler's table of one call, after two to warm up."""
    for _ in range(2):
        run()
    synchronise(device)
    with torch.profiler.profile() as seen:
        run()
        synchronise(device)
    order = f"self_{device.type}_time_total"
    path.write_text(seen.key_averages().table(sort_by=order, row_limit=40) + "\n")


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    half = "bf16 by autocast (default: fp32)"
    add("--precision", choices=("fp32", "bf16"), default="fp32", help=half)
    add("--only", default="", help="only the rows whose names contain it")
    add("--repeats", type=positive_int, default=7, help="turns (default: 7)")
    add("--json", type=Path, metavar="FILE", help="also write all values to it")
    profile = "write torch.profiler's table of one whole step to it, and stop"
    add("--profile", type=Path, metavar="FILE", help=profile)
    return parser


def main() -> None:
    parser = get_args_parser()
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    setting = Setting(torch.device(args.device), args.precision)
    if args.profile:
        step = Step(pairs=20 if args.device == "cuda" else 4)
        write_profile(args.profile, pretraining(setting, step)["ours"], setting.device)
        return
    all_cases = cases(args.device)
    chosen = [case for case in all_cases if args.only in case.name]
    if not chosen:
        names = "; ".join(case.name for case in all_cases)
        parser.error(f"--only {args.only}: the cases are {names}")
    environment = describe_environment()
    rates = measure_rates(setting)
    print(
        f"{environment['machine']}; torch {environment['torch']}, "
        f"{torch.get_num_threads()} threads, {args.precision}; commit "
        f"{environment['commit']}; products {rates.product / 1e9:.0f} GFLOP/s, in "
        f"float64 {rates.double / 1e9:.0f}; copies {rates.copied / 1e9:.1f} GB/s\n\n"
        f"{heading()}",
        flush=True,
    )
    results = []
    for case in chosen:
        # For every row: the load of the machine changes.
        rates = measure_rates(setting)
        measured = measure(case, setting, args.repeats, rates)
        results.append(measured | {"rates": asdict(rates)})
        print(row(measured), flush=True)
        if args.json:  # after every row, in case a later one is interrupted
            content = {
                "environment": environment,
                "arguments": {"device": args.device, "precision": args.precision},
                "results": results,
            }
            args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
