"""Check every file of a data folder: what is there, what is missing, what is damaged.

    python -m datasets.verify --data_root data
    python -m datasets.verify --data_root data --dataset modelnet40 shapenetpart
    python -m datasets.verify --data_root data --quick

Every cloud and every image is read by the functions that training reads them with.
Sizes are compared with the published ones and with those in the manifest that
`datasets.synthetic` writes. A data set that is absent is wrong only where --dataset
names it, or where no other exists. Exit status: 0 if everything is in order, 1 if
not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from datasets.files import GENERATE, download
from datasets.prepare.inventory import MANIFEST, TITLES, Inventory, Line, Problem


def run_jobs(lines: Sequence[Line], workers: int) -> None:
    """Run the jobs of all lines with a progress bar, and note what they found."""
    jobs = [(line, job) for line in lines for job in line.jobs]
    workers = min(workers, len(jobs))
    with contextlib.ExitStack() as stack:
        each: Callable = map
        if workers > 1:
            # Ctrl-C reaches every process of the terminal; only the parent handles it.
            ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, context, *ignore)
            stack.callback(pool.shutdown, cancel_futures=True)
            each = pool.map
        # disable=None: no bar without a terminal
        bar = tqdm(total=len(jobs), unit="job", disable=None, dynamic_ncols=True)
        stack.enter_context(bar)
        found = each(_call, [job for _, job in jobs])
        for (line, _), problems in zip(jobs, found, strict=True):
            line.problems += problems
            bar.update()


def _call(job: Callable[[], list[Problem]]) -> list[Problem]:
    return job()


def table(lines: Sequence[Line]) -> str:
    """For every part: its size, the expected size, and the number of damaged files."""
    rows = [("data", "found", "expected", "damaged", "")]
    for line in lines:
        if line.found is None:
            rows.append((line.title, "absent", "", "", ""))
            continue
        fits = [(size, origin) for size, origin in line.expected if size == line.found]
        sizes = [f"{size:,} {origin}" for size, origin in fits[:1] or line.expected]
        states = ["damaged"] * bool(line.problems) + ["size differs"] * line.differs
        counts = f"{line.found:,}", " or ".join(sizes) or "-", f"{len(line.problems):,}"
        rows.append((line.title, *counts, ", ".join(states) or "ok"))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{v:<{a}}  {w:>{b}}  {x:<{c}}  {y:>{d}}  {z}".rstrip()
        for v, w, x, y, z in rows
    )


def details(lines: Sequence[Line], show: int, any_size: bool) -> list[str]:
    """The damaged files of every part, and the parts of another size."""
    texts = []
    for line in lines:
        if line.problems:
            shown = line.problems[:show] if show else line.problems
            text = [f"{line.title}: {len(line.problems)} damaged"]
            text += [f"  {path}: {problem}" for path, problem in shown]
            if len(shown) < len(line.problems):
                text.append(f"  ... {len(line.problems) - len(shown)} more: --show 0")
            texts.append("\n".join(text))
    differing = [line.title for line in lines if line.differs]
    if differing and not any_size:
        texts.append(
            f"other sizes than expected: {', '.join(differing)}.\n"
            "  This alone is no damage: a subset, or data of your own, may be used as\n"
            "  it is, and --any_size accepts it. Otherwise something is missing."
        )
    return texts


def verify(args: argparse.Namespace) -> bool:
    """Check a data folder, print what was found, and return whether all is well."""
    inventory = Inventory(args.data_root, args.num_points, args.quick)
    for name in args.dataset or TITLES:
        inventory.add(name)
    lines, absent = inventory.lines, inventory.absent
    run_jobs(lines, args.workers)
    print(f"{args.data_root}:\n{table(lines)}")
    for text in details(lines, args.show, args.any_size):
        print(f"\n{text}")
    wrong = [x for x in lines if x.problems or (x.differs and not args.any_size)]
    to_get = {*absent, *(line.archive for line in wrong)}
    if to_get - {""}:
        print("\nhow to get what is absent, damaged or missing:")
        for name in TITLES:
            if name in to_get:
                print(f"  {TITLES[name]}: {download(name)}")
        again = " --overwrite" if (args.data_root / MANIFEST).is_file() else ""
        print(f"  synthetic data: {GENERATE}{again}")
    missing = absent and (args.dataset or len(absent) == len(TITLES))
    good = not wrong and not missing
    print("\neverything is in order" if good else "\nnot everything is in order")
    return good


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m datasets.verify", description=__doc__, formatter_class=formatter
    )
    add = parser.add_argument
    add("--data_root", type=Path, default=Path("data"), help="(default: data)")
    text = f"check these alone: {', '.join(TITLES)} (default: all that are there)"
    names = list(TITLES)
    add("--dataset", nargs="+", choices=names, default=[], metavar="NAME", help=text)
    text = "a cloud with fewer points is damaged (default: any number will do)"
    add("--num_points", type=int, help=text)
    text = "decode one picture of every shape, not all, and leave out checksums"
    add("--quick", action="store_true", help=text)
    text = "sizes that differ from the published ones are right: a subset, own data"
    add("--any_size", action="store_true", help=text)
    text = "damaged files to list of each line of the table, 0 for all (default: 20)"
    add("--show", type=int, default=20, metavar="N", help=text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    text = "processes that read; they never change the table (default: one a core)"
    add("--workers", type=int, default=cores, help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.workers < 1 or args.show < 0 or (args.num_points or 1) < 1:
        parser.error("--workers and --num_points are at least 1, --show at least 0")
    if not args.data_root.is_dir():
        print(f"--data_root {args.data_root}: there is no such folder", file=sys.stderr)
        sys.exit(1)
    # Names of files and keys may hold bytes that no terminal shows.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(0 if verify(args) else 1)
    except BrokenProcessPool:
        sys.exit("a reading process died (out of memory?): try --workers 1")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
