"""How the benchmarks measure: seconds, memory, the machine's rates, rows of the table.

A case has up to two forms of the same work, the plain reference and what is used here.
They take turns, so that other work on the machine slows both down.
"""

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from utils.parallel import distributed
from utils.parallel.machine import keep_freed_memory

FORMS = ("reference", "ours")
Forms = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Setting:
    """Device and precision of a case; pickled for other processes."""

    device: torch.device
    precision: str = "fp32"


@dataclass(frozen=True)
class Work:
    """The least work of a case, however it is written."""

    operations: float = 0.0  # floating-point ones, of matrix products
    moved: float = 0.0  # bytes read from memory and written to it
    double: bool = False  # the products are in float64


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second."""

    product: float  # floating-point operations of a large product, chosen precision
    double: float  # the same in float64
    copied: float  # bytes read and written by a copy larger than the caches


@dataclass(frozen=True)
class Case:
    """A row of the table; with ``processes`` it is pickled."""

    name: str  # what --only searches
    make: Callable[[Setting], Forms]
    work: Callable[[], Work]  # of one call of a form
    samples: int | None = None  # clouds, pairs or shapes of one call
    processes: int = 0  # started for the case; 0 for this process
    threads: int = 0  # of each of them; 0 for as many as here
    slow: bool = False  # the reference takes minutes: called once, without a warm-up
    gib: float = 0.0  # free memory needed
    devices: tuple[str, ...] = ("cpu", "cuda")
    reference_keeps: bool = False  # it keeps freed memory on the CPU, as ours does


@dataclass(frozen=True)
class Measured:
    """Seconds of every call by form, and the MiB above those before the first one."""

    seconds: dict[str, list[float]]
    extra: dict[str, float | None]


def synchronise(device: torch.device) -> None:
    """Wait for the device, and for the other processes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.barrier()


def extra_memory(device: torch.device, run: Callable[[], object]) -> float | None:
    """Peak memory of ``run`` above that before it, in MiB.

    Allocated on a GPU, resident on a CPU; None where the system does not say.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed but kept memory would hide this call's
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except (OSError, AttributeError):
        run()  # even so: other processes may wait for this one
        return None
    resident = proc_mib("VmRSS")
    run()
    return max(0.0, proc_mib("VmHWM") - resident)


def free_memory(device: torch.device) -> float | None:
    """GiB that can be allocated, None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    path = Path("/proc/meminfo")
    return proc_mib("MemAvailable", path) / 1024 if path.is_file() else None


def proc_mib(name: str, path: Path = Path("/proc/self/status")) -> float:
    """A line in kB of a file of ``/proc``, in MiB."""
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def measure_rates(setting: Setting, size: int = 2048, floats: int = 2**25) -> Rates:
    """The machine's rates, medians of seven.

    Args:
        setting: device and precision.
        size: of the square matrices; four times as large on a GPU, to fill it.
        floats: numbers of 4 bytes to copy.
    """
    device = setting.device
    size *= 4 if device.type == "cuda" else 1  # to fill a GPU

    def rate(amount: float, run: Callable[[], object]) -> float:
        timed(run, device)
        return amount / statistics.median(timed(run, device) for _ in range(7))

    def product(dtype: torch.dtype) -> float:
        a = torch.randn(size, size, device=device, dtype=dtype)
        return rate(2 * size**3, lambda: torch.mm(a, a))

    chosen = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    source = torch.ones(floats, device=device)
    target = torch.empty_like(source)
    copied = rate(2 * 4 * floats, lambda: target.copy_(source))
    return Rates(product(chosen), product(torch.float64), copied)


def roofline(work: Work, rates: Rates) -> float:
    """The least seconds that the machine needs for the work."""
    product = rates.double if work.double else rates.product
    return max(work.operations / product, work.moved / rates.copied)


def take_turns(
    forms: Forms, repeats: int, device: torch.device, case: Case
) -> Measured:
    """Measure memory and then time, the forms in turn, after calls to warm up."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    extra: dict[str, float | None] = {}
    once = ("reference",) if case.slow else ()
    for form, run in forms.items():
        keep_freed_memory(form == "ours" or case.reference_keeps)
        if form not in once:
            run()  # compiles, fills caches
        start = time.perf_counter()
        extra[form] = extra_memory(device, run)
        if form in once:
            seconds[form].append(time.perf_counter() - start)
        else:
            run()  # allocates what that has trimmed
    for _ in range(repeats):
        for form in (name for name in forms if name not in once):
            keep_freed_memory(form == "ours" or case.reference_keeps)
            seconds[form].append(timed(forms[form], device))
    return Measured(seconds, extra)


def measure_apart(case: Case, setting: Setting, repeats: int) -> Measured:
    """:func:`take_turns` on every rank of new processes; rank 0's result.

    Raises:
        ChildFailedError: if a process ended early.
    """
    config = LaunchConfig(1, 1, case.processes, run_id="benchmarks", max_restarts=0)
    config.rdzv_backend, config.rdzv_endpoint = "c10d", "localhost:0"
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


# The table's columns: key of a result, heading, format.
COLUMNS = (
    ("reference", "reference s", "{:.3f}"),  # median
    ("ours", "ours s", "{:.3f}"),
    ("ratio", "ratio", "{:.2f}"),  # of the medians
    ("ratios", "lowest - highest", "{0[0]:.2f} - {0[1]:.2f}"),  # of single turns
    ("spread", "spread", "{:.0%}"),  # (slowest - fastest) / median of ours
    ("reference_extra", "reference extra MiB", "{:.0f}"),
    ("ours_extra", "ours extra MiB", "{:.0f}"),
    ("roofline", "roofline", "{:.0%}"),  # share of our time
    ("per_second", "per second", "{:.1f}"),  # samples
)


def result(case: Case, measured: Measured, rates: Rates, devices: int) -> dict:
    """A row's values by the keys of ``COLUMNS``, and all seconds; None: not measured.

    "ours" may be missing in ``measured``; ``rates`` are those of one of the devices.
    """
    medians = {form: statistics.median(s) for form, s in measured.seconds.items()}
    reference, ours = (medians.get(form) for form in FORMS)
    times = measured.seconds["reference" if ours is None else "ours"]
    median = statistics.median(times)
    values = unmeasured(case, "") | {
        "reference": reference,
        "ours": ours,
        "spread": (max(times) - min(times)) / median,
        "reference_extra": measured.extra.get("reference"),
        "ours_extra": measured.extra.get("ours"),
        "roofline": roofline(case.work(), rates) / devices / median,
        "per_second": None if case.samples is None else case.samples / median,
        "seconds": measured.seconds,
    }
    if reference is not None and ours is not None:
        base = measured.seconds["reference"]
        base = base * (len(times) // len(base))  # one slow call, against each
        ratios = [a / b for a, b in zip(base, times, strict=True)]
        values |= {"ratio": reference / ours, "ratios": (min(ratios), max(ratios))}
    return values


def unmeasured(case: Case, note: str) -> dict[str, Any]:
    """The result of a case without values, and why."""
    values = dict.fromkeys(key for key, *_ in COLUMNS)
    return {"name": case.name, **values, "note": note, "seconds": {}}


def heading() -> str:
    """The table's first two lines."""
    heads = ["", *(head for _, head, _ in COLUMNS)]
    return f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"


def row(values: dict[str, Any]) -> str:
    """A line of the Markdown table."""
    cells = [
        "-" if values[key] is None else form.format(values[key])
        for key, _, form in COLUMNS
    ]
    note = f" ({values['note']})" if values["note"] else ""
    return f"| {' | '.join([values['name'] + note, *cells])} |"


def measure_case(case: Case, setting: Setting, repeats: int, rates: Rates) -> dict:
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
