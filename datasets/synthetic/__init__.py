"""Synthetic data: labelled shapes in the file formats of the four real data sets.

    python -m datasets.synthetic --out DIR --shapes 1024 --seed 0
    python -m datasets.synthetic --preview sheet.png

DIR is then the ``--data_root`` of every script. A shape depends on the seed, its data
set and its index alone, so the files are the same bytes for any number of workers.
``DIR/manifest.json`` is written last: a folder that has it is complete.

Files, in reading order:

    __init__.py                              the command, the files
    shapes.py                                the 16 categories, sampling of surfaces
    furniture.py handheld.py vehicles.py     the shapes
    primitives.py                            boxes, tubes, lofts they are made of
    render.py                                images, depth scans, the contact sheet
"""

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

import h5py
import numpy as np
from numpy.random import Generator
from PIL import Image
from tqdm import tqdm

from datasets.files import MODELNET40, RENDERINGS, SCANOBJECTNN, SHAPENET, SHAPENETPART
from datasets.labelled import VARIANTS
from datasets.prepare import pack as packed
from datasets.prepare.workers import results
from datasets.shapenet_part import CATEGORIES
from datasets.synthetic.render import contact_sheet, render, scan
from datasets.synthetic.shapes import SYNSETS, Shape, make_shape
from datasets.transforms import center_and_scale
from utils.parallel.machine import cores
from utils.parallel.seed import SHAPE, generator

# Increase when the same arguments give other bytes.
VERSION = 4
POINTS = 2048
VIEWS = 24
IMAGE_SIZE = 137


def splits(shapes: int) -> list[tuple[str, str, int]]:
    """Data set, split, number of shapes: in HDF5 files one of each category or more.

    A split's index here is its random stream: no two splits share a shape.
    """
    least = len(CATEGORIES)
    full, half, quarter, eighth = (max(shapes // k, least) for k in (1, 2, 4, 8))
    return [
        (SHAPENET, "all", shapes),
        *((MODELNET40, "train", full), (MODELNET40, "test", half)),
        *((SCANOBJECTNN, "train", full), (SCANOBJECTNN, "test", full)),
        *((SHAPENETPART, "train", full), (SHAPENETPART, "val", eighth)),
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
        out: replaced with ``overwrite`` if an earlier run of this generator wrote it.
        shapes: rendered shapes; the sizes of the other sets follow (``splits``).
        workers: processes, by default one per CPU core; does not change the data.
        pack: also write the packed form of the rendered shapes (`datasets.packed`).

    Returns:
        False if ``out`` already held exactly this data and nothing was done.

    Raises:
        FileExistsError: if ``out`` holds anything else.
        ValueError: if a number is out of range.
    """
    workers = cores() if workers is None else workers
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
    made = {"shapes": shapes, "seed": seed}
    return {"generator": "datasets.synthetic", "version": VERSION, **made}


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
        partial(make_row, name, root, seed, stream, index)
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
            _write_split(root, name, split, list(islice(rows, count)))
            sizes.setdefault(name, {"counts": {}})["counts"][split] = count
    manifest = _header(shapes, seed) | {"datasets": sizes}
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def make_row(name: str, root: Path, seed: int, stream: int, index: int) -> Any:
    """Make the shape (seed, stream, index) for one data set: the job of a worker.

    Returns:
        The category, and of ScanObjectNN the result of :func:`scan`, of the others the
        points (2048,3) f4 and the part of each (2048,) u1. Of ShapeNet, whose files it
        writes, None.
    """
    rng = generator(SHAPE, seed, stream, index)
    category = index % len(CATEGORIES)
    shape = make_shape(category, rng)
    if name == SHAPENET:
        _write_model(root, shape, index, rng)
        return None
    if name == SCANOBJECTNN:
        return category, scan(shape, POINTS, rng)
    points, part = shape.sample(POINTS, rng)
    return category, center_and_scale(points), part.astype(np.uint8)


def _write_model(root: Path, shape: Shape, index: int, rng: Generator) -> None:
    """Write the PLY file and the images of one model."""
    synset, model = SYNSETS[shape.category], f"synthetic_{index:06d}"
    points, _ = shape.sample(POINTS, rng)
    # The second term gives every category both ASCII and binary files.
    text = (index + index // len(CATEGORIES)) % 2 == 0
    # Written by hand, since plyfile needs 56 ms for the text form.
    kind = "ascii" if text else "binary_little_endian"
    header = f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    points = points.astype("<f4")
    (root / SHAPENET / synset).mkdir(parents=True, exist_ok=True)
    with open(root / SHAPENET / synset / f"{model}.ply", "wb") as file:
        file.write(header.encode())
        if text:
            np.savetxt(file, points, "%.8g")
        else:
            file.write(points.tobytes())
    images = root / RENDERINGS / synset / model / "rendering"
    images.mkdir(parents=True)
    mesh = shape.in_unit_sphere(), shape.faces, shape.face_colour
    first = rng.uniform(0, 15)
    for view in range(VIEWS):
        azimuth, elevation = first + 360 * view / VIEWS, rng.uniform(25, 30)
        image = Image.fromarray(render(*mesh, azimuth, elevation, IMAGE_SIZE))
        image.save(images / f"{view:02d}.png", compress_level=3)


def _write_split(root: Path, name: str, split: str, rows: list) -> None:
    """Write the HDF5 files of one split from the results of :func:`make_row`."""
    if name == SHAPENET:
        return  # make_row has written its files
    folder = root / name
    labels = np.array([row[0] for row in rows])
    if name == SCANOBJECTNN:
        stem = {"train": "training", "test": "test"}[split]
        for variant, (sub, end) in VARIANTS.items():
            data, mask = zip(*(row[1][variant] for row in rows), strict=True)
            arrays = {"data": np.stack(data), "mask": np.stack(mask)}
            arrays["label"] = labels.astype(np.int32)
            path = folder / "h5_files" / sub / f"{stem}_objectdataset{end}.h5"
            _write_h5(path, arrays)
            _write_names(path.parent)
        return
    arrays = {"data": np.stack([row[1] for row in rows])}
    arrays["label"] = labels[:, None].astype(np.uint8)
    if name == SHAPENETPART:
        arrays["pid"] = np.stack([row[2] for row in rows])
    # Two training files, so that readers have to join several.
    files = np.array_split(np.arange(len(rows)), 2 if split == "train" else 1)
    paths = [folder / f"ply_data_{split}{k}.h5" for k in range(len(files))]
    for path, index in zip(paths, files, strict=True):
        _write_h5(path, {key: array[index] for key, array in arrays.items()})
    if name == MODELNET40:
        # The official lists give paths relative to the parent of the data root.
        listed = "".join(f"data/{MODELNET40}/{path.name}\n" for path in paths)
        (folder / f"{split}_files.txt").write_text(listed)
        _write_names(folder)


def _write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            # Time stamps would make files with the same content differ.
            file.create_dataset(name, data=array, track_times=False)


def _write_names(folder: Path) -> None:
    """The names of the classes, which are not the published ones."""
    (folder / "shape_names.txt").write_text("".join(f"{c}\n" for c in CATEGORIES))


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.synthetic",
        description="Write synthetic data in the formats of the four real data sets.",
    )
    add = parser.add_argument
    add("--out", type=Path, help="output folder, a --data_root")
    add("--shapes", type=int, default=480, help="rendered shapes (default: 480)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    text = "processes; does not change the data (default: one per core)"
    add("--workers", type=int, help=text)
    add("--preview", type=Path, metavar="FILE.png", help="write a contact sheet")
    text = (
        "also write the rendered shapes in the packed form, which pre-training reads "
    )
    text += "several times as fast (default: yes)"
    add("--pack", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "replace what an earlier run of this generator left in --out"
    add("--overwrite", action="store_true", help=text)
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
