"""Check every file of a data folder: what exists, what is missing, what is damaged.

    python -m datasets.verify --data_root data
    python -m datasets.verify --data_root data --dataset modelnet40 shapenetpart
    python -m datasets.verify --data_root data --quick
    python -m datasets.verify --data_root data --set_aside

Every cloud and every image is read by the functions that training reads them with.
Sizes are compared with the published ones and with those in the manifest that
`datasets.synthetic` writes. A data set that is absent is wrong only where --dataset
names it, or where no other exists. Exit status: 0 if all checks passed, 1 if not, 2 for
wrong arguments. --set_aside moves damaged images of ShapeNetRendering to the folder
ShapeNetRendering.damaged beside it. A shape keeps its other images, or all of them if
none is intact.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.files import GENERATE, PACKED, SHAPENET, download
from datasets.prepare.inventory import (
    ASIDE,
    MANIFEST,
    TITLES,
    Part,
    Problem,
    inventory,
)
from datasets.prepare.workers import results
from datasets.shapenet_files import list_images
from utils.parallel.machine import cores

DAMAGED = ("not a readable image", "the file is empty")  # how such a problem begins


def run_jobs(parts: Sequence[Part], workers: int) -> None:
    """Run the jobs of all parts with a progress bar, and note what they found."""
    owners = [part for part in parts for _ in part.jobs]
    jobs = [job for part in parts for job in part.jobs]
    with contextlib.closing(results(jobs, workers)) as read:
        # disable=None: no bar without a terminal
        bar = tqdm(read, total=len(jobs), unit="job", disable=None, dynamic_ncols=True)
        for part, (count, problems) in zip(owners, bar, strict=True):
            part.found = (part.found or 0) + count
            part.problems += problems


def table(parts: Sequence[Part]) -> str:
    """For every part: its size, the expected size, and the number of damaged files."""
    rows = [("data", "found", "expected", "damaged", "")]
    for part in parts:
        if part.found is None:
            rows.append((part.title, "absent", "", "", ""))
            continue
        sizes = [f"{size:,} {origin}" for origin, size in part.expected.items()]
        prefix = f"{part.found + part.aside:,} "
        fits = [text for text in sizes if text.startswith(prefix)][:1]
        states = ["damaged"] * bool(part.problems) + ["size differs"] * part.differs
        states += [f"{part.aside:,} set aside"] * bool(part.aside)
        counts = f"{part.found:,}", " or ".join(fits or sizes) or "-"
        damaged = f"{len(part.problems):,}"
        rows.append((part.title, *counts, damaged, ", ".join(states) or "ok"))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{v:<{a}}  {w:>{b}}  {x:<{c}}  {y:>{d}}  {z}".rstrip()
        for v, w, x, y, z in rows
    )


def details(parts: Sequence[Part], show: int, any_size: bool) -> Iterator[str]:
    """The damaged files of every part, and the parts of another size."""
    for part in parts:
        if part.problems:
            shown = part.problems[:show] if show else part.problems
            yield f"\n{part.title}: {len(part.problems)} damaged"
            yield from (f"  {path}: {problem}" for path, problem in shown)
            if len(shown) < len(part.problems):
                yield f"  ... {len(part.problems) - len(shown)} more: --show 0"
    differing = [part.title for part in parts if part.differs]
    if differing and not any_size:
        yield f"\nother sizes than expected: {', '.join(differing)}."
        yield "  This is not necessarily damage: if it is a subset, or your own data,"
        yield "  use it as it is and add --any_size. Otherwise something is missing."


def set_aside(parts: Sequence[Part], root: Path) -> None:
    """Move damaged images out of ShapeNetRendering, and print what was done.

    The parts no longer count what was moved. A shape without an intact image keeps all
    of them: training refuses a shape without images.
    """
    print("damaged images set aside:")
    moved = 0
    for part in parts:
        folders: dict[Path, list[Problem]] = {}
        for path, problem in part.problems:
            if Path(path).suffix.lower() == ".png" and problem.startswith(DAMAGED):
                folders.setdefault(Path(path).parent, []).append((path, problem))
        for folder, damaged in folders.items():
            shape = "/".join(folder.parts[-3:-1])
            remaining = len(list_images(root, shape)) - len(damaged)
            if not remaining:
                print(f"  {folder}: kept, since none of its images is intact: replace")
                print(f"    some, or delete it and {root / SHAPENET / shape}.ply")
                continue
            aside = root / ASIDE / shape
            aside.mkdir(parents=True, exist_ok=True)
            for path, problem in damaged:
                shutil.move(path, aside / Path(path).name)
                part.problems.remove((path, problem))
                print(f"  {path}: {problem}; moved to {aside}, {remaining} others stay")
            part.found = (part.found or 0) - len(damaged)
            part.aside += len(damaged)
            moved += len(damaged)
    print(f"  {moved} moved\n" if moved else "  none\n")
    if moved and (root / PACKED).exists():
        print(f"then: python -m datasets.packed --data_root {root} --overwrite\n")


def verify(args: argparse.Namespace) -> bool:
    """Check a data folder, print what was found, and return whether all is well."""
    parts = inventory(args)
    run_jobs(parts, args.workers)
    if args.set_aside:
        try:
            set_aside(parts, args.data_root)
        except OSError as error:
            sys.exit(f"--set_aside: {error}")
    print(f"{args.data_root}:\n{table(parts)}")
    for text in details(parts, args.show, args.any_size):
        print(text)
    present = {part.dataset for part in parts if part.found is not None}
    absent = [name for name in args.dataset or TITLES if name not in present]
    wrong = [x for x in parts if x.problems or (x.differs and not args.any_size)]
    needed = {*absent, *(part.dataset for part in wrong)}
    if needed - {""}:
        print("\nhow to get what is absent, damaged or missing:")
        for name in TITLES:
            if name in needed:
                print(f"  {TITLES[name]}: {download(name)}")
        flag = " --overwrite" if (args.data_root / MANIFEST).is_file() else ""
        print(f"  synthetic data: {GENERATE}{flag}")
    missing = absent and (args.dataset or len(absent) == len(TITLES))
    good = not wrong and not missing
    print("\nall checks passed" if good else "\nproblems found")
    return good


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m datasets.verify", description=__doc__, formatter_class=formatter
    )
    add = parser.add_argument
    add("--data_root", type=Path, default=Path("data"), help="(default: data)")
    text = f"check only these: {', '.join(TITLES)} (default: all that exist)"
    names = list(TITLES)
    add("--dataset", nargs="+", choices=names, default=[], metavar="NAME", help=text)
    text = "minimum points per cloud (default: none)"
    add("--num_points", type=int, help=text)
    text = "decode one image per shape instead of all, and skip checksums"
    add("--quick", action="store_true", help=text)
    text = f"move damaged images to {ASIDE} beside their folder, to train without them"
    add("--set_aside", action="store_true", help=text)
    text = "accept sizes other than the published ones: subsets, your own data"
    add("--any_size", action="store_true", help=text)
    text = "damaged files to list per line of the table, 0 for all (default: 20)"
    add("--show", type=int, default=20, metavar="N", help=text)
    text = "processes; does not change the table (default: one per core)"
    add("--workers", type=int, default=cores(), help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.workers < 1 or args.show < 0 or (args.num_points or 1) < 1:
        parser.error("--workers and --num_points are at least 1, --show at least 0")
    if args.set_aside and (args.quick or "shapenet" not in (args.dataset or TITLES)):
        parser.error("--set_aside needs shapenet in --dataset, and no --quick")
    if not args.data_root.is_dir():
        print(f"--data_root {args.data_root}: no such folder", file=sys.stderr)
        sys.exit(1)
    try:
        sys.exit(0 if verify(args) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
