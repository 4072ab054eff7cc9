"""Labelled synthetic data in the formats of the four real data sets.

What belongs here: procedural shapes and the files made of them; nothing that training
imports. In the order in which to read the files: this one (the command), write.py (the
data sets), shapes.py and the categories (furniture.py, ...), parts.py (building
blocks), render.py and scans.py (images and scans of shapes), preview.py.

    python -m datasets.synthetic --out DIR --shapes 1024 --seed 0
    python -m datasets.synthetic --preview sheet.png

DIR then serves as ``--data_root`` of every script. Each shape is a function of the
seed, its data set and its number alone, so the files are the same bytes whatever the
number of worker processes. ``DIR/manifest.json`` is written last: a folder that has it
is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from datasets.prepare import pack as packed
from datasets.synthetic import write
from datasets.synthetic.preview import contact_sheet
from datasets.synthetic.shapes import CATEGORIES

# Raise it whenever the same arguments give other bytes.
VERSION = 3

_NAME = "datasets.synthetic"


def split_sizes(shapes: int) -> dict[str, dict[str, int]]:
    """Number of shapes per data set and split; the HDF5 sets have one a category."""
    half = max(shapes // 2, len(CATEGORIES))
    full = max(shapes, len(CATEGORIES))
    return {
        write.SHAPENET: {"all": shapes},
        write.MODELNET: {"train": full, "test": half},
        write.SCANS: {"train": full, "test": full},
        write.PARTS: {
            "train": full,
            "val": max(shapes // 8, len(CATEGORIES)),
            "test": max(shapes // 4, len(CATEGORIES)),
        },
    }


def generate(
    out: str | os.PathLike,
    shapes: int,
    seed: int,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    pack: bool = False,
) -> bool:
    """Write the four data sets under ``out``.

    Args:
        out: the folder to make; it appears whole or not at all.
        shapes: rendered shapes; the other sets are sized after it (``split_sizes``).
        seed: everything random follows from it.
        workers: processes, by default one a CPU core. It does not change the data.
        progress: show a progress bar on standard error.
        overwrite: replace what an earlier run of this generator wrote to ``out``.
        pack: also write the packed form of the rendered shapes (`datasets.packed`).

    Returns:
        False if ``out`` already held exactly this data and nothing was done.

    Raises:
        FileExistsError: if ``out`` holds anything else.
        ValueError: if a number is out of range.
    """
    if shapes < 1 or seed < 0 or (workers is not None and workers < 1):
        raise ValueError(
            "shapes and workers must be at least 1 and the seed at least 0, got "
            f"{shapes}, {workers} and {seed}"
        )
    out = Path(out).resolve()
    if _is_made(out, shapes, seed, overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        partial.mkdir()
        _write_all(partial, shapes, seed, workers or _cores(), progress)
        if pack:
            packed.pack(partial, progress=progress)
        if out.exists():
            out.rename(old)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    return True


def _is_made(out: Path, shapes: int, seed: int, overwrite: bool) -> bool:
    """Whether ``out`` already is what is asked for; an error if it may not be."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        ours = manifest["generator"] == _NAME
        have = (manifest["version"], manifest["shapes"], manifest["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"{out} holds something that this generator did not write; it is never "
            "overwritten (not by --overwrite either): choose another --out"
        )
    if overwrite:
        return False
    if have != (VERSION, shapes, seed):
        raise FileExistsError(
            f"{out} holds synthetic data of (version, shapes, seed) {have}, not "
            f"{(VERSION, shapes, seed)}: choose another --out, or replace it with "
            "--overwrite"
        )
    return True


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_all(
    root: Path, shapes: int, seed: int, workers: int, progress: bool
) -> None:
    sizes = split_sizes(shapes)
    total = sum(sum(splits.values()) for splits in sizes.values())
    hidden = None if progress else True  # None: hidden where there is no terminal
    bar = tqdm(total=total, unit="shape", disable=hidden, dynamic_ncols=True)
    with bar, _mapper(workers) as run:

        def rows(name: str, split: str) -> Iterator:
            bar.set_description(f"{name} {split}", refresh=False)
            stream = write.STREAMS[name, split]
            jobs = [
                (name, str(root), seed, stream, i) for i in range(sizes[name][split])
            ]
            for row in run(jobs):
                bar.update()
                yield row

        files = write.tree_entries(rows(write.SHAPENET, "all"))
        for name, write_split in (
            (write.MODELNET, write.write_modelnet),
            (write.SCANS, write.write_scans),
            (write.PARTS, write.write_parts),
        ):
            for split in sizes[name]:
                write_split(root / name, split, list(rows(name, split)))
            paths = sorted(p for p in (root / name).rglob("*") if p.is_file())
            files[name] = [write.file_entry(root, path) for path in paths]
    sizes[write.RENDERING] = sizes[write.SHAPENET]
    manifest = {
        "generator": _NAME,
        "version": VERSION,
        "shapes": shapes,
        "seed": seed,
        "datasets": {
            name: {"counts": sizes[name], "files": files[name]}
            for name in sorted(files)
        },
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """A function that maps jobs to rows in their order, on ``workers`` processes."""
    if workers == 1:
        yield lambda jobs: map(write.make_row, jobs)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _ignore_interrupt
    )
    # One thread each: the processes already share the cores. Children read it at start.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield lambda jobs: pool.map(write.make_row, jobs, chunksize=4)
    finally:
        # Waits, so that no worker writes into a folder that is being removed.
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _ignore_interrupt() -> None:
    """Ctrl-C reaches every process of the terminal; the parent alone deals with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic",
        description="Write synthetic data in the formats of the four real data sets.",
    )
    parser.add_argument("--out", type=Path, help="folder to make, a --data_root")
    parser.add_argument(
        "--shapes", type=int, default=480, help="rendered shapes (default: 480)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything (default: 0)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes; never changes the data (default: one a core)",
    )
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="write a contact sheet"
    )
    parser.add_argument(
        "--pack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write the rendered shapes in the packed form, which pre-training "
        "reads several times as fast (default: yes)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run of this generator left in --out",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit status 2 with one message where it cannot."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.out is None and args.preview is None:
        parser.error("nothing to do: give --out or --preview, or both")
    # A polite kill then removes the half-written folder as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.preview is not None:
            contact_sheet(args.preview, args.seed, write.PREVIEW_STREAM)
            print(f"contact sheet: {args.preview}")
        if args.out is not None:
            made = generate(
                args.out,
                args.shapes,
                args.seed,
                args.workers,
                overwrite=args.overwrite,
                pack=args.pack,
            )
            state = "written to" if made else "already in"
            note = "" if made else ", not checked; --overwrite writes them anew"
            print(f"{args.shapes} shapes of seed {args.seed} {state} {args.out}{note}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except BrokenProcessPool:
        sys.exit("a worker process died (out of memory?): try fewer --workers")
    except KeyboardInterrupt:
        sys.exit(130)
