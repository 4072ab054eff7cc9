"""Clouds and labels in HDF5 files: reads and checks only the requested rows."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from datasets.files import (
    DataError,
    check_num_points,
    fail,
    open_file,
    points_all_equal,
)
from datasets.sampler import shard_range

MAX_LABELS = 1 << 16  # where the number of classes is not known
# The keys that can be read: their shapes in the file, in words and as a test.
SHAPES: dict[str, tuple[str, Callable[[tuple[int, ...]], bool]]] = {
    "data": ("(M, P, 3)", lambda shape: len(shape) == 3 and shape[2] == 3),
    "label": ("(M,) or (M, 1)", lambda shape: len(shape) == 1 or shape[1:] == (1,)),
    "pid": ("(M, P)", lambda shape: len(shape) == 2),
}
# Keys to read -> numbers in `label` and `pid` are 0 .. limit - 1; None for `data`.
Fields = Mapping[str, int | None]
RowCheck = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, str]]


def _sources(
    path: str | os.PathLike, file: h5py.File, fields: Fields
) -> dict[str, h5py.Dataset]:
    """The data sets of all keys, their types and shapes checked."""
    sources = {key: file.get(key) for key in fields}
    for key, source in sources.items():
        if not isinstance(source, h5py.Dataset):
            present = ", ".join(sorted(file)[:20]) or "none"
            fail(path, f"key `{key}` not found; keys present: {present}")
        shape: tuple[int, ...] = source.shape or ()  # None for a data set without any
        expected, fits = SHAPES[key]
        if not fits(shape) or source.dtype.kind not in "fiu":
            holds = f"holds {source.dtype} of shape {shape}"
            fail(path, f"key `{key}` {holds}, expected numbers of shape {expected}")
        if 0 in shape:
            fail(path, f"key `{key}` has shape {shape}, which holds nothing")
    rows = {source.shape[0] for source in sources.values()}
    points = {source.shape[1] for key, source in sources.items() if key != "label"}
    if len(rows) > 1 or len(points) > 1:
        shapes = ", ".join(f"{key} {source.shape}" for key, source in sources.items())
        fail(path, f"shapes do not agree: {shapes}")
    return sources


def _read_rows(
    path: str | os.PathLike,
    key: str,
    source: h5py.Dataset,
    limit: int | None,
    rows: range,
    num_points: int | None,
) -> np.ndarray:
    """Rows of a data set as float32 or int64, their values checked."""
    if key == "label":
        values = source[rows.start : rows.stop].reshape(-1)
    else:
        take = check_num_points(path, source.shape[1], num_points)
        values = source[rows.start : rows.stop, :take]
    if limit is None:
        # An overflow becomes an infinity, which is refused below.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        good, problem = np.isfinite(values), "a non-finite coordinate"
    else:
        good = (values >= 0) & (values < limit) & (values == np.floor(values))
        problem = f"a value that is not an integer in 0 .. {limit - 1}"
    if not good.all():
        row = rows.start + int(np.argwhere(~good)[0, 0])
        fail(path, f"key `{key}`, row {row} has {problem}")
    if limit is not None:
        return values.astype(np.int64)
    equal = points_all_equal(values)
    if equal.any():
        row = rows.start + int(equal.argmax())
        fail(path, f"key `{key}`, row {row}: all of its points are equal")
    return values


def read_hdf5(
    paths: Sequence[str | os.PathLike],
    fields: Fields,
    rows: range | None = None,
    num_points: int | None = None,
    check: RowCheck | None = None,
) -> dict[str, np.ndarray]:
    """Read the named keys of several files as if the files were one.

    Args:
        paths: the files, in order.
        fields: keys to read, and their limits. Other keys of the files are ignored.
        rows: a contiguous range of rows of the concatenation; None for all. Only these
            are read from the disk.
        num_points: take the first `num_points` of each cloud; None for all.
        check: given the arrays read from one file, returns which rows are wrong, (M,)
            bool, and in what way.

    Returns:
        key -> array: data (M, P, 3) float32, label (M,) int64, pid (M, P) int64.

    Raises:
        DataError: if a file is missing, damaged, lacks a key, stores too few points, or
            does not match `fields`.
    """
    if num_points is not None and num_points < 1:
        raise ValueError(f"num_points {num_points} is below 1 (--num_points)")
    chunks: dict[str, list[np.ndarray]] = {key: [] for key in fields}
    first = 0  # the file's first row in the concatenation
    for path in paths:
        with open_file(path):  # reports a missing or empty file
            pass
        try:
            with h5py.File(path, "r") as file:
                sources = _sources(path, file, fields)
                (count,) = {len(source) for source in sources.values()}
                selected = range(count)
                if rows is not None:
                    start, stop = (max(x - first, 0) for x in (rows.start, rows.stop))
                    selected = selected[start:stop]
                arrays = {
                    key: _read_rows(
                        path, key, source, fields[key], selected, num_points
                    )
                    for key, source in sources.items()
                }
        except DataError:
            raise
        except Exception as error:  # h5py raises whatever the damage leads to
            fail(path, f"not a readable HDF5 file ({error})")
        if check is not None:
            bad, problem = check(arrays)
            if bad.any():
                row = selected.start + int(bad.argmax())
                fail(path, f"row {row} has {problem}")
        for key, array in arrays.items():
            chunks[key].append(array)
        first += count
    for parts in chunks.values():
        if len({chunk.shape[1:] for chunk in parts}) > 1:
            pairs = zip(paths, parts, strict=True)
            sizes = ", ".join(f"{Path(p).name} {a.shape[1]}" for p, a in pairs)
            folder = Path(paths[0]).parent
            fail(folder, f"files store clouds of different sizes: {sizes}")
    return {key: np.concatenate(parts) for key, parts in chunks.items()}


def read_shard(
    paths: Sequence[str | os.PathLike],
    fields: Fields,
    shard: tuple[int, int],
    num_points: int | None = None,
    keep: int | None = None,
    check: RowCheck | None = None,
) -> tuple[dict[str, np.ndarray], int, int]:
    """One rank's rows of several files with the keys `data` and `label`.

    Every rank reads all labels, about a byte per shape, but only its own rows' points.

    Args:
        paths, fields, num_points, check: as in `read_hdf5`.
        shard: (rank, world size), see `datasets.sampler.shard_range`.
        keep: only rows with this label count; None for all.

    Returns:
        key -> array of the rank's rows; the index of the first of them among all rows
        that count; the number of rows that count.

    Raises:
        DataError: as `read_hdf5`.
    """
    labels = read_hdf5(paths, {"label": fields["label"]})["label"]
    counted = np.arange(len(labels)) if keep is None else np.flatnonzero(labels == keep)
    shard_rows = shard_range(len(counted), *shard)
    local = counted[shard_rows.start : shard_rows.stop]
    span = range(local[0], local[-1] + 1) if len(local) else range(0)
    arrays = read_hdf5(paths, fields, span, num_points, check)
    arrays = {key: array[local - span.start] for key, array in arrays.items()}
    return arrays, shard_rows.start, len(counted)


def find_files(folder: Path, split: str, file_list: str) -> list[Path]:
    """The files ply_data_<split>*.h5, sorted: every process sees the same order.

    A `DataError` if there are none, or not those that the text file `file_list` names.
    """
    if not folder.is_dir():
        fail(folder, "folder not found")
    listed = folder / file_list
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        name = os.path.basename(line.strip())  # lists carry their makers' folders
        if name and not (folder / name).is_file():
            fail(folder / name, f"file not found, though {file_list} names it")
    paths = sorted(folder.glob(f"ply_data_{split}*.h5"))
    if not paths:
        fail(folder / f"ply_data_{split}*.h5", "no such file")
    return paths
