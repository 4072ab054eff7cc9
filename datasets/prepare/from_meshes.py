"""From a folder of meshes to a data set that every script reads.

    python -m datasets.from_meshes --meshes DIR --out DATA
    python -m datasets.from_meshes --meshes DIR --out DATA --labels  # for SVM etc. too

Reads OBJ (with MTL and textures), PLY, STL, OFF, GLB and glTF. The class of a shape is
the folder below DIR, its name the path below that; meshes in DIR itself are one class.
Writes clouds and images for pre-training, with --labels also a training and a test set
in ModelNet40's format, `preview.png`, and `skipped.tsv` with the meshes that cannot be
used. If interrupted, the same command resumes. The output is the same, byte for byte,
after an interruption and with any number of --workers.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from plyfile import PlyData, PlyElement
from tqdm import tqdm

from datasets.files import (
    MODELNET40,
    PACKED,
    RENDERINGS,
    SHAPENET,
    UNFINISHED,
    DataError,
    read_ply,
    write_whole,
)
from datasets.prepare.meshes import SUFFIXES
from datasets.prepare.views import CAMERAS, Settings, contact_sheet, make_shape
from datasets.prepare.workers import results
from datasets.transforms import center_and_scale
from utils.parallel.machine import cores

VERSION = 1  # increase when the same arguments give other bytes
STATE, SKIPPED, PREVIEW = "from_meshes.json", "skipped.tsv", "preview.png"
LEAST = 2  # shapes of a class on each side of the split


def find_meshes(folder: Path) -> dict[str, Path]:
    """ "<class>/<name>" -> file of every mesh below a folder, sorted.

    Levels below the class are joined by "__". Where two files would have one name, it
    ends in their suffixes: "chair_obj", "chair_stl".

    Raises:
        DataError: if there are none, or two still have the same name.
    """
    candidates: dict[str, list[Path]] = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(parent, file)
            if path.suffix.lower() in SUFFIXES and not file.startswith("."):
                *levels, stem = path.relative_to(folder).with_suffix("").parts
                kind = levels[0] if levels else folder.resolve().name
                name = f"{_plain(kind)}/{_plain('__'.join([*levels[1:], stem]))}"
                candidates.setdefault(name, []).append(path)
    if not candidates:
        raise DataError(f"{folder}: holds no mesh ({', '.join(SUFFIXES)})")
    meshes: dict[str, Path] = {}
    for name, paths in candidates.items():
        for path in paths:
            full = f"{name}_{path.suffix[1:].lower()}" if len(paths) > 1 else name
            if full in meshes:
                raise DataError(
                    f"{path} and {meshes[full]} would both be named {full}; rename one"
                )
            meshes[full] = path
    return dict(sorted(meshes.items()))


def _plain(name: str) -> str:
    """A name that fits a line of a text file."""
    return "".join(c if c.isprintable() else "_" for c in name).strip()


def prepare_folder(
    out: Path, meshes: dict[str, Path], settings: Settings, overwrite: bool
) -> None:
    """Prepare the output folder; keep what earlier runs wrote and is still valid.

    Shapes whose mesh was removed or has another size are deleted. A `DataError` if the
    folder holds something else, or was made with other settings.
    """
    # A dangling link has no size; reading it fails, and it is left out as damaged.
    sizes = {s: p.stat().st_size if p.exists() else -1 for s, p in meshes.items()}
    state = {"version": VERSION, **asdict(settings), "meshes": sizes}
    old: dict = {}
    # Hidden: what a run that was killed at its start may have left.
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        try:
            old = json.loads((out / STATE).read_text(encoding="utf-8"))
            changed = [x for x in state if x != "meshes" and old[x] != state[x]]
            removed = dict(old["meshes"].items() - sizes.items())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise DataError(
                f"{out}: holds something that this command did not write, which it "
                "never replaces; choose another --out"
            ) from None
        if changed and not overwrite:
            name = changed[0]
            raise DataError(
                f"{out}: was written with {name} {old[name]}, not {state[name]}; "
                "choose another --out, or replace it with --overwrite"
            )
        if overwrite:
            for name in (SHAPENET, RENDERINGS):
                shutil.rmtree(out / name, ignore_errors=True)
        for shape in removed:
            (out / SHAPENET / f"{shape}.ply").unlink(missing_ok=True)
            shutil.rmtree(out / RENDERINGS / shape, ignore_errors=True)
        if overwrite or old["meshes"] != sizes:  # what was made of all the shapes
            for name in (MODELNET40, PACKED):
                shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).touch()
    write_whole(out / STATE, json.dumps(state, indent=1).encode())


def make_shapes(
    meshes: dict[str, Path], out: Path, settings: Settings, workers: int
) -> dict[str, str]:
    """Write the cloud and the images of every shape that does not exist yet.

    The cloud comes last: a shape that has it is complete. Returns shape -> why it was
    left out, sorted.
    """
    missing = [s for s in meshes if not (out / SHAPENET / f"{s}.ply").is_file()]
    jobs = [partial(make_shape, meshes[s], s, out, settings) for s in missing]
    skipped = {}
    # disable=None: no bar without a terminal
    style = {"unit": "shape", "dynamic_ncols": True, "disable": None}
    done, total = len(meshes) - len(jobs), len(meshes)
    with contextlib.closing(results(jobs, workers)) as clouds:
        bar = tqdm(clouds, "rendering", total, initial=done, **style)
        for shape, result in zip(missing, bar, strict=True):
            if isinstance(result, str):
                skipped[shape] = " ".join(result.split())
            else:
                points = center_and_scale(result).astype("<f4")
                rows = points.view([(axis, "<f4") for axis in "xyz"])[:, 0]
                ply = PlyData([PlyElement.describe(rows, "vertex")], byte_order="<")
                ply.write(content := io.BytesIO())
                write_whole(out / SHAPENET / f"{shape}.ply", content.getvalue())
    return dict(sorted(skipped.items()))


def check_classes(shapes: Sequence[str]) -> None:
    """Raise a `DataError` that names classes with too few "<class>/<name>" to split."""
    counts = Counter(shape.split("/")[0] for shape in shapes)
    too_few = [f"{name} has {n}" for name, n in counts.items() if n < 2 * LEAST]
    if too_few:
        raise DataError(
            f"--labels needs at least {2 * LEAST} shapes a class, {LEAST} to train on "
            f"and {LEAST} to test on: {', '.join(too_few)}; add some, or run without it"
        )
    if len(counts) < 2:
        raise DataError(
            f"--labels needs at least two classes, found only {', '.join(counts)}; "
            "sort the meshes into a folder for each class, or run without it"
        )


def split_by_name(
    shapes: Sequence[str], test_fraction: float, seed: int
) -> dict[str, list[str]]:
    """Training and test shapes of every class, a function of names and seed alone.

    The test set gets the share of each class, rounded, but at least two shapes, and
    leaves at least two for training.
    """
    split: dict[str, list[str]] = {"train": [], "test": []}
    for name in sorted({shape.split("/")[0] for shape in shapes}):
        members = [shape for shape in shapes if shape.split("/")[0] == name]
        members.sort(key=lambda x: hashlib.sha256(f"{seed} {x}".encode()).digest())
        share = round(test_fraction * len(members))
        tested = min(max(share, LEAST), len(members) - LEAST)
        split["test"] += sorted(members[:tested])
        split["train"] += sorted(members[tested:])
    return split


def write_labels(
    data_root: Path, shapes: Sequence[str], test_fraction: float, seed: int
) -> tuple[int, int]:
    """Write ``modelnet40_ply_hdf5_2048`` from the clouds in ``ShapeNet``.

    Returns the sizes of the training and the test set.
    """
    folder = data_root / MODELNET40
    folder.mkdir(exist_ok=True)
    classes = sorted({shape.split("/")[0] for shape in shapes})
    split = split_by_name(shapes, test_fraction, seed)
    for name, chosen in split.items():
        clouds = [read_ply(data_root / SHAPENET / f"{shape}.ply") for shape in chosen]
        labels = [[classes.index(shape.split("/")[0])] for shape in chosen]
        kind = np.uint8 if len(classes) <= 256 else np.uint16
        arrays = {"data": np.stack(clouds), "label": np.array(labels, kind)}
        path = folder / f"ply_data_{name}0.h5"
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                # Time stamps would make files with the same content differ.
                file.create_dataset(key, data=array, track_times=False)
        # As in the official lists, relative to the parent of the data root.
        (folder / f"{name}_files.txt").write_text(f"data/{MODELNET40}/{path.name}\n")
    (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    return len(split["train"]), len(split["test"])


def from_meshes(args: argparse.Namespace) -> None:
    """Make the data set, and print what was made.

    Raises:
        DataError: if no mesh can be used, or an argument does not fit.
    """
    if not args.meshes.is_dir():
        raise DataError(f"--meshes {args.meshes}: no such folder")
    if args.out.resolve().is_relative_to(args.meshes.resolve()):
        raise DataError(
            f"--out {args.out} is inside --meshes and would be read as input; choose "
            "another folder"
        )
    meshes = find_meshes(args.meshes)
    if args.labels:
        check_classes(list(meshes))
    views = args.views or CAMERAS[args.camera]
    sizes = views, args.image_size, args.num_points
    settings = Settings(args.seed, *sizes, args.camera, args.up)
    prepare_folder(args.out, meshes, settings, args.overwrite)
    skipped = make_shapes(meshes, args.out, settings, args.workers)
    rows = [(meshes[s].relative_to(args.meshes), skipped[s]) for s in skipped]
    (args.out / SKIPPED).unlink(missing_ok=True)
    if rows:
        lines = (f"{_plain(str(mesh))}\t{reason}\n" for mesh, reason in rows)
        text = "".join(["mesh\treason\n", *lines])
        write_whole(args.out / SKIPPED, text.encode("utf-8", "replace"))
    shapes = [shape for shape in meshes if shape not in skipped]
    if not shapes:
        raise DataError(
            f"{args.meshes}: none of its {len(meshes)} meshes can be used, for example "
            f"{rows[0][0]}: {rows[0][1]}; all reasons are in {args.out / SKIPPED}"
        )
    contact_sheet(args.out / PREVIEW, args.out, shapes)
    classes = Counter(shape.split("/")[0] for shape in shapes)
    print(
        f"{args.out}: {len(shapes)} shapes in {len(classes)} classes, "
        f"{len(shapes) * settings.views} images; look at {args.out / PREVIEW}"
    )
    if skipped:
        print(f"left out: {len(skipped)} meshes, reasons in {args.out / SKIPPED}")
    if args.labels:
        check_classes(shapes)
        train, test = write_labels(args.out, shapes, args.test_fraction, args.seed)
        print(f"--dataset modelnet40: {train} training and {test} test shapes")
    (args.out / UNFINISHED).unlink()
    if len(shapes) == 1:
        print("a single shape cannot be trained on")
        return
    words = ["python", "train_crosspoint.py", "--data_root", str(args.out)]
    if args.num_points < 2048:
        words += ["--num_points", str(args.num_points)]
    if len(shapes) < 20:
        words += ["--batch_size", str(len(shapes))]
    print(f"next: {shlex.join(words)}")


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m datasets.from_meshes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    text = "folder of the meshes"
    add("--meshes", type=Path, required=True, metavar="DIR", help=text)
    text = "output folder, a --data_root"
    add("--out", type=Path, required=True, metavar="DATA", help=text)
    text = "also write a training and a test set of classes; needs four shapes of each"
    add("--labels", action="store_true", help=text)
    text = "images per shape (default: 24, with --camera disn 36)"
    add("--views", type=int, help=text)
    text = "pixels, height and width (default: 137)"
    add("--image_size", type=int, default=137, help=text)
    add("--num_points", type=int, default=2048, help="per cloud (default: 2048)")
    text = "positions as in 3D-R2N2's or in DISN's renderings (default: r2n2)"
    add("--camera", choices=list(CAMERAS), default="r2n2", help=text)
    text = "the meshes' vertical axis; the data's is y (default: y)"
    add("--up", choices=["y", "z"], default="y", help=text)
    text = "share of each class in the test set of --labels (default: 0.2)"
    add("--test_fraction", type=float, default=0.2, help=text)
    text = "processes; does not change the data (default: one per core)"
    add("--workers", type=int, default=cores(), help=text)
    text = "seed of points, cameras and split (default: 0)"
    add("--seed", type=int, default=0, help=text)
    text = "start over in a folder that this command wrote"
    add("--overwrite", action="store_true", help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    least = {"views": 1, "image_size": 1, "workers": 1, "num_points": 2, "seed": 0}
    for name, limit in least.items():
        value = getattr(args, name)
        if value is not None and value < limit:
            parser.error(f"--{name} is at least {limit}, got {value}")
    if not 0 < args.test_fraction < 1:
        parser.error(f"--test_fraction {args.test_fraction} is not between 0 and 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers too
    try:
        from_meshes(args)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        sys.exit(130)
