"""Synthetic data: labelled shapes in the file formats of the four real data sets.

    python -m datasets.synthetic --out DIR --shapes 1024 --seed 0
    python -m datasets.synthetic --preview sheet.png

DIR is then the ``--data_root`` of every script. A shape depends on the seed, its data
set and its index alone, so the files are the same bytes for any number of workers.
``DIR/manifest.json`` is written last: a folder that has it is complete.

Files, in reading order:

    __init__.py                              the command
    write.py                                 a shape's points and images, the files
    shapes.py                                the 16 categories, sampling of surfaces
    furniture.py handheld.py vehicles.py     the shapes
    primitives.py                            boxes, tubes, lofts they are made of
    render.py scans.py preview.py            images, depth scans, the contact sheet
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets import packed
from datasets.files import MODELNET40, SCANOBJECTNN, SHAPENET, SHAPENETPART
from datasets.prepare.workers import results
from datasets.shapenet_part import CATEGORIES
from datasets.synthetic import write
from datasets.synthetic.preview import contact_sheet
from utils.parallel.machine import cores

# Increase when the same arguments give other bytes.
VERSION = 4


def splits(shapes: int) -> list[tuple[str, str, int]]:
    """Data set, split and number of shapes, at least one a category in HDF5 files.

    A split's index here is its random stream: no two splits share a shape.
    """
    full, half, quarter, eighth = (
        max(shapes // k, len(CATEGORIES)) for k in (1, 2, 4, 8)
    )
    return [
        (SHAPENET, "all", shapes),
        (MODELNET40, "train", full),
        (MODELNET40, "test", half),
        (SCANOBJECTNN, "train", full),
        (SCANOBJECTNN, "test", full),
        (SHAPENETPART, "train", full),
        (SHAPENETPART, "val", eighth),
        (SHAPENETPART, "test", quarter),
    ]


def generate(
    out: str | os.PathLike,
    shapes: int,
    seed: int,
    workers: int | None = None,
    overwrite: bool = False,
    pack: bool = False,
) -> bool:
    """Write the four data sets under ``out``, completely or not at all.

    Args:
        out: output folder.
        shapes: rendered shapes; the sizes of the other sets follow (``splits``).
        seed: random seed.
        workers: processes, by default one per CPU core; does not change the data.
        overwrite: replace what an earlier run of this generator wrote to ``out``.
        pack: also write the packed form of the rendered shapes (`datasets.packed`).

    Returns:
        False if ``out`` already held exactly this data and nothing was done.

    Raises:
        FileExistsError: if ``out`` holds anything else.
        ValueError: if a number is out of range.
    """
    if workers is None:
        workers = cores()
    if shapes < 1 or seed < 0 or workers < 1:
        raise ValueError(
            "shapes and workers must be at least 1 and the seed at least 0, got "
            f"{shapes}, {workers} and {seed}"
        )
    out = Path(out).resolve()
    if _is_written(out, _header(shapes, seed), overwrite):
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        new = Path(folder, "new")
        new.mkdir()
        _write_all(new, shapes, seed, workers)
        if pack:
            packed.pack(new)
        if out.exists():
            out.rename(Path(folder, "old"))
        new.rename(out)
    return True


def _header(shapes: int, seed: int) -> dict[str, Any]:
    """The part of the manifest that determines the data."""
    return {
        "generator": "datasets.synthetic",
        "version": VERSION,
        "shapes": shapes,
        "seed": seed,
    }


def _is_written(out: Path, header: dict[str, Any], overwrite: bool) -> bool:
    """Whether ``out`` already holds this data; raises if it must not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        existing = {key: manifest[key] for key in header}
    except (OSError, ValueError, KeyError, TypeError):
        existing = {"generator": None}
    if existing["generator"] != header["generator"]:
        raise FileExistsError(
            f"{out} holds something that this generator did not write; it is never "
            "overwritten (not by --overwrite either): choose another --out"
        )
    if existing != header and not overwrite:
        have, want = (tuple(of.values())[1:] for of in (existing, header))
        raise FileExistsError(
            f"{out} holds synthetic data of (version, shapes, seed) {have}, not "
            f"{want}: choose another --out, or replace it with --overwrite"
        )
    return not overwrite


def _write_all(root: Path, shapes: int, seed: int, workers: int) -> None:
    all_splits = splits(shapes)
    jobs = [
        partial(write.make_row, name, root, seed, stream, index)
        for stream, (name, _, count) in enumerate(all_splits)
        for index in range(count)
    ]
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    with contextlib.closing(results(jobs, workers)) as items:
        # disable=None: no bar without a terminal
        bar = tqdm(items, total=len(jobs), unit="shape", disable=None)
        rows = iter(bar)
        for name, split, count in all_splits:
            bar.set_description(f"{name} {split}", refresh=False)
            write.write_split(root, name, split, list(islice(rows, count)))
            sizes.setdefault(name, {"counts": {}})["counts"][split] = count
    manifest = _header(shapes, seed) | {"datasets": sizes}
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


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
            contact_sheet(args.preview, args.seed, stream=len(splits(1)))
            print(f"contact sheet: {args.preview}")
        if args.out is not None:
            size = args.out, args.shapes, args.seed, args.workers
            made = generate(*size, overwrite=args.overwrite, pack=args.pack)
            state = "written to" if made else "already in"
            note = "" if made else ", not checked; --overwrite writes them again"
            print(f"{args.shapes} shapes of seed {args.seed} {state} {args.out}{note}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
