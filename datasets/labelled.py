"""Labelled clouds in HDF5: ModelNet40 and ScanObjectNN."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.files import MODELNET40, SCANOBJECTNN, fail
from datasets.hdf5 import MAX_LABELS, find_files, read_hdf5, read_shard
from datasets.sampler import Key, split_key
from datasets.transforms import as_channels
from utils.parallel.seed import SPLIT, generator

MODELNET40_CLASSES = (
    *("airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car"),
    *("chair", "cone", "cup", "curtain", "desk", "door", "dresser", "flower_pot"),
    *("glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor"),
    *("night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa"),
    *("stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase", "wardrobe"),
    "xbox",
)
SCANOBJECTNN_CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
# variant -> official folder, and what its file names end in
VARIANTS = {
    "obj_bg": ("main_split", ""),
    "obj_only": ("main_split_nobg", ""),
    "pb_t50_rs": ("main_split", "_augmentedrot_scale75"),
}


def find_class_names(
    folder: Path, published: Sequence[str], files: Sequence[Path]
) -> list[str]:
    """The names in `folder`/shape_names.txt, else the published ones.

    If `files` contain labels beyond the published names, without gaps, classes are
    called by their numbers. Pass the files of all splits, so that the splits agree.

    Raises:
        DataError: if a file is damaged, or a label is out of range.
    """
    listed = folder / "shape_names.txt"
    if listed.is_file():
        lines = listed.read_text().splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            fail(listed, "lists no class names")
        return names
    present = np.unique(read_hdf5(files, {"label": MAX_LABELS})["label"])
    classes = int(present.max(initial=0)) + 1
    if classes <= len(published):
        return list(published)
    if len(present) < classes:
        # A damaged label must not become a class of its own.
        fail(
            folder,
            f"a shape has label {classes - 1}, expected 0 .. {len(published) - 1}, or "
            "without gaps up to the largest; shape_names.txt may name other classes",
        )
    return [str(label) for label in range(classes)]


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', got {split!r}")


class LabelledClouds(Dataset):
    """Clouds with one label each, all of them or one rank's share, in memory.

    Args:
        paths: the split's files, in order.
        class_names: a name for every label that can occur.
        num_points: take the first `num_points` of each cloud; None for all.
        shard: (rank, world size): read only this rank's contiguous share of the rows.

    Attributes:
        points: (M, N, 3) float32, as stored.
        labels: (M,) int64.
        start: the row of the whole split at which this share begins.
        total: rows of the whole split.

    Raises:
        DataError: if something is missing or damaged, or stores too few points.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        class_names: Sequence[str],
        num_points: int | None,
        shard: tuple[int, int],
    ) -> None:
        fields = {"data": None, "label": len(class_names)}
        arrays, self.start, self.total = read_shard(paths, fields, shard, num_points)
        self.points, self.labels = arrays["data"], arrays["label"]
        self.class_names = list(class_names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, key: int | Key) -> tuple[torch.Tensor, int]:
        """(points (3, N) float32, label); `key` is an index or an (epoch, index)."""
        _, index = split_key(key)
        return as_channels(self.points[index]), int(self.labels[index])


class ModelNet40(LabelledClouds):
    """ModelNet40, "train" or "test", in `data_root`/modelnet40_ply_hdf5_2048."""

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        _check_split(split)
        folder = Path(data_root) / MODELNET40
        paths = find_files(folder, split, f"{split}_files.txt")
        both_splits = sorted(folder.glob("ply_data_t*.h5"))
        names = find_class_names(folder, MODELNET40_CLASSES, both_splits)
        super().__init__(paths, names, num_points, shard)


def scanobjectnn_candidates(
    data_root: str | os.PathLike, split: str, variant: str = "obj_bg"
) -> list[Path]:
    """Where a file may be, repacked or official; the first that exists is read."""
    root = Path(data_root)
    repacked = [root / SCANOBJECTNN / sub / f"{split}.h5" for sub in ("main_split", "")]
    folder, ending = VARIANTS[variant]
    name = f"{'training' if split == 'train' else 'test'}_objectdataset{ending}.h5"
    official = [
        base / sub / folder / name
        for base in (root / SCANOBJECTNN, root)
        for sub in ("", "h5_files")
    ]
    return (repacked if variant == "obj_bg" else []) + official


class ScanObjectNN(LabelledClouds):
    """A variant of ScanObjectNN, "train" or "test", repacked or as officially released.

    "obj_bg" has objects with background, "obj_only" without; "pb_t50_rs" is perturbed,
    rotated and scaled, the hardest. `data_root` holds `ScanObjectNN`, or `h5_files`.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        variant: str = "obj_bg",
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        _check_split(split)
        if variant not in VARIANTS:
            known = f"{', '.join(VARIANTS)} (--variant)"
            raise ValueError(f"variant {variant!r} is not one of {known}")
        by_split = {}
        for part in ("train", "test"):
            places = scanobjectnn_candidates(data_root, part, variant)
            by_split[part] = [path for path in places if path.is_file()][:1]
            if part == split and not by_split[part]:
                others = ", ".join(str(path) for path in places[1:])
                fail(places[0], f"file not found ({variant}, {split}), nor {others}")
        both_splits = by_split["train"] + by_split["test"]
        folder = both_splits[0].parent
        names = find_class_names(folder, SCANOBJECTNN_CLASSES, both_splits)
        super().__init__(by_split[split], names, num_points, shard)


def labelled_share(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Row numbers, ascending, of a stratified share of a set with labels (M,).

    The rows of each class are a function of (seed, class), their number is rounded, at
    least 1. A larger share of the same seed contains the smaller ones.
    """
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(rows)))
        chosen.append(generator(SPLIT, seed, int(label)).permutation(rows)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
