"""What a data folder holds, part by part, and the reads that find damage.

Files are found and read by the functions that training uses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import labelled, shapenet_part
from datasets.files import (
    ARCHIVES,
    MODELNET40,
    PACKED,
    RENDERINGS,
    SHAPENET,
    SHAPENETPART,
    DataError,
    check_num_points,
    fail,
)
from datasets.hdf5 import MAX_LABELS, Fields, RowCheck, opened, read_hdf5
from datasets.packed import MANIFEST as PACKED_MANIFEST
from datasets.packed import PackedShapes
from datasets.prepare.pack import check as check_checksums
from datasets.shapenet_files import ShapeFiles, rendering

TITLES = {
    "shapenet": "ShapeNetRender",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
    "shapenetpart": "ShapeNetPart",
}
# Published sizes: data set, with its variant if it has some -> part -> number.
VIEWS = 24  # images of a shape
PUBLISHED = {
    "shapenet": {"categories": 13, "clouds": 43_783, "pictures": VIEWS * 43_783},
    "modelnet40": {"train": 9_840, "test": 2_468},
    "scanobjectnn obj_bg": {"train": 2_309, "test": 581},
    "scanobjectnn obj_only": {"train": 2_309, "test": 581},
    "scanobjectnn pb_t50_rs": {"train": 11_416, "test": 2_882},
    "shapenetpart": {"train": 12_137, "val": 1_870, "test": 2_874},
}
ASIDE = f"{RENDERINGS}.damaged"  # in --data_root: images that were set aside
MANIFEST = "manifest.json"  # written by `datasets.synthetic`
ROWS_AT_ONCE = 256  # of an HDF5 file: about 6 MB
Problem = tuple[str, str]  # a file, and what is wrong with it


@dataclass
class Part:
    """A part of a data set: a line of the table.

    Attributes:
        key: the data set, with its variant, as in `PUBLISHED`; "" for the manifest.
        name: of the part.
        found: number of shapes, images or files; None if it is absent.
        aside: how many more `datasets.verify --set_aside` has moved away.
        expected: the accepted sizes: origin -> number.
        problems: what is damaged.
        jobs: reads still to be done, each of which returns more problems.
        title: of the line.
    """

    key: str
    name: str
    found: int | None = 0
    expected: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    jobs: list[Callable[[], list[Problem]]] = field(default_factory=list)
    title: str = ""
    aside: int = 0

    def __post_init__(self) -> None:
        self.dataset, _, variant = self.key.partition(" ")
        title = self.title or TITLES.get(self.dataset, "")
        self.title = " ".join(filter(None, (title, variant, self.name)))

    @property
    def differs(self) -> bool:
        """Whether it has none of the expected sizes."""
        sizes = self.expected.values()
        if self.found is None or not sizes:
            return False
        return self.found + self.aside not in sizes


@contextlib.contextmanager
def noting(problems: list[Problem]) -> Iterator[None]:
    """Note the `DataError` that ends the block, if one does."""
    try:
        yield
    except DataError as error:
        problems.append((error.path, error.problem))


def problems_of(read: Callable, *arguments: Any) -> list[Problem]:
    """Call a reader; its `DataError`, if it raises one."""
    problems: list[Problem] = []
    with noting(problems):
        read(*arguments)
    return problems


def read_cloud(
    shapes: ShapeFiles | PackedShapes, index: int, num_points: int | None
) -> None:
    """Read a cloud of ShapeNetRender, which should have so many points or more."""
    check_num_points(shapes.where(index), len(shapes.cloud(index)), num_points)


def check_images(shapes: ShapeFiles, index: int, quick: bool) -> list[Problem]:
    """Decode every image of a shape, or with `quick` one, not always the first."""
    count = int(shapes.image_counts[index])
    if count == 0:
        place = rendering(shapes.root, shapes.shapes[index])
        return [(place, "no image (*.png) of a shape that has a cloud")]
    views = [index % count] if quick else range(count)
    return [p for view in views for p in problems_of(shapes.image, index, view)]


def check_rows(read: Callable[[range], object], rows: range) -> list[Problem]:
    """Read rows of an HDF5 file, and one by one if that fails, to name each bad one."""
    problems = problems_of(read, rows)
    if not problems:
        return []
    return [p for row in rows for p in problems_of(read, range(row, row + 1))]


def shapenet_parts(args: argparse.Namespace) -> Iterator[Part]:
    """ShapeNetRender's packed form and its single files, where they exist."""
    root = args.data_root
    forms: list[tuple[str, Callable[[], ShapeFiles | PackedShapes]]] = []
    if (root / PACKED / PACKED_MANIFEST).is_file():
        forms.append((PACKED, partial(PackedShapes, root / PACKED)))
    if (root / SHAPENET).is_dir() or (root / RENDERINGS).is_dir():
        forms.append((TITLES["shapenet"], partial(ShapeFiles, root)))
    for title, read_form in forms:
        clouds = Part("shapenet", "clouds", title=title)
        images = Part("shapenet", "pictures", None, title=title)
        with noting(clouds.problems):
            shapes = read_form()
            clouds.found, images.found = (
                len(shapes.shapes),
                int(shapes.image_counts.sum()),
            )
            every = range(clouds.found)
            if isinstance(shapes, ShapeFiles):
                synsets = {shape.split("/")[0] for shape in shapes.shapes}
                yield Part("shapenet", "categories", len(synsets))
                quick = args.quick
                images.aside = len(list((root / ASIDE).rglob("*.png")))
                images.jobs = [partial(check_images, shapes, i, quick) for i in every]
            elif not args.quick:
                checks = partial(problems_of, check_checksums, shapes.folder)
                clouds.jobs.append(checks)
            for i in every:
                read = partial(problems_of, read_cloud, shapes, i, args.num_points)
                clouds.jobs.append(read)
            if isinstance(shapes, PackedShapes):
                shapes.check_current()
        yield from (clouds, images)


def split_part(
    part: Part,
    find: Callable[[str], list[Path]],
    fields: Fields,
    num_points: int | None,
    check: RowCheck | None = None,
) -> Part:
    """Count the rows of a split in HDF5 files, and add the jobs that read them."""
    paths: list[Path] = []
    with noting(part.problems):
        paths = find(part.name)
    part.found = 0
    for path in paths:
        with noting(part.problems):
            with opened(path, fields, num_points) as (_, count, _):
                rows = range(count)
            part.found += len(rows)
            read = partial(read_hdf5, [path], fields, check=check)
            for start in rows[::ROWS_AT_ONCE]:
                some = rows[start : start + ROWS_AT_ONCE]
                part.jobs.append(partial(check_rows, read, some))
    if not part.problems:  # the files together, as training reads them
        with noting(part.problems):
            read_hdf5(paths, fields, range(0), num_points)
    return part


def labelled_parts(
    args: argparse.Namespace,
    key: str,
    find: Callable[[str], list[Path]],
    class_names: Callable[[], list[str]],
) -> list[Part]:
    """The splits of ModelNet40, or of a variant of ScanObjectNN."""
    problems: list[Problem] = []
    classes = MAX_LABELS  # where a damaged file hides how many there are
    with noting(problems):
        classes = len(class_names())
    fields = {"data": None, "label": classes}
    parts = [Part(key, split) for split in PUBLISHED[key]]
    for part in parts:
        split_part(part, find, fields, args.num_points)
    # The splits find themselves what is wrong with HDF5 files.
    parts[0].problems += [x for x in problems if not x[0].endswith(".h5")]
    return parts


def list_parts(args: argparse.Namespace, dataset: str) -> Iterator[Part]:
    """The parts of a data set that are there, and the variants that are not."""
    root = args.data_root
    if dataset == "shapenet":
        yield from shapenet_parts(args)
    elif dataset == "modelnet40" and (root / MODELNET40).is_dir():
        find = partial(labelled.modelnet40_files, root)
        names = partial(labelled.modelnet40_classes, root)
        yield from labelled_parts(args, dataset, find, names)
    elif dataset == "scanobjectnn":
        for variant in labelled.VARIANTS:
            key = f"{dataset} {variant}"
            find = partial(labelled.scanobjectnn_files, root, variant=variant)
            names = partial(labelled.scanobjectnn_classes, root, variant)
            if all(problems_of(find, split) for split in PUBLISHED[key]):
                yield Part(key, "", None)
            else:
                yield from labelled_parts(args, key, find, names)
    elif dataset == "shapenetpart" and (root / SHAPENETPART).is_dir():
        find = partial(shapenet_part.split_files, root)
        fields, check = shapenet_part.FIELDS, shapenet_part.foreign_parts
        for split in PUBLISHED[dataset]:
            part = Part(dataset, split)
            yield split_part(part, find, fields, args.num_points, check)


def read_manifest(path: Path) -> dict[str, dict[str, int]]:
    """The sizes that `datasets.synthetic` wrote, if it did, as in `PUBLISHED`.

    Raises:
        DataError: if the manifest is damaged.
    """
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("generator") != "datasets.synthetic":
            return {}
        counts = {ARCHIVES[k]: v["counts"] for k, v in manifest["datasets"].items()}
        clouds = counts["shapenet"]["all"]
        counts["shapenet"] = {"clouds": clouds, "pictures": VIEWS * clouds}
        return {key: counts[key.split()[0]] for key in PUBLISHED}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        fail(path, f"not a readable manifest of datasets.synthetic ({error})")


def inventory(args: argparse.Namespace) -> list[Part]:
    """Every line of the table, with its expected sizes and its jobs."""
    generated: dict[str, dict[str, int]] = {}
    manifest = Part("", MANIFEST, 1)
    with noting(manifest.problems):
        generated = read_manifest(args.data_root / MANIFEST)
    parts = [manifest] if manifest.problems else []
    for dataset in args.dataset or TITLES:
        some = list(list_parts(args, dataset)) or [Part(dataset, "", None)]
        for part in some:
            published, own = PUBLISHED.get(part.key, {}), generated.get(part.key)
            if own is not None and part.name in own:
                part.expected["generated"] = own[part.name]
            if part.name in published and (own is None or part.name in own):
                part.expected["published"] = published[part.name]
        parts += some
    return parts
