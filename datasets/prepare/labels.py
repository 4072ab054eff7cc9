"""A training and a test set of the user's own classes, in ModelNet40's format."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from datasets.files import MODELNET40, SHAPENET, DataError, read_ply

LEAST = 2  # shapes of a class on each side of the split


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
        members.sort(
            key=lambda shape: hashlib.sha256(f"{seed} {shape}".encode()).digest()
        )
        share = round(test_fraction * len(members))
        tested = min(max(share, LEAST), len(members) - LEAST)
        split["test"] += sorted(members[:tested])
        split["train"] += sorted(members[tested:])
    return split


def write_labels(
    data_root: Path, shapes: Sequence[str], test_fraction: float, seed: int
) -> tuple[int, int]:
    """Write ``modelnet40_ply_hdf5_2048`` from the clouds in ``ShapeNet``.

    Returns:
        How many shapes the training and the test set have.
    """
    folder = data_root / MODELNET40
    folder.mkdir(exist_ok=True)
    classes = sorted({shape.split("/")[0] for shape in shapes})
    split = split_by_name(shapes, test_fraction, seed)
    for name, chosen in split.items():
        clouds = [read_ply(data_root / SHAPENET / f"{shape}.ply") for shape in chosen]
        labels = np.array([classes.index(shape.split("/")[0]) for shape in chosen])
        kind = np.uint8 if len(classes) <= 256 else np.uint16
        path = folder / f"ply_data_{name}0.h5"
        with h5py.File(path, "w") as file:
            # Time stamps would make files with the same content differ.
            file.create_dataset("data", data=np.stack(clouds), track_times=False)
            file.create_dataset(
                "label", data=labels[:, None].astype(kind), track_times=False
            )
        # As in the official lists, relative to the parent of the data root.
        (folder / f"{name}_files.txt").write_text(f"data/{MODELNET40}/{path.name}\n")
    (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    return len(split["train"]), len(split["test"])
