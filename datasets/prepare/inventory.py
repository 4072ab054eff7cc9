"""The parts of a data folder, and the reads that find damage.

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
from datasets.labelled import (
    LabelledClouds,
    ModelNet40,
    ScanObjectNN,
    scanobjectnn_candidates,
)
from datasets.packed import MANIFEST as PACKED_MANIFEST
from datasets.packed import PackedShapes
from datasets.prepare.pack import check as check_checksums
from datasets.shapenet_files import ShapeFiles, rendering
from datasets.shapenet_part import ShapeNetPart

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
Problem = tuple[str, str]  # a file, and what is wrong with it
Result = tuple[int, list[Problem]]  # how much was found, and the damage
Job = Callable[[], Result]


@dataclass
class Part:
    """A part of a data set: a line of the table.

    Attributes:
        key: the data set, with its variant, as in `PUBLISHED`; "" for the manifest.
        name: of the part.
        found: number of shapes or images; None if it is absent.
        jobs: pending reads, which add to `found` and `problems`.
        problems: what is damaged.
        expected: the accepted sizes: origin -> number.
        aside: how many more `datasets.verify --set_aside` has moved away.
        title: of the line.
    """

    key: str
    name: str
    found: int | None = 0
    jobs: list[Job] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)
    aside: int = 0
    title: str = ""

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


def reading(read: Callable[..., int | None], *arguments: Any) -> Result:
    """Run a reader; return its count and any `DataError`."""
    problems: list[Problem] = []
    count = None
    with noting(problems):
        count = read(*arguments)
    return count or 0, problems


def check_cloud(
    shapes: ShapeFiles | PackedShapes, index: int, num_points: int | None
) -> None:
    """Read a cloud of ShapeNetRender, which should have at least `num_points`."""
    check_num_points(shapes.where(index), len(shapes.cloud(index)), num_points)


def read_images(shapes: ShapeFiles, index: int, quick: bool) -> Result:
    """Read every image of a shape; with `quick` only one, not always the first."""
    count = int(shapes.image_counts[index])
    if count == 0:
        folder = rendering(shapes.root, shapes.shapes[index])
        return 0, [(folder, "no image (*.png) of a shape that has a cloud")]
    problems: list[Problem] = []
    for view in [index % count] if quick else range(count):
        with noting(problems):
            shapes.image(index, view)
    return count, problems


def rows_of(read: Callable[[], LabelledClouds | ShapeNetPart]) -> int:
    """Count the rows of a split in HDF5; reading stops at the first damage."""
    return read().total


def cloud_jobs(shapes: ShapeFiles | PackedShapes, num_points: int | None) -> list[Job]:
    """A read of every cloud."""
    indices = range(len(shapes.shapes))
    return [partial(reading, check_cloud, shapes, i, num_points) for i in indices]


def shapenet_parts(args: argparse.Namespace) -> Iterator[Part]:
    """ShapeNetRender's packed form and its single files, where they exist."""
    root = args.data_root
    if (root / PACKED / PACKED_MANIFEST).is_file():
        clouds = Part("shapenet", "clouds", title=PACKED)
        images = Part("shapenet", "pictures", None, title=PACKED)
        with noting(clouds.problems):
            packed = PackedShapes(root / PACKED)
            clouds.found = len(packed.shapes)
            images.found = int(packed.image_counts.sum())
            clouds.jobs = cloud_jobs(packed, args.num_points)
            if not args.quick:
                clouds.jobs.append(partial(reading, check_checksums, packed.folder))
            packed.check_current()
        yield from (clouds, images)
    if (root / SHAPENET).is_dir() or (root / RENDERINGS).is_dir():
        categories = Part("shapenet", "categories", None)
        clouds, images = Part("shapenet", "clouds"), Part("shapenet", "pictures", None)
        with noting(clouds.problems):
            files = ShapeFiles(root)
            categories.found = len({shape.split("/")[0] for shape in files.shapes})
            clouds.found = len(files.shapes)
            clouds.jobs = cloud_jobs(files, args.num_points)
            images.found, images.aside = 0, len(list((root / ASIDE).rglob("*.png")))
            indices = range(clouds.found)
            images.jobs = [partial(read_images, files, i, args.quick) for i in indices]
        yield from (categories, clouds, images)


def is_there(root: Path, dataset: str, variant: str) -> bool:
    """Whether there is anything of a data set in HDF5, or of a variant."""
    if dataset == "scanobjectnn":
        return any(
            path.is_file()
            for split in PUBLISHED["scanobjectnn obj_bg"]
            for path in scanobjectnn_candidates(root, split, variant)
        )
    return (root / (MODELNET40 if dataset == "modelnet40" else SHAPENETPART)).is_dir()


def list_parts(args: argparse.Namespace, dataset: str) -> Iterator[Part]:
    """The parts of a data set that are there, and the variants that are not."""
    root, num_points = args.data_root, args.num_points
    if dataset == "shapenet":
        yield from shapenet_parts(args)
    for key, splits in PUBLISHED.items():
        name, _, variant = key.partition(" ")
        if name != dataset or name == "shapenet":
            continue
        if not is_there(root, dataset, variant):
            yield Part(key, "", None)
            continue
        for split in splits:
            read: Callable[[], LabelledClouds | ShapeNetPart]
            if variant:
                read = partial(ScanObjectNN, root, split, variant, num_points)
            elif dataset == "modelnet40":
                read = partial(ModelNet40, root, split, num_points)
            else:
                read = partial(ShapeNetPart, root, split, num_points)
            yield Part(key, split, jobs=[partial(reading, rows_of, read)])


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
        listed = list(list_parts(args, dataset)) or [Part(dataset, "", None)]
        for part in listed:
            published, counts = PUBLISHED.get(part.key, {}), generated.get(part.key)
            if counts is not None and part.name in counts:
                part.expected["generated"] = counts[part.name]
            if part.name in published and (counts is None or part.name in counts):
                part.expected["published"] = published[part.name]
        parts += listed
    return parts
