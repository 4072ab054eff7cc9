"""Is it right, and fast, on this machine's GPU?

    python -m benchmarks.gpu [--device cpu] [--minutes 8] [--only NAME] [--out DIR]

Four sections: exactness of the fused form, whole runs of the script, speed, an epoch. A
line each: PASS, FAIL, MEASURED (numbers, which cannot fail), or NOT RUN and why. DIR
gets gpu.md and gpu.json after every row. A second call with the same source, device and
versions continues there: what passed or was measured is not run again. The exit status
is 1 if a row failed. See docs/gpu.md.
"""

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu import exact, runs, speed
from benchmarks.gpu.exact import NotRun, Place
from utils.run import cli
from utils.run.flags import positive_float
from utils.run.logger import describe_environment

ROOT = Path(__file__).resolve().parents[2]


# Rows of a section, and the part of the minutes at which it ends: a slow section leaves
# time to the later ones, a quick one leaves them more.
SECTIONS: dict[str, tuple[Callable[[bool], Iterable], float]] = {
    "exactness": (lambda gpu: (*exact.rows(gpu), *speed.step_checks(gpu)), 0.35),
    "runs": (runs.runs, 0.55),
    "speed": (lambda gpu: (*speed.rows(gpu), *speed.step_speeds(gpu)), 0.8),
    "epoch": (runs.epochs, 1.0),
}
DONE = ("PASS", "MEASURED")
OUT_OF_TIME = "out of time"
GRACE = 20.0  # seconds after which a process that does not answer is killed


class Row(NamedTuple):
    section: str
    name: str
    run: Callable[[Place], Any]


def all_rows(gpu: bool) -> list[Row]:
    """Every row for a GPU or a CPU, in order."""
    return [Row(s, *row) for s, (rows, _) in SECTIONS.items() for row in rows(gpu)]


class OutOfTime(BaseException):  # nothing on the way may catch it
    pass


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after this many seconds."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def result(row: Row, state: str, text: str, seconds: float = 0.0) -> dict[str, Any]:
    where = {"section": row.section, "name": row.name}
    return {**where, "state": state, "text": text, "seconds": seconds}


def run_row(row: Row, place: Place) -> dict[str, Any]:
    """Its state, a text, seconds, and the numbers or the traceback."""
    start, extra = time.perf_counter(), dict[str, Any]()
    try:
        with time_limit(place.seconds):
            outcome = row.run(place)
        state, text = "PASS", outcome
        if isinstance(outcome, dict):
            state, text, extra = "MEASURED", outcome.pop("text"), {"values": outcome}
    except NotRun as reason:
        state, text = "NOT RUN", str(reason)
    except OutOfTime:
        state, text = "NOT RUN", f"{OUT_OF_TIME}: stopped after {place.seconds:.0f} s"
    except torch.OutOfMemoryError as error:
        state, text = "NOT RUN", str(error).split(". ")[0]
    except Exception as error:  # whatever is wrong in a row is its result
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        state, text = "FAIL", (kind + " ".join(str(error).split()))[:500]
        extra = {"traceback": traceback.format_exc()}
    if place.gpu and "CUDA error" not in text:
        torch.cuda.empty_cache()
    return result(row, state, text, time.perf_counter() - start) | extra


def serve(pipe: Any) -> None:
    """Run the rows that come through a pipe."""
    while True:
        pipe.send(run_row(*pipe.recv()))


class Worker:
    """Runs rows in a process of its own: one that crashes or hangs costs one row."""

    process: Any = None

    def __call__(self, row: Row, place: Place) -> dict[str, Any]:
        start, text = time.perf_counter(), "its process hung and was killed"
        if self.process is None:
            spawn = multiprocessing.get_context("spawn")
            self.pipe, other = spawn.Pipe()
            # Not a daemon, which may have no processes of its own.
            self.process = spawn.Process(target=serve, args=(other,))
            self.process.start()
            other.close()
        self.pipe.send((row, place))
        try:
            if self.pipe.poll(place.seconds + GRACE):
                outcome = self.pipe.recv()
                if "CUDA error" in outcome["text"]:  # every later row would fail too
                    self.close()
                return outcome
        except EOFError:
            self.process.join()
            text = f"its process ended with exit code {self.process.exitcode}"
        self.close()
        return result(row, "FAIL", text, time.perf_counter() - start)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def describe(device: torch.device) -> dict[str, str]:
    """What is there; results of an earlier call hold only where all of it is equal."""
    environment = describe_environment() | {"device": device.type}
    environment["cuda"] = str(torch.version.cuda)
    for name in ("triton", "numba"):
        environment[name] = "none"
        with suppress(importlib.metadata.PackageNotFoundError):
            environment[name] = importlib.metadata.version(name)
    if device.type == "cuda":
        environment["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        query = "--query-gpu=name,driver_version,memory.total"
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        try:
            output = subprocess.run(command, capture_output=True, text=True)
            environment["gpus"] = "; ".join(output.stdout.strip().splitlines())
        except OSError:
            environment["gpus"] = "nvidia-smi is not there"
    # The commit does not tell everything: there may be changes, or no git.
    digest = hashlib.sha256()
    for folder in ("models/**/", "datasets/**/", "utils/**/", "benchmarks/**/", ""):
        for path in sorted(ROOT.glob(f"{folder}*.py")):
            digest.update(path.read_bytes())
    return environment | {"source": digest.hexdigest()[:12]}


def write(out: Path, environment: dict[str, str], results: list[dict]) -> str:
    """gpu.json and gpu.md; returns the latter."""
    content = json.dumps({"environment": environment, "rows": results}, indent=1)
    (out / "gpu.json").write_text(content + "\n")

    def line(*cells: str) -> str:
        return f"| {' | '.join(cell.replace('|', '¦') for cell in cells)} |"

    lines = [f"- {name}: {value}" for name, value in environment.items()]
    lines += ["", line("section", "row", "state", "result", "s"), "|---" * 5 + "|"]
    for r in results:
        cells = (r["section"], r["name"], r["state"], r["text"])
        lines.append(line(*cells, f"{r['seconds']:.1f}"))
    for r in results:
        if longest := r.get("values", {}).get("longest"):
            lines += ["", f"Longest in {r['name']}:", ""]
            lines += [line("", "ms", "share"), "|---" * 3 + "|"]
            lines += [line(n, f"{ms:.2f}", f"{share:.0%}") for n, ms, share in longest]
    text = "\n".join(lines) + "\n"
    (out / "gpu.md").write_text(text, encoding="utf-8")
    return text


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    out = "checkpoints/gpu"
    add("--out", type=Path, default=out, metavar="DIR", help=f"(default: {out})")
    add("--minutes", type=positive_float, default=8.0, help="time limit (default: 8)")
    only = "only rows whose section or name contains it"
    add("--only", default="", metavar="NAME", help=only)
    kinds = "(default: cuda if there is a GPU)"
    add("--device", choices=("cpu", "cuda"), default=None, help=kinds)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    start, has_gpu = time.monotonic(), torch.cuda.is_available()
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.device == "cuda" and not has_gpu:
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    device = torch.device(args.device or ("cuda" if has_gpu else "cpu"))
    rows = all_rows(device.type == "cuda")
    chosen = [row for row in rows if args.only in f"{row.section}: {row.name}"]
    if not chosen:
        names = "; ".join(f"{row.section}: {row.name}" for row in rows)
        parser.error(f"--only {args.only}: the rows are {names}")
    out, environment = args.out.resolve(), describe(device)
    out.mkdir(parents=True, exist_ok=True)
    for name, value in environment.items():
        print(f"{name:<12} {value}", flush=True)
    results: dict[tuple[str, ...], dict[str, Any]] = {}
    if (out / "gpu.json").is_file():
        before = json.loads((out / "gpu.json").read_text())
        if before["environment"] == environment:
            results = {(r["section"], r["name"]): r for r in before["rows"]}
    due = [row for row in chosen if results.get(row[:2], {}).get("state") not in DONE]
    for row in due:
        results.pop(row[:2], None)
    # By sections, and in the time that is left those that had not enough.
    queue = [(row, SECTIONS[row.section][1]) for row in due]
    queue += [(row, 1.0) for row in due]
    with closing(Worker()) as worker:
        run = worker if device.type == "cuda" else run_row
        for row, part in queue:
            seconds = start + 60 * args.minutes * part - time.monotonic()
            if row.section in ("exactness", "speed"):
                seconds /= 2  # one that hangs leaves time to the section's others
            before = results.get(row[:2])
            if before and (OUT_OF_TIME not in before["text"] or seconds < 1):
                continue
            outcome = result(row, "NOT RUN", OUT_OF_TIME)
            if seconds >= 1:
                outcome = run(row, Place(device, out, seconds))
            results[row[:2]] = outcome
            write(out, environment, [results[r[:2]] for r in rows if r[:2] in results])
            line = f"{outcome['state']:<8} {row.section}: {row.name}: {outcome['text']}"
            print(f"{line} ({outcome['seconds']:.1f} s)", flush=True)
    ordered = [results[r[:2]] for r in rows if r[:2] in results]
    print(f"\n{write(out, environment, ordered)}")
    states = Counter(r["state"] for r in ordered)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    print(f"{counts}; {out / 'gpu.md'}")
    return int(states["FAIL"] > 0)
