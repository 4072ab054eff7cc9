"""What a data folder should hold, part by part, and the jobs that look for damage.

Files are found and read by the functions that training uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import labelled, shapenet_part
from datasets.files import (
    MODELNET40,
    PACKED,
    RENDERINGS,
    SCANOBJECTNN,
    SHAPENET,
    SHAPENETPART,
    DataError,
    check_num_points,
    fail,
)
from datasets.hdf5 import MAX_LABELS, POINTS, Field, RowCheck, count_rows, read_hdf5
from datasets.packed import MANIFEST as PACKED_MANIFEST
from datasets.packed import PackedShapes, checksum
from datasets.prepare.pack import check
from datasets.shapenet_files import ShapeFiles, rendering

MANIFEST = "manifest.json"  # written by `datasets.synthetic`
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
# Published sizes: data set -> part -> number.
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
SHAPES_AT_ONCE, ROWS_AT_ONCE = 16, 256  # a job reads about 10 MB
Problem = tuple[str, str]  # a file, and what is wrong with it


@dataclass
class Line:
    """A line of the table: a part of a data set.

    Attributes:
        archive: the data set; "" for what belongs to none.
        title: its name in the table.
        found: number of shapes, images or files; None if it is absent.
        expected: the accepted sizes, each with its origin.
        problems: what is damaged.
        jobs: functions still to be called, each of which returns more problems.
    """

    archive: str
    title: str
    found: int | None
    expected: list[tuple[int, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    jobs: list[Callable[[], list[Problem]]] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether it has none of the expected sizes."""
        right = [size for size, _ in self.expected]
        return self.found is not None and bool(right) and self.found not in right


def problems_of(read: Callable, *arguments: Any) -> list[Problem]:
    """Call a reader; its `DataError`, if it raises one."""
    try:
        read(*arguments)
    except DataError as error:
        return [(error.path, error.problem)]
    return []


def check_clouds(shapes: ShapeFiles | PackedShapes, least: int | None) -> list[Problem]:
    """Read every cloud; it should have at least `least` points."""

    def read(index: int) -> None:
        check_num_points(shapes.where(index), len(shapes.cloud(index)), least)

    return [p for i in range(len(shapes.shapes)) for p in problems_of(read, i)]


def check_images(shapes: ShapeFiles, start: int, quick: bool) -> list[Problem]:
    """Decode every image, or with `quick` one of each shape.

    `start`, the number of the first shape in the complete set, decides which one.
    """
    problems = []
    for index, count in enumerate(shapes.views):
        views = range(count)
        if not views:
            place = rendering(shapes.root, shapes.shapes[index])
            problems.append((place, "no picture (*.png) of a shape that has a cloud"))
        elif quick:
            views = views[(start + index) % count :][:1]
        for view in views:
            problems += problems_of(shapes.picture, index, view)
    return problems


def check_packed(shapes: PackedShapes, least: int | None, quick: bool) -> list[Problem]:
    """Compare the checksums unless `quick`; if they agree, read every cloud."""
    digests = [] if quick else problems_of(check, shapes.folder)
    return digests or check_clouds(shapes, least)


def check_rows(read: Callable[[range], object], rows: range) -> list[Problem]:
    """Read rows of an HDF5 file, halved until each bad row is known."""
    problems = problems_of(read, rows)
    if not problems or len(rows) == 1:
        return problems
    middle = len(rows) // 2
    return check_rows(read, rows[:middle]) + check_rows(read, rows[middle:])


def check_digest(path: Path, entry: dict[str, Any], quick: bool) -> list[Problem]:
    """Compare a file's size and, unless `quick`, its SHA-256 with the manifest's."""
    wrong = ""
    if not path.is_file():
        wrong = f"file not found, though {MANIFEST} names it"
    elif (size := path.stat().st_size) != entry["bytes"]:
        wrong = f"has {size} bytes, {entry['bytes']} were written"
    elif not quick and checksum(path) != entry["sha256"]:
        wrong = "another SHA-256 than that of what was written"
    return [(str(path), wrong)] if wrong else []


class Inventory:
    """The parts of a data folder.

    Args:
        root: the folder.
        num_points: least number of points of a cloud; None for any number.
        quick: decode one image of every shape, and compute no checksums.

    Attributes:
        lines: of the table.
        absent: data sets of which nothing exists.
    """

    def __init__(
        self, root: Path, num_points: int | None = None, quick: bool = False
    ) -> None:
        self.root, self.num_points, self.quick = root, num_points, quick
        self.lines: list[Line] = []
        self.absent: list[str] = []
        # From the manifest: data set -> part -> size, and data set -> its files.
        self._generated: dict[str, dict[str, int]] = {}
        self._files: dict[str, list[dict[str, Any]]] = {}
        if problems := problems_of(self._read_manifest):
            self.lines.append(Line("", MANIFEST, 1, problems=problems))

    def _read_manifest(self) -> None:
        path = self.root / MANIFEST
        if not path.exists():
            return
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest.get("generator") != "datasets.synthetic":
                return
            trees = manifest["datasets"]
            clouds = int(trees[SHAPENET]["counts"]["all"])
            images = int(trees[RENDERINGS]["files"][0]["count"])
            sizes, files = {"shapenet": {"clouds": clouds, "pictures": images}}, {}
            for name, folder in FOLDERS.items():
                of = trees[folder]["counts"]
                sizes[name] = {p: int(of[p.split()[-1]]) for p in PUBLISHED[name]}
                files[name] = [
                    {key: entry[key] for key in ("path", "bytes", "sha256")}
                    for entry in trees[folder]["files"]
                ]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            fail(path, f"not a readable manifest of datasets.synthetic ({error})")
        self._generated, self._files = sizes, files

    def _line(
        self, archive: str, part: str, found: int | None = 0, title: str = ""
    ) -> Line:
        """Add a line with its expected sizes."""
        generated, published = self._generated.get(archive, {}), PUBLISHED[archive]
        line = Line(archive, f"{title or TITLES[archive]} {part}".strip(), found)
        if part in generated:
            line.expected.append((generated[part], "generated"))
        if part in published and (part in generated or not generated):
            line.expected.append((published[part], "published"))
        self.lines.append(line)
        return line

    def add(self, archive: str) -> None:
        """Add the parts of a data set that exist."""
        getattr(self, f"_add_{archive}")()
        if all(line.found is None for line in self.lines if line.archive == archive):
            self.absent.append(archive)
        elif files := self._files.get(archive):
            line = self._line(archive, "files")
            line.expected = [(len(files), "generated")]
            paths = [self.root / str(entry["path"]) for entry in files]
            line.found = sum(path.is_file() for path in paths)
            for path, entry in zip(paths, files, strict=True):
                line.jobs.append(partial(check_digest, path, entry, self.quick))

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
            line = self._line("shapenet", "clouds")
            line.problems.append((error.path, error.problem))
            return
        count = len(shapes.shapes)
        synsets = {shape.split("/")[0] for shape in shapes.shapes}
        self._line("shapenet", "categories", len(synsets))
        clouds = self._line("shapenet", "clouds", count)
        images = self._line("shapenet", "pictures", int(shapes.views.sum()))
        for start in range(0, count, SHAPES_AT_ONCE):
            some = shapes.select(range(start, min(start + SHAPES_AT_ONCE, count)))
            clouds.jobs.append(partial(check_clouds, some, self.num_points))
            images.jobs.append(partial(check_images, some, start, self.quick))

    def _add_packed(self) -> None:
        clouds = self._line("shapenet", "clouds", title="ShapeNetPacked")
        images = self._line("shapenet", "pictures", title="ShapeNetPacked")
        try:
            shapes = PackedShapes(self.root / PACKED)
        except DataError as error:
            clouds.problems.append((error.path, error.problem))
            return
        clouds.found, images.found = len(shapes.shapes), int(shapes.views.sum())
        clouds.problems += problems_of(shapes.check_current)
        clouds.jobs.append(partial(check_packed, shapes, self.num_points, self.quick))

    def _add_modelnet40(self) -> None:
        if not (self.root / MODELNET40).is_dir():
            self._line("modelnet40", "", None)
            return
        find = partial(labelled.modelnet40_files, self.root)
        classes = partial(labelled.modelnet40_classes, self.root)
        published = len(labelled.MODELNET40_CLASSES)
        self._add_labelled("modelnet40", "", find, classes, published)

    def _add_scanobjectnn(self) -> None:
        published = len(labelled.SCANOBJECTNN_CLASSES)
        for variant in labelled.VARIANTS:
            find = partial(labelled.scanobjectnn_files, self.root, variant=variant)
            classes = partial(labelled.scanobjectnn_classes, self.root, variant)
            if all(problems_of(find, split) for split in ("train", "test")):
                self._line("scanobjectnn", variant, None)
                continue
            prefix = f"{variant} "
            self._add_labelled("scanobjectnn", prefix, find, classes, published)

    def _add_labelled(
        self,
        archive: str,
        prefix: str,
        find: Callable[[str], list[Path]],
        class_names: Callable[[], Sequence[str]],
        published: int,
    ) -> None:
        """The splits of a classification data set."""
        failure = []
        try:
            classes = len(class_names())
        except DataError as error:
            # Labels are out of range, or a file does not say how many classes it has.
            classes = published if Path(error.path).is_dir() else MAX_LABELS
            failure = [(error.path, error.problem)]
        fields = {"data": POINTS, "label": Field("label", classes)}
        lines = [
            self._add_split(archive, prefix + split, partial(find, split), fields)
            for split in ("train", "test")
        ]
        known = {path for line in lines for path, _ in line.problems}
        lines[0].problems += [new for new in failure if new[0] not in known]

    def _add_shapenetpart(self) -> None:
        if not (self.root / SHAPENETPART).is_dir():
            self._line("shapenetpart", "", None)
            return
        fields, check = shapenet_part.FIELDS, shapenet_part.foreign_parts
        for split in ("train", "val", "test"):
            find = partial(shapenet_part.split_files, self.root, split)
            self._add_split("shapenetpart", split, find, fields, check)

    def _add_split(
        self,
        archive: str,
        part: str,
        find: Callable[[], list[Path]],
        fields: Mapping[str, Field],
        check: RowCheck | None = None,
    ) -> Line:
        """The files of a split: count their rows, and add jobs that read these."""
        line = self._line(archive, part)
        paths: list[Path] = []
        line.problems += problems_of(lambda: paths.extend(find()))
        found, nothing, least = 0, range(0), self.num_points
        for path in paths:
            try:
                rows = count_rows(path, fields, archive)
                found += rows
                read_hdf5([path], fields, nothing, least, archive)
            except DataError as error:
                line.problems.append((error.path, error.problem))
                continue
            read = partial(read_hdf5, [path], fields, archive=archive, check=check)
            for start in range(0, rows, ROWS_AT_ONCE):
                some = range(start, min(start + ROWS_AT_ONCE, rows))
                line.jobs.append(partial(check_rows, read, some))
        line.found = found
        if not line.problems:  # all files together, as training reads them
            line.problems = problems_of(
                read_hdf5, paths, fields, nothing, least, archive
            )
        return line
