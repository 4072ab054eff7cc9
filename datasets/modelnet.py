"""ModelNet40: labelled clouds of 40 classes, in HDF5.

The other HDF5 releases share what this one needs: finding files, names and shards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.files import fail
from datasets.hdf5 import POINTS, Field, RowCheck, read_hdf5
from datasets.sampler import Key, shard_range, split_key

FOLDER = "modelnet40_ply_hdf5_2048"
ARCHIVE = "modelnet40"
CLASS_NAMES = (
    *("airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car"),
    *("chair", "cone", "cup", "curtain", "desk", "door", "dresser", "flower_pot"),
    *("glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor"),
    *("night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa"),
    *("stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase", "wardrobe"),
    "xbox",
)


def find_files(folder: Path, split: str, file_list: str, archive: str) -> list[Path]:
    """The files of a split, sorted, so that every process sees the same order.

    Args:
        folder: where they lie.
        split: files are called ply_data_<split>*.h5.
        file_list: a text file in `folder` that may name them; what it names must exist.
        archive: see `how_to_get`.

    Raises:
        DataError: if the folder is missing or the files are.
    """
    if not folder.is_dir():
        fail(folder, "folder not found", archive)
    listed = folder / file_list
    if listed.is_file():
        for line in listed.read_text().splitlines():
            name = os.path.basename(line.strip())  # lists carry their makers' folders
            if name and not (folder / name).is_file():
                fail(
                    folder / name,
                    f"file not found, though {file_list} names it",
                    archive,
                )
    paths = sorted(folder.glob(f"ply_data_{split}*.h5"))
    if not paths:
        fail(folder / f"ply_data_{split}*.h5", "no such file", archive)
    return paths


def find_class_names(
    folder: Path, published: Sequence[str], files: Sequence[Path], archive: str
) -> list[str]:
    """The names in `folder`/shape_names.txt, else the published ones.

    Where `files` hold labels beyond the published names, and shapes of every class up
    to the largest, the classes are called by their numbers. `files` should be those of
    all splits, so that these agree.

    Raises:
        DataError: if a file is damaged, or a label is out of range.
    """
    listed = folder / "shape_names.txt"
    if listed.is_file():
        names = [line.strip() for line in listed.read_text().splitlines()]
        names = [name for name in names if name]
        if not names:
            fail(listed, "lists no class names", archive)
        return names
    labels = read_hdf5(files, {"label": Field("label")}, archive=archive)["label"]
    present = np.unique(labels)
    classes = int(present.max(initial=0)) + 1
    if classes <= len(published):
        return list(published)
    if len(present) < classes:
        # A damaged label must not become a class of its own.
        fail(
            folder,
            f"a shape has label {classes - 1}, expected 0 .. {len(published) - 1}, or "
            "without gaps up to the largest; shape_names.txt may name other classes",
            archive,
        )
    return [str(label) for label in range(classes)]


def read_shard(
    paths: Sequence[str | os.PathLike],
    fields: Mapping[str, Field],
    shard: tuple[int, int],
    num_points: int | None = None,
    archive: str | None = None,
    keep: int | None = None,
    check: RowCheck | None = None,
) -> tuple[dict[str, np.ndarray], int, int]:
    """One rank's rows of several files with the keys `data` and `label`.

    Every rank reads all labels, a byte or so a shape, but points of its own rows alone.

    Args:
        paths, fields, num_points, archive, check: as in `read_hdf5`.
        shard: (rank, world size), see `datasets.sampler.shard_range`.
        keep: only rows with this label count; None for all.

    Returns:
        key -> array of the rank's rows; the first of them among all rows that count;
        how many count.

    Raises:
        DataError: as `read_hdf5`.
    """
    labels = read_hdf5(paths, {"label": fields["label"]}, archive=archive)["label"]
    counted = (
        np.flatnonzero(labels == keep) if keep is not None else np.arange(len(labels))
    )
    mine = shard_range(len(counted), *shard)
    own = counted[mine.start : mine.stop]
    span = range(own[0], own[-1] + 1) if len(own) else range(0)
    arrays = read_hdf5(paths, fields, span, num_points, archive, check)
    if len(own) < len(span):
        arrays = {key: array[own - span.start] for key, array in arrays.items()}
    return arrays, mine.start, len(counted)


def label_fields(classes: int) -> dict[str, Field]:
    """What the files of a classification data set have to hold."""
    return {"data": POINTS, "label": Field("label", classes)}


class LabelledClouds(Dataset):
    """Clouds with one label each, whole or one rank's share of them, in memory.

    Attributes:
        points: (M, N, 3) float32, as stored.
        labels: (M,) int64.
        class_names: a name for every label that can occur; the same on all ranks.
        num_classes: how many these are.
        start: row of the whole split that row 0 is.
        total: rows of the whole split.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        class_names: Sequence[str],
        num_points: int | None,
        shard: tuple[int, int],
        archive: str,
    ) -> None:
        fields = label_fields(len(class_names))
        arrays, self.start, self.total = read_shard(
            paths, fields, shard, num_points, archive
        )
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


def as_channels(points: np.ndarray) -> torch.Tensor:
    """(N, 3) points as a (3, N) tensor that shares no memory with them."""
    return torch.from_numpy(points.T.copy())


def split_files(data_root: str | os.PathLike, split: str) -> list[Path]:
    """ModelNet40's files of a split.

    Raises:
        DataError: if there are none, or one is missing that the list names.
    """
    return find_files(Path(data_root) / FOLDER, split, f"{split}_files.txt", ARCHIVE)


def class_names(data_root: str | os.PathLike) -> list[str]:
    """ModelNet40's classes, the same for both splits, see `find_class_names`."""
    folder = Path(data_root) / FOLDER
    everything = sorted(folder.glob("ply_data_t*.h5"))
    return find_class_names(folder, CLASS_NAMES, everything, ARCHIVE)


class ModelNet40(LabelledClouds):
    """ModelNet40 as sampled to 2,048 points in the `modelnet40_ply_hdf5_2048` release.

    Args:
        data_root: the folder that holds `modelnet40_ply_hdf5_2048`.
        split: "train" or "test".
        num_points: the first so many points of every shape; None for all stored.
        shard: (rank, world size): read only this rank's contiguous share of the rows.

    Raises:
        DataError: if something is missing or damaged, or stores too few points.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train' or 'test', got {split!r}")
        paths = split_files(data_root, split)
        super().__init__(paths, class_names(data_root), num_points, shard, ARCHIVE)
