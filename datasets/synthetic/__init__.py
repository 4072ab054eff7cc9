"""Labelled synthetic data in the formats of the four real data sets.

This folder holds procedural shapes and what writes them to files; training imports
none of it. Reading order: this file (the command), write.py (file formats), shapes.py
and the categories (furniture.py, handheld.py, vehicles.py), primitives.py, render.py,
scans.py, preview.py.

    python -m datasets.synthetic --out DIR --shapes 1024 --seed 0
    python -m datasets.synthetic --preview sheet.png

DIR then serves as ``--data_root`` of every script. A shape depends only on the seed,
its data set and its index, so the files are the same bytes for any number of worker
processes. ``DIR/manifest.json`` is written last: a folder that has it is complete.
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

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from datasets.prepare import pack as packed
from datasets.synthetic import write
from datasets.synthetic.preview import contact_sheet
from datasets.synthetic.shapes import CATEGORIES

# Increase when the same arguments give other bytes.
VERSION = 4

_NAME = "datasets.synthetic"


def split_sizes(shapes: int) -> dict[str, dict[str, int]]:
    """Shapes per data set and split; HDF5 sets have at least one per category."""
    full, half, quarter, eighth = (
        max(shapes // k, len(CATEGORIES)) for k in (1, 2, 4, 8)
    )
    return {
        write.SHAPENET: {"all": shapes},
        write.MODELNET: {"train": full, "test": half},
        write.SCANS: {"train": full, "test": full},
        write.PARTS: {"train": full, "val": eighth, "test": quarter},
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
        out: output folder; it is complete or not there at all.
        shapes: rendered shapes; the sizes of the other sets follow (``split_sizes``).
        seed: random seed.
        workers: processes, by default one per CPU core; does not change the data.
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
    """Whether ``out`` already holds this data; raises if it must not be replaced."""
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
    hidden = None if progress else True  # None: hidden unless stderr is a terminal
    bar = tqdm(total=total, unit="shape", disable=hidden, dynamic_ncols=True)
    files: dict[str, list] = {}
    with bar, _mapper(workers) as run:
        for name, split in write.STREAMS:
            bar.set_description(f"{name} {split}", refresh=False)
            stream, count = write.STREAMS[name, split], sizes[name][split]
            rows = []
            for row in run([(name, str(root), seed, stream, i) for i in range(count)]):
                rows.append(row)
                bar.update()
            if name == write.SHAPENET:
                files |= write.tree_entries(rows)
            else:
                write.write_split(root, name, split, rows)
                paths = sorted(p for p in (root / name).rglob("*") if p.is_file())
                files[name] = [write.file_entry(root, path) for path in paths]
    sizes[write.RENDERING] = sizes[write.SHAPENET]
    sets = {
        name: {"counts": sizes[name], "files": files[name]} for name in sorted(files)
    }
    manifest = {"generator": _NAME, "version": VERSION, "shapes": shapes, "seed": seed}
    content = json.dumps(manifest | {"datasets": sets}, indent=1) + "\n"
    (root / "manifest.json").write_text(content)


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """A map over jobs that keeps their order, on ``workers`` processes."""
    if workers == 1:
        yield lambda jobs: map(write.make_row, jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _start_worker)
    try:
        yield lambda jobs: pool.map(write.make_row, jobs, chunksize=4)
    finally:
        # Waits, so that no worker writes into a folder that is being removed.
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal, but only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)  # the processes already share the cores


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic",
        description="Write synthetic data in the formats of the four real data sets.",
    )
    add = parser.add_argument
    add("--out", type=Path, help="output folder, a --data_root")
    add("--shapes", type=int, default=480, help="rendered shapes (default: 480)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    workers = "processes; does not change the data (default: one per core)"
    add("--workers", type=int, help=workers)
    add("--preview", type=Path, metavar="FILE.png", help="write a contact sheet")
    add(
        "--pack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write the rendered shapes in the packed form, which pre-training "
        "reads several times as fast (default: yes)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run of this generator left in --out",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a bad argument gives one message and exit status 2."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.out is None and args.preview is None:
        parser.error("nothing to do: give --out or --preview, or both")
    # SIGTERM then removes the incomplete folder as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.preview is not None:
            contact_sheet(args.preview, args.seed, write.PREVIEW_STREAM)
            print(f"contact sheet: {args.preview}")
        if args.out is not None:
            size = args.out, args.shapes, args.seed, args.workers
            made = generate(*size, overwrite=args.overwrite, pack=args.pack)
            state = "written to" if made else "already in"
            note = "" if made else ", not checked; --overwrite writes them again"
            print(f"{args.shapes} shapes of seed {args.seed} {state} {args.out}{note}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except BrokenProcessPool:
        sys.exit("a worker process died (out of memory?): try fewer --workers")
    except KeyboardInterrupt:
        sys.exit(130)
