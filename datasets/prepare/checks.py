"""The work of verifying: pieces of a data set, read as training reads them.

Each job is done by whichever process is free, and tells which files are damaged.
PyTorch is not imported here: every process would take seconds and memory for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.files import DataError, check_num_points, fail
from datasets.hdf5 import Field, RowCheck, read_hdf5
from datasets.packed import PackedShapes, checksum
from datasets.ply import read_ply
from datasets.png import read_picture
from datasets.prepare.pack import check


class Problem(NamedTuple):
    """What is wrong with a file, and the line of the table that counts it."""

    line: str
    path: str
    reason: str


def problem(line: str, error: DataError) -> Problem:
    """A reader's refusal as a `Problem`."""
    return Problem(line, error.path, error.problem)


def check_shapes(
    lines: tuple[str, str],
    archive: str,
    shapes: Sequence[tuple[str, str, Sequence[str]]],
    num_points: int | None,
) -> list[Problem]:
    """Read clouds and pictures.

    Args:
        lines: of the table, for clouds and for pictures.
        archive: see `datasets.files.how_to_get`.
        shapes: of each the path of its PLY, its pictures' folder, and their names.
        num_points: how many every cloud must have at least; None for any number.
    """
    found = []
    for cloud, folder, names in shapes:
        try:
            check_num_points(cloud, len(read_ply(cloud, archive)), num_points)
        except DataError as error:
            found.append(problem(lines[0], error))
        for name in names:
            try:
                read_picture(os.path.join(folder, name), archive)
            except DataError as error:
                found.append(problem(lines[1], error))
    return found


def check_rows(
    line: str,
    archive: str,
    path: Path,
    fields: Mapping[str, Field],
    rows: range,
    check: RowCheck | None,
) -> list[Problem]:
    """Read rows of an HDF5 file; the reader names one that is bad, this all of them."""
    try:
        read_hdf5([path], fields, rows, archive=archive, check=check)
    except DataError as error:
        if len(rows) == 1:
            return [problem(line, error)]
        middle = len(rows) // 2
        found = []
        for half in (rows[:middle], rows[middle:]):
            found += check_rows(line, archive, path, fields, half, check)
        return found
    return []


def check_digest(
    line: str, archive: str, path: Path, size: int, sha256: str, quick: bool
) -> list[Problem]:
    """Compare a file's size and, unless `quick`, its SHA-256 with what was written."""
    try:
        if not path.is_file():
            fail(path, "file not found, though manifest.json names it", archive)
        if path.stat().st_size != size:
            fail(path, f"has {path.stat().st_size} bytes, {size} were written", archive)
        if not quick and checksum(path) != sha256:
            fail(path, "another SHA-256 than that of what was written", archive)
    except DataError as error:
        return [problem(line, error)]
    return []


def check_packed(
    line: str, folder: Path, num_points: int | None, quick: bool
) -> list[Problem]:
    """Compare the checksums of a packed folder, and look at its clouds.

    Args:
        line: of the table.
        folder: ``<data_root>/ShapeNetPacked``.
        num_points: how many every cloud must have at least; None for any number.
        quick: leave out the checksums.
    """
    try:
        if not quick:
            check(folder)
        packed = PackedShapes(folder)
    except DataError as error:
        return [problem(line, error)]
    found = []
    for index, shape in enumerate(packed.shapes):
        try:
            count = len(packed.cloud(index))
            check_num_points(f"{folder}, {shape}", count, num_points)
        except DataError as error:
            found.append(problem(line, error))
    return found
