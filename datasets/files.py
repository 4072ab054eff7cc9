"""What all readers share: the error that names a file, and opening it.

A file that is missing, damaged or not what it should be ends in a `DataError` that
names it; no reader opens a file for writing, and none leaves one open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn

import numpy as np

from utils.errors import UsageError

# Folders below --data_root, named as the published archives unpack.
SHAPENET, RENDERINGS, PACKED = "ShapeNet", "ShapeNetRendering", "ShapeNetPacked"
MODELNET40 = "modelnet40_ply_hdf5_2048"
SCANOBJECTNN = "ScanObjectNN"
SHAPENETPART = "shapenet_part_seg_hdf5_data"


class DataError(UsageError):
    """A file or folder is missing or damaged: the message names it and the cure.

    Attributes:
        path: the file or folder, where the error is about one.
        problem: what is wrong with it, without the path and the cure.
    """

    def __init__(self, message: str, path: str = "", problem: str = "") -> None:
        super().__init__(message)
        self.path, self.problem = path, problem or message


GENERATE = "python -m datasets.synthetic --out data/synthetic --shapes 480"


def download(archive: str | None = None) -> str:
    """The command that fetches a data set.

    Args:
        archive: the name ``data/download_data.sh --only`` knows the data set by
            (modelnet40, shapenet, scanobjectnn, shapenetpart); None for all of them.
    """
    return "bash data/download_data.sh" + (f" --only {archive}" if archive else "")


def how_to_get(archive: str | None = None) -> str:
    """The sentence that says which commands fetch or generate the data.

    Args:
        archive: as of :func:`download`.
    """
    return (
        f"Real data: `{download(archive)}`; synthetic data: `{GENERATE}`, then "
        "`--data_root data/synthetic`."
    )


def fail(path: str | os.PathLike, problem: str, archive: str | None = None) -> NoReturn:
    """Raise the `DataError` that names `path`, the problem, and how to get the data."""
    name = os.fspath(path)
    message = f"{name}: {problem}. {how_to_get(archive)}"
    raise DataError(message, name, problem) from None


def check_num_points(
    path: str | os.PathLike, stored: int, num_points: int | None
) -> int:
    """How many points to take of a file's `stored`: `num_points`, or all for None.

    Raises:
        DataError: if the file holds fewer than asked for.
    """
    if num_points is None:
        return stored
    if num_points > stored:
        problem = (
            f"stores {stored} points a shape, fewer than the "
            f"{num_points} asked for; use --num_points {stored} or less."
        )
        name = os.fspath(path)
        raise DataError(f"{name}: {problem}", name, problem)
    return num_points


def points_all_equal(points: np.ndarray) -> np.ndarray:
    """Which clouds (..., N, 3) are one point, N > 1 times: bool of shape (...)."""
    if points.shape[-2] < 2:
        return np.zeros(points.shape[:-2], bool)
    # Nearly every cloud differs in two of its points already: few are looked at whole.
    equal = np.array((points[..., 0, :] == points[..., -1, :]).all(axis=-1))
    if equal.any():
        some = points[equal]
        equal[equal] = (some == some[..., :1, :]).all(axis=(-2, -1))
    return equal


@contextmanager
def open_file(
    path: str | os.PathLike, archive: str | None, limit: int | None = None
) -> Iterator[BinaryIO]:
    """A file open for reading, which exists and is not empty.

    Raises:
        DataError: if it is missing, empty, no regular file, or larger than `limit`
            bytes.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            fail(path, "cannot be read (not a regular file)", archive)
        stream = open(path, "rb")
    except FileNotFoundError:
        fail(path, "file not found", archive)
    except OSError as error:
        fail(path, f"cannot be read ({error.strerror})", archive)
    with stream:
        if status.st_size == 0:
            fail(path, "the file is empty", archive)
        if limit is not None and status.st_size > limit:
            fail(path, f"has {status.st_size} bytes, more than {limit}", archive)
        yield stream
