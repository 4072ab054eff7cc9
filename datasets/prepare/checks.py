"""The jobs of verifying: each reads some files and returns which are damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets.files import DataError, check_num_points, fail
from datasets.hdf5 import Field, RowCheck, read_hdf5
from datasets.packed import PackedShapes, checksum
from datasets.prepare.pack import check
from datasets.shapenet_files import ShapeFiles, rendering

Problem = tuple[str, str]  # the file, and what is wrong with it


def problem(error: DataError) -> Problem:
    """A reader's refusal as a `Problem`."""
    return error.path, error.problem


def problem_of(read: Callable, *arguments: Any) -> list[Problem]:
    """Whether reading something ends in a `DataError`."""
    try:
        read(*arguments)
    except DataError as error:
        return [problem(error)]
    return []


def read_cloud(shapes: ShapeFiles | PackedShapes, index: int, least: int | None) -> int:
    """Read a cloud, and refuse it if it has fewer points than `least`."""
    count = len(shapes.cloud(index))
    return check_num_points(shapes.where(index), count, least)


def check_shapes(
    shapes: ShapeFiles, start: int, num_points: int | None, quick: bool
) -> list[list[Problem]]:
    """Read clouds and images; the problems of each kind.

    Args:
        shapes: what to read.
        start: number of the first shape in the whole set, which decides the image that
            `quick` reads.
        num_points: how many points every cloud must have at least; None for any number.
        quick: read one image of each shape instead of all.
    """
    clouds, pictures = [], []
    for index in range(len(shapes.shapes)):
        clouds += problem_of(read_cloud, shapes, index, num_points)
        views = range(shapes.views[index])
        if not views:
            place = rendering(shapes.root, shapes.shapes[index])
            reason = "no picture (*.png) of a shape that has a cloud"
            pictures.append((place, reason))
        elif quick:
            views = views[(start + index) % len(views) :][:1]
        for view in views:
            pictures += problem_of(shapes.picture, index, view)
    return [clouds, pictures]


def check_packed(
    shapes: PackedShapes, num_points: int | None, quick: bool
) -> list[list[Problem]]:
    """Compare the checksums unless `quick`, and read every packed cloud."""
    if not quick and (found := problem_of(check, shapes.folder)):
        return [found]
    found = []
    for index in range(len(shapes.shapes)):
        found += problem_of(read_cloud, shapes, index, num_points)
    return [found]


def check_rows(
    archive: str,
    path: Path,
    fields: Mapping[str, Field],
    rows: range,
    check: RowCheck | None,
) -> list[list[Problem]]:
    """Read rows of an HDF5 file; the reader names one that is bad, this all of them."""
    found = problem_of(read_hdf5, [path], fields, rows, None, archive, check)
    if not found or len(rows) == 1:
        return [found]
    middle, found = len(rows) // 2, []
    for half in (rows[:middle], rows[middle:]):
        found += check_rows(archive, path, fields, half, check)[0]
    return [found]


def check_digest(
    archive: str, path: Path, size: int, sha256: str, quick: bool
) -> list[list[Problem]]:
    """Compare a file's size and, unless `quick`, its SHA-256 with what was written."""

    def compare() -> None:
        if not path.is_file():
            fail(path, "file not found, though manifest.json names it", archive)
        if path.stat().st_size != size:
            fail(path, f"has {path.stat().st_size} bytes, {size} were written", archive)
        if not quick and checksum(path) != sha256:
            fail(path, "another SHA-256 than that of what was written", archive)

    return [problem_of(compare)]
