"""How the benchmarks measure: turns, memory, the machine's rates, rows of the table.

A case gives up to two forms of the same work, the plain reference and what is used
here. They take turns, so that other work on the machine slows both down.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from utils.parallel.memory import keep_freed_memory
from utils.run.training import Precision

FORMS = ("reference", "ours")
Forms = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Setting:
    """Device and precision of a case; pickled for other processes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "fp32"

    def arithmetic(self) -> Precision:
        """Autocast and the backward pass of ``--precision``."""
        return Precision(self.precision, self.device)


@dataclass(frozen=True)
class Work:
    """The least work of a case, however it is written.

    Attributes:
        operations: floating-point operations of its matrix products.
        moved: bytes read from memory and written to it.
        double: whether the products are in float64.
    """

    operations: float = 0.0
    moved: float = 0.0
    double: bool = False

    def __add__(self, other: Work) -> Work:
        assert self.double == other.double  # products have one rate
        both = self.operations + other.operations, self.moved + other.moved
        return Work(*both, self.double)


@dataclass(frozen=True)
class Rates:
    """What the machine does in a second.

    Attributes:
        product: floating-point operations of a large product in the chosen precision.
        double: the same in float64.
        copied: bytes read and written by a copy larger than the caches.
    """

    product: float
    double: float
    copied: float

    def of(self, devices: int) -> Rates:
        """The rates of several devices together."""
        return Rates(*(devices * rate for rate in astuple(self)))


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: what ``--only`` searches.
        make: Setting -> the forms; picklable where ``processes`` is not 0.
        work: of one call of a form.
        samples: clouds, pairs or shapes of one call.
        processes: number of processes started for the case, 0 for this process.
        threads: of each of them; 0 for as many as here.
        slow: the reference takes minutes: it is called once, without a warm-up.
        gib: free memory needed.
        devices: kinds of device that it runs on.
        keeps: forms that keep freed memory on the CPU, as the scripts do.
    """

    name: str
    make: Callable[[Setting], Forms]
    work: Callable[[], Work]
    samples: int | None = None
    processes: int = 0
    threads: int = 0
    slow: bool = False
    gib: float = 0.0
    devices: tuple[str, ...] = ("cpu", "cuda")
    keeps: tuple[str, ...] = ("ours",)


@dataclass(frozen=True)
class Measured:
    """Seconds of every call by form, and the MiB above those before the first one."""

    seconds: dict[str, list[float]]
    extra: dict[str, float | None]


@dataclass(frozen=True)
class Result:
    """A row's values."""

    name: str
    reference: float | None = None  # median seconds
    ours: float | None = None
    ratio: float | None = None  # of the medians
    ratios: tuple[float, float] | None = None  # of single turns, lowest and highest
    spread: float | None = None  # (slowest - fastest) / median of ours
    reference_extra: float | None = None  # MiB
    ours_extra: float | None = None
    floor: float | None = None  # share of our time
    per_second: float | None = None  # samples
    note: str = ""
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)


# The only functions that know devices.


def find_device(name: str) -> torch.device:
    """The device of ``--device``; a ValueError that names the flag if there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return torch.device(name)


def synchronise(device: torch.device) -> None:
    """Wait for the device, and for the other processes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.barrier()


def extra_memory(device: torch.device, run: Callable[[], object]) -> float | None:
    """MiB at the peak of ``run`` above those before: allocated on a GPU, resident on a
    CPU; None where the system does not say."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # memory kept from earlier calls would hide this one's
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
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
    size *= 4 if device.type == "cuda" else 1

    def rate(amount: float, run: Callable[[], object]) -> float:
        timed(run, device)
        return amount / statistics.median(timed(run, device) for _ in range(7))

    def product(dtype: torch.dtype) -> float:
        a = torch.randn(size, size, device=device, dtype=dtype)
        return rate(2 * size**3, lambda: torch.mm(a, a))

    half = setting.precision == "bf16"
    source = torch.ones(floats, device=device)
    target = torch.empty_like(source)
    return Rates(
        product(torch.bfloat16 if half else torch.float32),
        product(torch.float64),
        rate(2 * 4 * floats, lambda: target.copy_(source)),
    )


def floor(work: Work, rates: Rates) -> float:
    """The least seconds that the machine needs for the work."""
    product = rates.double if work.double else rates.product
    return max(work.operations / product, work.moved / rates.copied)


def take_turns(
    forms: Forms, repeats: int, device: torch.device, case: Case
) -> Measured:
    """Measure memory and then time, the forms in turn, after calls to warm up."""
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    extra: dict[str, float | None] = {}
    for form, run in forms.items():
        keep_freed_memory(form in case.keeps)
        if case.slow and form == "reference":
            start = time.perf_counter()
            extra[form] = extra_memory(device, run)
            seconds[form].append(time.perf_counter() - start)
            continue
        run()  # compiles, fills caches
        extra[form] = extra_memory(device, run)
        run()  # allocates what that has trimmed
    for _ in range(repeats):
        for form, run in forms.items():
            keep_freed_memory(form in case.keeps)
            if not (case.slow and form == "reference"):
                seconds[form].append(timed(run, device))
    return Measured(seconds, extra)


def result(case: Case, measured: Measured, rates: Rates) -> Result:
    """The values of a case's row."""
    medians = {form: statistics.median(s) for form, s in measured.seconds.items()}
    reference, ours = (medians.get(form) for form in FORMS)
    used = "ours" if ours is not None else "reference"
    own, median = measured.seconds[used], medians[used]
    ratio = ratios = None
    if reference is not None and ours is not None:
        theirs = measured.seconds["reference"]
        theirs = theirs * (len(own) // len(theirs))  # one slow call, against each
        pairs = [a / b for a, b in zip(theirs, own, strict=True)]
        ratio, ratios = reference / ours, (min(pairs), max(pairs))
    return Result(
        *(case.name, reference, ours, ratio, ratios),
        spread=(max(own) - min(own)) / median,
        reference_extra=measured.extra.get("reference"),
        ours_extra=measured.extra.get("ours"),
        floor=floor(case.work(), rates) / median,
        per_second=None if case.samples is None else case.samples / median,
        seconds=measured.seconds,
    )


HEADS = (
    *("", "reference s", "ours s", "ratio", "lowest - highest", "spread"),
    *("reference extra MiB", "ours extra MiB", "floor", "a second"),
)


def heading() -> str:
    """The table's first two lines."""
    return f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}"


def row(of: Result) -> str:
    """A line of the Markdown table."""
    ratios = "-" if of.ratios is None else "{:.2f} - {:.2f}".format(*of.ratios)
    numbers = [
        "-" if value is None else format(value, form)
        for value, form in (
            *((of.reference, ".3f"), (of.ours, ".3f"), (of.ratio, ".2f")),
            *((of.spread, ".0%"), (of.reference_extra, ".0f"), (of.ours_extra, ".0f")),
            *((of.floor, ".0%"), (of.per_second, ".1f")),
        )
    ]
    name = f"{of.name} ({of.note})" if of.note else of.name
    return f"| {' | '.join([name, *numbers[:3], ratios, *numbers[3:]])} |"
