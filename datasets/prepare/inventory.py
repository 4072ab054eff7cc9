"""What a data folder holds, part by part, and the jobs that look for damage in it.

Files are found and read by the functions that training uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets.files import (
    MODELNET40,
    PACKED,
    RENDERINGS,
    SHAPENET,
    SHAPENETPART,
    DataError,
)
from datasets.hdf5 import MAX_LABELS, POINTS, Field, RowCheck, count_rows, read_hdf5
from datasets.prepare import checks
from datasets.prepare.checks import Problem, problem
from datasets.prepare.expected import Expected

TITLES = {
    "shapenet": "ShapeNetRender",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
    "shapenetpart": "ShapeNetPart",
}
# What one job reads: some 10 MB.
SHAPES_AT_ONCE, ROWS_AT_ONCE = 16, 256


class Job(NamedTuple):
    """A function of `checks`, its arguments, and how many items it reads."""

    function: Callable[..., list[Problem]]
    arguments: tuple[Any, ...]
    items: int


@dataclass
class Line:
    """A part of a data set, a line of the table.

    Attributes:
        archive: the data set; "" for what belongs to none.
        title: what the table calls it.
        found: how many shapes, pictures or files there are; None if it is absent.
        expected: the sizes that are right, each with who says so.
        problems: what is damaged.
    """

    archive: str
    title: str
    found: int | None
    expected: list[tuple[int, str]]
    problems: list[Problem] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether it is of none of the expected sizes."""
        right = [size for size, _ in self.expected]
        return self.found is not None and bool(right) and self.found not in right


class Inventory:
    """The parts of a data folder.

    Args:
        data_root: the folder.
        num_points: how many points every cloud must have at least; None for any number.
        quick: decode one picture of every shape, and compute no checksums.

    Attributes:
        lines: of the table, by title.
        jobs: what is still to be done to know `Line.problems`.
        absent: data sets of which nothing is there.
    """

    def __init__(
        self, data_root: Path, num_points: int | None = None, quick: bool = False
    ) -> None:
        self.root, self.num_points, self.quick = data_root, num_points, quick
        self.lines: dict[str, Line] = {}
        self.jobs: list[Job] = []
        self.absent: list[str] = []
        try:
            self._expected = Expected(data_root)
        except DataError as error:
            self._expected = Expected(None)
            line = self.lines[""] = Line("", "manifest.json", 1, [])
            line.problems.append(problem("", error))

    def add(self, archive: str) -> None:
        """Take up a data set, as far as it is there."""
        {
            "shapenet": self._add_shapenet,
            "modelnet40": self._add_modelnet,
            "scanobjectnn": self._add_scanobjectnn,
            "shapenetpart": self._add_shapenetpart,
        }[archive]()
        own = [line for line in self.lines.values() if line.archive == archive]
        if all(line.found is None for line in own):
            self.absent.append(archive)
        elif archive in self._expected.files:
            self._add_digests(archive)

    def _line(
        self, archive: str, part: str, found: int | None, title: str = ""
    ) -> Line:
        title = f"{title or TITLES[archive]} {part}".strip()
        line = Line(archive, title, found, self._expected.sizes(archive, part))
        self.lines[title] = line
        return line

    def _add_digests(self, archive: str) -> None:
        """Whether the files are those that the generator wrote."""
        entries = self._expected.files[archive]
        line = self._line(archive, "files", 0)
        line.expected = [(len(entries), "generated")]
        for entry in entries:
            path = self.root / entry["path"]
            line.found += path.is_file()
            words = (line.title, archive, path, entry["bytes"], entry["sha256"])
            self.jobs.append(Job(checks.check_digest, (*words, self.quick), 1))

    def _add_shapenet(self) -> None:
        from datasets.packed import MANIFEST, PackedShapes
        from datasets.shapenet_files import ShapeFiles, list_views, rendering

        archive, folder = "shapenet", self.root / PACKED
        packed, in_folder = (folder / MANIFEST).is_file(), {}
        if packed:
            clouds = self._line(archive, "clouds", 0, "ShapeNetPacked")
            pictures = self._line(archive, "pictures", 0, "ShapeNetPacked")
            try:
                whole = PackedShapes(folder)
            except DataError as error:
                clouds.problems.append(problem("", error))
            else:
                clouds.found = len(whole.shapes)
                pictures.found = int(whole.views.sum())
                in_folder = dict(zip(whole.shapes, whole.views.tolist(), strict=True))
                own = (clouds.title, folder, self.num_points, self.quick)
                self.jobs.append(Job(checks.check_packed, own, clouds.found))
        if not any((self.root / name).is_dir() for name in (SHAPENET, RENDERINGS)):
            if not packed:
                self._line(archive, "", None)
            return
        try:
            shapes = ShapeFiles(self.root).shapes
            views = [list_views(self.root, shape) for shape in shapes]
        except DataError as error:
            self._line(archive, "clouds", 0).problems.append(problem("", error))
            return
        if in_folder:
            now = {s: len(v) for s, v in zip(shapes, views, strict=True)}
            self._compare_packed(folder, clouds, in_folder, now)
        self._line(archive, "categories", len({s.split("/")[0] for s in shapes}))
        clouds = self._line(archive, "clouds", len(shapes))
        pictures = self._line(archive, "pictures", sum(map(len, views)))
        paths = []
        for number, (shape, names) in enumerate(zip(shapes, views, strict=True)):
            place = rendering(self.root, shape)
            if not names:
                reason = "no picture (*.png) of a shape that has a cloud"
                pictures.problems.append(Problem(pictures.title, place, reason))
            elif self.quick:
                names = (names[number % len(names)],)
            cloud = str(self.root / SHAPENET / f"{shape}.ply")
            paths.append((cloud, place, names))
        titles = (clouds.title, pictures.title)
        for start in range(0, len(paths), SHAPES_AT_ONCE):
            some = paths[start : start + SHAPES_AT_ONCE]
            words = (titles, archive, some, self.num_points)
            self.jobs.append(Job(checks.check_shapes, words, len(some)))

    @staticmethod
    def _compare_packed(
        folder: Path, line: Line, packed: dict[str, int], now: dict[str, int]
    ) -> None:
        """Whether packed shapes and their numbers of pictures are those of files."""
        other = sorted(
            shape
            for shape in packed.keys() | now.keys()
            if packed.get(shape) != now.get(shape)
        )
        if other:
            reason = (
                f"packed from other shapes or pictures than are there now: {other[0]}, "
                f"{len(other)} in all; "
                f"python -m datasets.packed --data_root {folder.parent} --overwrite"
            )
            line.problems.append(Problem(line.title, str(folder), reason))

    def _add_modelnet(self) -> None:
        from datasets import labelled

        if not (self.root / MODELNET40).is_dir():
            self._line("modelnet40", "", None)
            return
        self._add_labelled(
            "modelnet40",
            {split: split for split in ("train", "test")},
            lambda split: labelled.modelnet40_files(self.root, split),
            lambda: labelled.modelnet40_classes(self.root),
            len(labelled.MODELNET40_CLASSES),
        )

    def _add_scanobjectnn(self) -> None:
        from datasets import labelled

        for variant in labelled.VARIANTS:
            parts = {split: f"{variant} {split}" for split in ("train", "test")}
            places = [
                path
                for split in parts
                for path in labelled.scanobjectnn_candidates(self.root, split, variant)
            ]
            if not any(path.is_file() for path in places):
                self._line("scanobjectnn", variant, None)
                continue
            self._add_labelled(
                "scanobjectnn",
                parts,
                partial(labelled.scanobjectnn_files, self.root, variant=variant),
                partial(labelled.scanobjectnn_classes, self.root, variant),
                len(labelled.SCANOBJECTNN_CLASSES),
            )

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
        except DataError as error:  # told below, unless a line tells it of that file
            # Labels are out of range, or a file does not say how many classes it has.
            classes = published if Path(error.path).is_dir() else MAX_LABELS
            failure = error
        fields = {"data": POINTS, "label": Field("label", classes)}
        for split, part in parts.items():
            self._add_split(archive, part, split, find, fields)
        lines = [self.lines[f"{TITLES[archive]} {part}"] for part in parts.values()]
        known = {found.path for line in lines for found in line.problems}
        if failure is not None and failure.path not in known:
            lines[0].problems.append(problem("", failure))

    def _add_shapenetpart(self) -> None:
        from datasets import shapenet_part

        if not (self.root / SHAPENETPART).is_dir():
            self._line("shapenetpart", "", None)
            return
        for split in ("train", "val", "test"):
            self._add_split(
                *("shapenetpart", split, split),
                lambda split: shapenet_part.split_files(self.root, split),
                shapenet_part.FIELDS,
                shapenet_part.foreign_parts,
            )

    def _add_split(
        self,
        archive: str,
        part: str,
        split: str,
        find: Callable[[str], list[Path]],
        fields: Mapping[str, Field],
        check: RowCheck | None = None,
    ) -> None:
        """The files of a split: their rows, and jobs that read these."""
        line = self._line(archive, part, 0)
        try:
            paths = find(split)
        except DataError as error:
            line.problems.append(problem("", error))
            return
        for path in paths:
            try:
                rows = count_rows(path, fields, archive)
                line.found = (line.found or 0) + rows
                read_hdf5([path], fields, range(0), self.num_points, archive)
            except DataError as error:
                line.problems.append(problem("", error))
                continue
            for start in range(0, rows, ROWS_AT_ONCE):
                some = range(start, min(start + ROWS_AT_ONCE, rows))
                words = (line.title, archive, path, fields, some, check)
                self.jobs.append(Job(checks.check_rows, words, len(some)))
        if not line.problems:
            try:  # together, as training reads them
                read_hdf5(paths, fields, range(0), self.num_points, archive)
            except DataError as error:
                line.problems.append(problem("", error))
