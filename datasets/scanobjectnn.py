"""ScanObjectNN: scanned objects of 15 classes, in HDF5."""

from __future__ import annotations

import os
from pathlib import Path

from datasets.files import fail
from datasets.modelnet import LabelledClouds, find_class_names

FOLDER = "ScanObjectNN"
ARCHIVE = "scanobjectnn"
CLASS_NAMES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
# variant -> official folder, and what its file names end in
VARIANTS = {
    "obj_bg": ("main_split", ""),
    "obj_only": ("main_split_nobg", ""),
    "pb_t50_rs": ("main_split", "_augmentedrot_scale75"),
}


def candidates(
    data_root: str | os.PathLike, split: str, variant: str = "obj_bg"
) -> list[Path]:
    """Where a split's file may lie: repacked, or as officially released."""
    root = Path(data_root)
    places = []
    if variant == "obj_bg":
        places += [root / FOLDER / sub / f"{split}.h5" for sub in ("main_split", "")]
    folder, ending = VARIANTS[variant]
    name = f"{'training' if split == 'train' else 'test'}_objectdataset{ending}.h5"
    for base in (root / FOLDER, root):
        places += [base / sub / folder / name for sub in ("", "h5_files")]
    return places


def split_file(data_root: str | os.PathLike, split: str, variant: str) -> Path:
    """The file of a split: the first of the candidates that is there.

    Raises:
        DataError: if none is.
    """
    first, *others = places = candidates(data_root, split, variant)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        looked = ", ".join(str(path) for path in others)
        fail(first, f"file not found ({variant}, {split}), nor {looked}", ARCHIVE)
    return found


def class_names(data_root: str | os.PathLike, variant: str) -> list[str]:
    """A variant's classes, the same for both splits, see `find_class_names`."""
    found = [
        next((p for p in candidates(data_root, split, variant) if p.is_file()), None)
        for split in ("train", "test")
    ]
    files = [path for path in found if path is not None]
    return find_class_names(files[0].parent, CLASS_NAMES, files, ARCHIVE)


class ScanObjectNN(LabelledClouds):
    """ScanObjectNN, one of its variants, in whichever layout is there.

    Args:
        data_root: the folder that holds `ScanObjectNN` (or the official `h5_files`).
        split: "train" or "test".
        variant: "obj_bg" objects with background, "obj_only" without, "pb_t50_rs"
            perturbed, rotated and scaled, the hardest.
        num_points: the first so many points of every shape; None for all stored.
        shard: (rank, world size): read only this rank's contiguous share of the rows.

    Raises:
        DataError: if something is missing or damaged, or stores too few points.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        variant: str = "obj_bg",
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train' or 'test', got {split!r}")
        if variant not in VARIANTS:
            raise ValueError(
                f"--variant is one of {', '.join(VARIANTS)}, got {variant!r}"
            )
        path = split_file(data_root, split, variant)
        names = class_names(data_root, variant)
        super().__init__([path], names, num_points, shard, ARCHIVE)
