"""ShapeNetPart: 16 categories of shapes, each point labelled with one of 50 parts."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets import CATEGORIES, PARTS_PER_CATEGORY
from datasets.files import SHAPENETPART, fail
from datasets.hdf5 import find_files, read_shard
from datasets.sampler import Key, split_key
from datasets.transforms import as_channels
from utils.parallel.seed import POINTS, generator

# Parts are numbered consecutively: category c owns FIRST_PART[c] and those that follow.
FIRST_PART = tuple(sum(PARTS_PER_CATEGORY[:c]) for c in range(len(CATEGORIES)))
NUM_PARTS = sum(PARTS_PER_CATEGORY)

FIELDS = {"data": None, "label": len(CATEGORIES), "pid": NUM_PARTS}
Transform = Callable[
    [np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]
]


def foreign_parts(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """Which rows (M,) have a point with a part that their category does not have."""
    first = np.asarray(FIRST_PART)[arrays["label"]][:, None]
    count = np.asarray(PARTS_PER_CATEGORY)[arrays["label"]][:, None]
    bad = (arrays["pid"] < first) | (arrays["pid"] >= first + count)  # (M, N)
    return bad.any(axis=1), "a part that does not belong to its category"


class ShapeNetPart(Dataset):
    """ShapeNetPart as released in HDF5, whole or one rank's share of it, in memory.

    Args:
        data_root: the folder that holds `shapenet_part_seg_hdf5_data`.
        split: "train", "val", "trainval" or "test".
        num_points: take the first `num_points` of each cloud; None for all.
        shard: (rank, world size): read only this rank's contiguous share of the rows.
        class_choice: a name of `CATEGORIES`; only its shapes count. None for all.
        transform: (points, parts, rng) -> (points, parts), such as
            `datasets.transforms.shuffle_points`; its generator is a function of
            (seed, epoch, row of the whole split).

    Attributes:
        points: (M, N, 3) float32, as stored.
        labels: (M,) int64, categories, whose names are `class_names`.
        parts: (M, N) int64, 0 .. 49 over all categories.
        start, total: first row of this share, and rows of the whole split.

    Raises:
        DataError: if something is missing or damaged, stores too few points, or labels
            a point with a part of another category.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
        class_choice: str | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        if split not in ("train", "val", "trainval", "test"):
            raise ValueError(f"split is train, val, trainval or test, got {split!r}")
        if class_choice is not None and class_choice not in CATEGORIES:
            names = f"{', '.join(CATEGORIES)} (--class_choice)"
            raise ValueError(f"class_choice {class_choice!r} is not one of {names}")
        folder = Path(data_root) / SHAPENETPART
        paths = [
            path
            for part in (("train", "val") if split == "trainval" else (split,))
            for path in find_files(folder, part, f"{part}_hdf5_file_list.txt")
        ]
        keep = None if class_choice is None else CATEGORIES.index(class_choice)
        arrays, self.start, self.total = read_shard(
            paths, FIELDS, shard, num_points, keep, foreign_parts
        )
        if self.total == 0:
            fail(folder, f"no {class_choice or 'shapes'} in its {split} split")
        self.points, self.labels = arrays["data"], arrays["label"]
        self.parts = arrays["pid"]
        self.class_names = list(CATEGORIES)
        self.transform, self.seed = transform, seed

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, key: int | Key) -> tuple[torch.Tensor, int, torch.Tensor]:
        """(points (3, N) float32, category, parts (N,) int64) of an (epoch, index)."""
        epoch, index = split_key(key)
        points, parts = self.points[index], self.parts[index]
        if self.transform is not None:
            rng = generator(POINTS, self.seed, epoch, self.start + index)
            points, parts = self.transform(points, parts, rng)
        category = int(self.labels[index])
        return as_channels(points), category, torch.from_numpy(parts.copy())
