"""What a data folder holds, part by part, and the jobs that look for damage in it.

Files are found and read by the functions that training uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import labelled, shapenet_part
from datasets.files import (
    MODELNET40,
    PACKED,
    RENDERINGS,
    SCANOBJECTNN,
    SHAPENET,
    SHAPENETPART,
    DataError,
    fail,
)
from datasets.hdf5 import MAX_LABELS, POINTS, Field, RowCheck, count_rows, read_hdf5
from datasets.packed import MANIFEST as PACKED_MANIFEST
from datasets.packed import PackedShapes
from datasets.prepare.checks import (
    Problem,
    check_digest,
    check_packed,
    check_rows,
    check_shapes,
    problem,
    problem_of,
)
from datasets.shapenet_files import ShapeFiles

TITLES = {
    "shapenet": "ShapeNetRender",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
    "shapenetpart": "ShapeNetPart",
}
FOLDERS = {
    "modelnet40": MODELNET40,
    "scanobjectnn": SCANOBJECTNN,
    "shapenetpart": SHAPENETPART,
}
# Sizes as published: data set -> part -> number.
PUBLISHED = {
    "shapenet": {"categories": 13, "clouds": 43_783, "pictures": 24 * 43_783},
    "modelnet40": {"train": 9_840, "test": 2_468},
    "scanobjectnn": {
        **{f"{v} train": 2_309 for v in ("obj_bg", "obj_only")},
        **{f"{v} test": 581 for v in ("obj_bg", "obj_only")},
        "pb_t50_rs train": 11_416,
        "pb_t50_rs test": 2_882,
    },
    "shapenetpart": {"train": 12_137, "val": 1_870, "test": 2_874},
}
MANIFEST = "manifest.json"  # of `datasets.synthetic`
SHAPES_AT_ONCE, ROWS_AT_ONCE = 16, 256  # a job reads some 10 MB


@dataclass
class Line:
    """A part of a data set: a line of the table.

    Attributes:
        archive: the data set; "" for what belongs to none.
        title: what the table calls it.
        found: how many shapes, images or files there are; None if it is absent.
        expected: the sizes that are right, each with its origin.
        problems: what is damaged.
    """

    archive: str
    title: str
    found: int | None
    expected: list[tuple[int, str]]
    problems: list[Problem] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether it has none of the expected sizes."""
        right = [size for size, _ in self.expected]
        return self.found is not None and bool(right) and self.found not in right


class Job(NamedTuple):
    """A function that reads something, and the lines that its results belong to."""

    function: Callable[..., list[list[Problem]]]
    arguments: tuple[Any, ...]
    lines: list[Line]
    items: int


class Inventory:
    """The parts of a data folder.

    Args:
        data_root: the folder.
        num_points: how many points every cloud must have at least; None for any number.
        quick: decode one image of every shape, and compute no checksums.

    Attributes:
        lines: of the table.
        jobs: what is still to be done to know `Line.problems`.
        absent: data sets of which nothing exists.
    """

    def __init__(
        self, data_root: Path, num_points: int | None = None, quick: bool = False
    ) -> None:
        self.root, self.num_points, self.quick = data_root, num_points, quick
        self.lines: list[Line] = []
        self.jobs: list[Job] = []
        self.absent: list[str] = []
        # data set -> part -> number, and data set -> files, as the generator wrote them
        self._generated: dict[str, dict[str, int]] = {}
        self._files: dict[str, list[dict[str, Any]]] = {}
        try:
            self._read_manifest()
        except DataError as error:
            self.lines.append(Line("", MANIFEST, 1, [], [problem(error)]))

    def _read_manifest(self) -> None:
        path = self.root / MANIFEST
        if not path.exists():
            return
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest.get("generator") != "datasets.synthetic":
                return
            trees = manifest["datasets"]
            generated = {
                "shapenet": {
                    "clouds": int(trees[SHAPENET]["counts"]["all"]),
                    "pictures": int(trees[RENDERINGS]["files"][0]["count"]),
                }
            }
            for name, folder in FOLDERS.items():
                counts = trees[folder]["counts"]
                generated[name] = {
                    part: int(counts[part.split()[-1]]) for part in PUBLISHED[name]
                }
                self._files[name] = [
                    {key: entry[key] for key in ("path", "bytes", "sha256")}
                    for entry in trees[folder]["files"]
                ]
            self._generated = generated
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self._files = {}
            fail(path, f"not a readable manifest of datasets.synthetic ({error})")

    def _line(
        self, archive: str, part: str, found: int | None, title: str = ""
    ) -> Line:
        """Add a line of the table, with the sizes that are right."""
        expected = []
        generated = self._generated.get(archive, {})
        if part in generated:
            expected.append((generated[part], "generated"))
        if part in PUBLISHED[archive] and (part in generated or not generated):
            expected.append((PUBLISHED[archive][part], "published"))
        title = f"{title or TITLES[archive]} {part}".strip()
        self.lines.append(Line(archive, title, found, expected))
        return self.lines[-1]

    def add(self, archive: str) -> None:
        """Add a data set, as far as it exists."""
        {
            "shapenet": self._add_shapenet,
            "modelnet40": self._add_modelnet,
            "scanobjectnn": self._add_scanobjectnn,
            "shapenetpart": self._add_shapenetpart,
        }[archive]()
        if all(line.found is None for line in self.lines if line.archive == archive):
            self.absent.append(archive)
            return
        if entries := self._files.get(archive):  # those that the generator wrote
            line = self._line(archive, "files", 0)
            line.expected = [(len(entries), "generated")]
            line.found = sum((self.root / e["path"]).is_file() for e in entries)
            for entry in entries:
                path = self.root / str(entry["path"])
                words = (archive, path, entry["bytes"], entry["sha256"], self.quick)
                self.jobs.append(Job(check_digest, words, [line], 1))

    def _add_shapenet(self) -> None:
        packed = (self.root / PACKED / PACKED_MANIFEST).is_file()
        if packed:
            self._add_packed()
        if not any((self.root / name).is_dir() for name in (SHAPENET, RENDERINGS)):
            if not packed:
                self._line("shapenet", "", None)
            return
        try:
            shapes = ShapeFiles(self.root)
        except DataError as error:
            self._line("shapenet", "clouds", 0).problems.append(problem(error))
            return
        count = len(shapes.shapes)
        synsets = {shape.split("/")[0] for shape in shapes.shapes}
        self._line("shapenet", "categories", len(synsets))
        clouds = self._line("shapenet", "clouds", count)
        pictures = self._line("shapenet", "pictures", int(shapes.views.sum()))
        for start in range(0, count, SHAPES_AT_ONCE):
            some = shapes.select(range(start, min(start + SHAPES_AT_ONCE, count)))
            words = (some, start, self.num_points, self.quick)
            both = [clouds, pictures]
            self.jobs.append(Job(check_shapes, words, both, len(some.shapes)))

    def _add_packed(self) -> None:
        clouds = self._line("shapenet", "clouds", 0, "ShapeNetPacked")
        pictures = self._line("shapenet", "pictures", 0, "ShapeNetPacked")
        try:
            shapes = PackedShapes(self.root / PACKED)
        except DataError as error:
            clouds.problems.append(problem(error))
            return
        clouds.found, pictures.found = len(shapes.shapes), int(shapes.views.sum())
        clouds.problems += problem_of(shapes.check_current)
        words = (shapes, self.num_points, self.quick)
        self.jobs.append(Job(check_packed, words, [clouds], clouds.found))

    def _add_modelnet(self) -> None:
        if not (self.root / MODELNET40).is_dir():
            self._line("modelnet40", "", None)
            return
        self._add_labelled(
            "modelnet40",
            {split: split for split in ("train", "test")},
            partial(labelled.modelnet40_files, self.root),
            partial(labelled.modelnet40_classes, self.root),
            len(labelled.MODELNET40_CLASSES),
        )

    def _add_scanobjectnn(self) -> None:
        for variant in labelled.VARIANTS:
            parts = {split: f"{variant} {split}" for split in ("train", "test")}
            find = partial(labelled.scanobjectnn_files, self.root, variant=variant)
            if all(problem_of(find, split) for split in parts):
                self._line("scanobjectnn", variant, None)
                continue
            classes = partial(labelled.scanobjectnn_classes, self.root, variant)
            published = len(labelled.SCANOBJECTNN_CLASSES)
            self._add_labelled("scanobjectnn", parts, find, classes, published)

    def _add_labelled(
        self,
        archive: str,
        parts: Mapping[str, str],
        find: Callable[[str], list[Path]],
        class_names: Callable[[], Sequence[str]],
        published: int,
    ) -> None:
        """The splits of a classification data set, `parts` naming their lines."""
        failure = None
        try:
            classes = len(class_names())
        except DataError as error:  # reported below, unless a line reports that file
            # Labels are out of range, or a file does not say how many classes it has.
            classes = published if Path(error.path).is_dir() else MAX_LABELS
            failure = problem(error)
        fields = {"data": POINTS, "label": Field("label", classes)}
        lines = [
            self._add_split(archive, part, partial(find, split), fields)
            for split, part in parts.items()
        ]
        known = {path for line in lines for path, _ in line.problems}
        if failure is not None and failure[0] not in known:
            lines[0].problems.append(failure)

    def _add_shapenetpart(self) -> None:
        if not (self.root / SHAPENETPART).is_dir():
            self._line("shapenetpart", "", None)
            return
        for split in ("train", "val", "test"):
            find = partial(shapenet_part.split_files, self.root, split)
            fields, check = shapenet_part.FIELDS, shapenet_part.foreign_parts
            self._add_split("shapenetpart", split, find, fields, check)

    def _add_split(
        self,
        archive: str,
        part: str,
        find: Callable[[], list[Path]],
        fields: Mapping[str, Field],
        check: RowCheck | None = None,
    ) -> Line:
        """The files of a split: their rows, and jobs that read these."""
        line = self._line(archive, part, 0)
        paths: list[Path] = []
        line.problems += problem_of(lambda: paths.extend(find()))
        found = 0
        for path in paths:
            try:
                rows = count_rows(path, fields, archive)
                found += rows
                read_hdf5([path], fields, range(0), self.num_points, archive)
            except DataError as error:
                line.problems.append(problem(error))
                continue
            for start in range(0, rows, ROWS_AT_ONCE):
                some = range(start, min(start + ROWS_AT_ONCE, rows))
                words = (archive, path, fields, some, check)
                self.jobs.append(Job(check_rows, words, [line], len(some)))
        line.found = found
        if not line.problems:  # together, as training reads them
            nothing = range(0)
            line.problems += problem_of(
                read_hdf5, paths, fields, nothing, self.num_points, archive
            )
        return line
