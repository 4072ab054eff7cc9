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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from datasets.files import GENERATE, download
from datasets.prepare.inventory import MANIFEST, TITLES, Inventory, Job, Line


def do_jobs(jobs: Sequence[Job], workers: int) -> None:
    """Run every job with a progress bar, and add what it found to its lines."""
    total = sum(job.items for job in jobs)
    # disable=None: no bar without a terminal
    with (
        tqdm(total=total, unit="item", disable=None, dynamic_ncols=True) as bar,
        _mapper(min(workers, len(jobs))) as run,
    ):
        work = [(job.function, job.arguments) for job in jobs]
        for job, found in zip(jobs, run(work), strict=True):
            for line, problems in zip(job.lines, found, strict=True):
                line.problems += problems
            bar.update(job.items)


def _do(work: tuple[Callable, tuple]) -> list:
    function, arguments = work
    return function(*arguments)


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    if workers <= 1:
        yield lambda work: map(_do, work)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _ignore_interrupt)
    try:
        yield lambda work: pool.map(_do, work)
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; only the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def table(lines: Sequence[Line]) -> str:
    """What was found and expected, and how much of it is damaged."""
    rows = [("data", "found", "expected", "damaged", "")]
    for line in lines:
        if line.found is None:
            rows.append((line.title, "absent", "", "", ""))
            continue
        fits = [(size, who) for size, who in line.expected if size == line.found]
        fits = fits[:1] or line.expected
        expected = " or ".join(f"{size:,} {who}" for size, who in fits)
        bad = len(line.problems)
        states = ["damaged"] * bool(bad) + ["size differs"] * line.differs
        state = ", ".join(states) or "ok"
        rows.append((line.title, f"{line.found:,}", expected or "-", f"{bad:,}", state))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def details(lines: Sequence[Line], show: int, any_size: bool) -> list[str]:
    """Paragraphs on what is damaged and on sizes that differ."""
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


def verify(
    data_root: Path,
    names: Sequence[str] = (),
    workers: int = 1,
    num_points: int | None = None,
    quick: bool = False,
    show: int = 20,
    any_size: bool = False,
) -> bool:
    """Check a data folder and print what was found.

    Args:
        data_root: the folder.
        names: data sets that must exist; none: whichever exist.
        workers: processes that read; what is printed does not depend on it.
        num_points: how many points every cloud must have at least; None for any number.
        quick: see `Inventory`.
        show: how many damaged files of every line are listed; 0 for all.
        any_size: whether sizes other than the expected ones are right.

    Returns:
        whether everything is in order.
    """
    inventory = Inventory(data_root, num_points, quick)
    for name in names or TITLES:
        inventory.add(name)
    do_jobs(inventory.jobs, workers)
    lines = inventory.lines
    nothing = len(inventory.absent) == len(TITLES)
    missing = inventory.absent if names or nothing else []
    print(f"{data_root}:\n{table(lines)}")
    for text in details(lines, show, any_size):
        print(f"\n{text}")
    wrong = [line for line in lines if line.problems or (line.differs and not any_size)]
    to_get = {*inventory.absent, *(line.archive for line in wrong)}
    if to_get - {""}:
        print("\nhow to get what is absent, damaged or missing:")
        for name in TITLES:
            if name in to_get:
                print(f"  {TITLES[name]}: {download(name)}")
        again = " --overwrite" if (Path(data_root) / MANIFEST).is_file() else ""
        print(f"  synthetic data: {GENERATE}{again}")
    good = not wrong and not missing
    print("\neverything is in order" if good else "\nnot everything is in order")
    return good


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_root", type=Path, default=Path("data"), help="(default: data)"
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        choices=list(TITLES),
        default=[],
        metavar="NAME",
        help=f"check these alone: {', '.join(TITLES)} (default: all that are there)",
    )
    parser.add_argument(
        "--num_points",
        type=int,
        help="a cloud with fewer points is damaged (default: any number will do)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="decode one picture of every shape, not all, and leave out checksums",
    )
    parser.add_argument(
        "--any_size",
        action="store_true",
        help="sizes that differ from the published ones are right: a subset, own data",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=20,
        metavar="N",
        help="damaged files to list of each line of the table, 0 for all (default: 20)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        help="processes that read; they never change the table (default: one a core)",
    )
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
        good = verify(
            args.data_root,
            args.dataset,
            args.workers,
            args.num_points,
            args.quick,
            args.show,
            args.any_size,
        )
    except BrokenProcessPool:
        sys.exit("a reading process died (out of memory?): try --workers 1")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
