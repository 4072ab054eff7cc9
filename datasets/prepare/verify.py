"""Check every file of a data folder: what exists, what is missing, what is damaged.

    python -m datasets.verify --data_root data
    python -m datasets.verify --data_root data --dataset modelnet40 shapenetpart
    python -m datasets.verify --data_root data --quick
    python -m datasets.verify --data_root data --set_aside

Every cloud and every image is read by the functions that training reads them with.
Sizes are compared with the published ones and with those in the manifest that
`datasets.synthetic` writes. A data set that is absent is wrong only where --dataset
names it, or where no other exists. Exit status: 0 if all checks passed, 1 if not, 2 for
wrong arguments. --set_aside moves damaged images of ShapeNetRendering to the folder
ShapeNetRendering.damaged beside it. A shape keeps its other images, or all of them if
none is intact.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.files import (
    ARCHIVES,
    GENERATE,
    MODELNET40,
    PACKED,
    RENDERINGS,
    SHAPENET,
    SHAPENETPART,
    DataError,
    check_num_points,
    download,
    fail,
)
from datasets.labelled import ModelNet40, ScanObjectNN, scanobjectnn_candidates
from datasets.packed import MANIFEST as PACKED_MANIFEST
from datasets.packed import PackedShapes
from datasets.prepare.sources import PUBLISHED, TITLES, VIEWS
from datasets.prepare.workers import results
from datasets.shapenet_files import ShapeFiles, list_images, rendering
from datasets.shapenet_part import ShapeNetPart
from utils.parallel.machine import cores

# What reads the data sets in HDF5, and the folder that shows that they are there.
READERS: dict[str, tuple[Callable[..., Dataset], str]] = {
    "modelnet40": (ModelNet40, MODELNET40),
    "scanobjectnn": (ScanObjectNN, ""),
    "shapenetpart": (ShapeNetPart, SHAPENETPART),
}
ASIDE = f"{RENDERINGS}.damaged"  # in --data_root: images that were set aside
MANIFEST = "manifest.json"  # written by `datasets.synthetic`
DAMAGED = ("not a readable image", "the file is empty")  # how such a problem begins
Problem = tuple[str, str]  # a file, and what is wrong with it
Result = tuple[int, list[Problem]]  # how much was found, and the damage
Job = Callable[[], Result]


@dataclass
class Part:
    """A part of a data set: a line of the table."""

    key: str  # the data set, with its variant, as in `PUBLISHED`; "" for the manifest
    name: str
    found: int | None = 0  # number of shapes or images; None if it is absent
    jobs: list[Job] = field(default_factory=list)  # add to `found` and `problems`
    problems: list[Problem] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)  # origin -> accepted size
    aside: int = 0  # how many more --set_aside has moved away
    title: str = ""

    def __post_init__(self) -> None:
        self.dataset, _, variant = self.key.partition(" ")
        title = self.title or TITLES.get(self.dataset, "")
        self.title = " ".join(filter(None, (title, variant, self.name)))

    @property
    def differs(self) -> bool:
        """Whether it has none of the expected sizes."""
        sizes = self.expected.values()
        return self.found is not None and bool(sizes) and self.size not in sizes

    @property
    def size(self) -> int:
        return (self.found or 0) + self.aside


@contextlib.contextmanager
def noting(problems: list[Problem]) -> Iterator[None]:
    """Note the `DataError` that ends the block, if one does."""
    try:
        yield
    except DataError as error:
        problems.append((error.path, error.problem))


def reading(read: Callable[..., Any], *arguments: Any) -> Result:
    """Run a reader; return the length of what it gives, if any, and any `DataError`."""
    problems: list[Problem] = []
    found: Any = ()
    with noting(problems):
        found = read(*arguments)
    return len(found or ()), problems


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
        return 0, [(str(folder), "no image (*.png) of a shape that has a cloud")]
    problems: list[Problem] = []
    for view in [index % count] if quick else range(count):
        with noting(problems):
            shapes.image(index, view)
    return count, problems


def shapenet_parts(args: argparse.Namespace) -> Iterator[Part]:
    """ShapeNetRender's packed form and its single files, where they exist."""
    root, num_points = args.data_root, args.num_points

    def cloud_jobs(shapes: ShapeFiles | PackedShapes) -> list[Job]:
        indices = range(len(shapes.shapes))
        return [partial(reading, check_cloud, shapes, i, num_points) for i in indices]

    if (root / PACKED / PACKED_MANIFEST).is_file():
        clouds = Part("shapenet", "clouds", title=PACKED)
        images = Part("shapenet", "pictures", None, title=PACKED)
        with noting(clouds.problems):
            packed = PackedShapes(root / PACKED)
            clouds.found = len(packed.shapes)
            images.found = int(packed.image_counts.sum())
            clouds.jobs = cloud_jobs(packed)
            if not args.quick:
                clouds.jobs.append(partial(reading, packed.check_sums))
            packed.check_current()
        yield from (clouds, images)
    if (root / SHAPENET).is_dir() or (root / RENDERINGS).is_dir():
        categories = Part("shapenet", "categories", None)
        clouds, images = Part("shapenet", "clouds"), Part("shapenet", "pictures", None)
        with noting(clouds.problems):
            files = ShapeFiles(root)
            categories.found = len({shape.split("/")[0] for shape in files.shapes})
            clouds.found = len(files.shapes)
            clouds.jobs = cloud_jobs(files)
            images.found, images.aside = 0, len(list((root / ASIDE).rglob("*.png")))
            indices = range(clouds.found)
            images.jobs = [partial(read_images, files, i, args.quick) for i in indices]
        yield from (categories, clouds, images)


def list_parts(args: argparse.Namespace, dataset: str) -> Iterator[Part]:
    """The parts of a data set that are there, and the variants that are not."""
    if dataset == "shapenet":
        yield from shapenet_parts(args)
        return
    root, (reader, folder) = args.data_root, READERS[dataset]
    read = partial(reader, num_points=args.num_points)
    for key, splits in PUBLISHED.items():
        name, *variant = key.split()
        if name != dataset:
            continue
        places = [root / folder]
        if variant:
            candidates = (scanobjectnn_candidates(root, x, *variant) for x in splits)
            places = [path for paths in candidates for path in paths]
        if not any(path.exists() for path in places):
            yield Part(key, "", None)
            continue
        for split in splits:
            job = partial(reading, read, root, split, *variant)
            yield Part(key, split, jobs=[job])


def read_manifest(path: Path) -> dict[str, dict[str, int]]:
    """The sizes that `datasets.synthetic` wrote, if it did, as in `PUBLISHED`."""
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


def run_jobs(parts: Sequence[Part], workers: int) -> None:
    """Run the jobs of all parts with a progress bar, and note what they found."""
    owners = [part for part in parts for _ in part.jobs]
    jobs = [job for part in parts for job in part.jobs]
    with contextlib.closing(results(jobs, workers)) as read:
        # disable=None: no bar without a terminal
        bar = tqdm(read, total=len(jobs), unit="job", disable=None, dynamic_ncols=True)
        for part, (count, problems) in zip(owners, bar, strict=True):
            part.found = (part.found or 0) + count
            part.problems += problems


def table(parts: Sequence[Part]) -> str:
    """For every part: its size, the expected size, and the number of damaged files."""
    rows = [("data", "found", "expected", "damaged", "")]
    for part in parts:
        if part.found is None:
            rows.append((part.title, "absent", "", "", ""))
            continue
        sizes = [f"{size:,} {origin}" for origin, size in part.expected.items()]
        prefix = f"{part.size:,} "
        fits = [text for text in sizes if text.startswith(prefix)][:1]
        states = ["damaged"] * bool(part.problems) + ["size differs"] * part.differs
        states += [f"{part.aside:,} set aside"] * bool(part.aside)
        counts = f"{part.found:,}", " or ".join(fits or sizes) or "-"
        damaged = f"{len(part.problems):,}"
        rows.append((part.title, *counts, damaged, ", ".join(states) or "ok"))
    a, b, c, d, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{v:<{a}}  {w:>{b}}  {x:<{c}}  {y:>{d}}  {z}".rstrip()
        for v, w, x, y, z in rows
    )


def print_details(parts: Sequence[Part], show: int, any_size: bool) -> None:
    """The damaged files of every part, and the parts of another size."""
    for part in parts:
        if part.problems:
            shown = part.problems[: show or None]
            print(f"\n{part.title}: {len(part.problems)} damaged")
            for path, problem in shown:
                print(f"  {path}: {problem}")
            if hidden := len(part.problems) - len(shown):
                print(f"  ... {hidden} more: --show 0")
    differing = [part.title for part in parts if part.differs]
    if differing and not any_size:
        print(f"\nother sizes than expected: {', '.join(differing)}.")
        print("  This is not necessarily damage: if it is a subset, or your own data,")
        print("  use it as it is and add --any_size. Otherwise something is missing.")


def set_aside(parts: Sequence[Part], root: Path) -> None:
    """Move damaged images out of ShapeNetRendering, and print what was done.

    The parts no longer count what was moved. A shape without an intact image keeps all
    of them: training refuses a shape without images.
    """
    print("damaged images set aside:")
    moved = 0
    for part in parts:
        images = [x for x in part.problems if x[0].lower().endswith(".png")]
        images = [x for x in images if x[1].startswith(DAMAGED)]
        for folder, group in groupby(images, lambda x: Path(x[0]).parent):
            damaged = list(group)
            shape = "/".join(folder.parts[-3:-1])
            remaining = len(list_images(root, shape)) - len(damaged)
            if not remaining:
                print(f"  {folder}: kept, since none of its images is intact: replace")
                print(f"    some, or delete it and {root / SHAPENET / shape}.ply")
                continue
            aside = root / ASIDE / shape
            aside.mkdir(parents=True, exist_ok=True)
            for path, problem in damaged:
                shutil.move(path, aside / Path(path).name)
                part.problems.remove((path, problem))
                print(f"  {path}: {problem}; moved to {aside}, {remaining} others stay")
            part.found = (part.found or 0) - len(damaged)
            part.aside += len(damaged)
            moved += len(damaged)
    print(f"  {moved} moved\n" if moved else "  none\n")
    if moved and (root / PACKED).exists():
        print(f"then: python -m datasets.packed --data_root {root} --overwrite\n")


def verify(args: argparse.Namespace) -> bool:
    """Check a data folder, print what was found, and return whether all is well."""
    parts = inventory(args)
    run_jobs(parts, args.workers)
    if args.set_aside:
        try:
            set_aside(parts, args.data_root)
        except OSError as error:
            sys.exit(f"--set_aside: {error}")
    print(f"{args.data_root}:\n{table(parts)}")
    print_details(parts, args.show, args.any_size)
    present = {part.dataset for part in parts if part.found is not None}
    absent = [name for name in args.dataset or TITLES if name not in present]
    wrong = [x for x in parts if x.problems or (x.differs and not args.any_size)]
    needed = {*absent, *(part.dataset for part in wrong)}
    if needed - {""}:
        print("\nhow to get what is absent, damaged or missing:")
        for name in TITLES:
            if name in needed:
                print(f"  {TITLES[name]}: {download(name)}")
        flag = " --overwrite" if (args.data_root / MANIFEST).is_file() else ""
        print(f"  synthetic data: {GENERATE}{flag}")
    missing = absent and (args.dataset or len(absent) == len(TITLES))
    good = not wrong and not missing
    print("\nall checks passed" if good else "\nproblems found")
    return good


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m datasets.verify", description=__doc__, formatter_class=formatter
    )
    add = parser.add_argument
    add("--data_root", type=Path, default=Path("data"), help="(default: data)")
    text = f"check only these: {', '.join(TITLES)} (default: all that exist)"
    add("--dataset", nargs="+", choices=TITLES, default=[], metavar="NAME", help=text)
    text = "minimum points per cloud (default: none)"
    add("--num_points", type=int, help=text)
    text = "decode one image per shape instead of all, and skip checksums"
    add("--quick", action="store_true", help=text)
    text = f"move damaged images to {ASIDE} beside their folder, to train without them"
    add("--set_aside", action="store_true", help=text)
    text = "accept sizes other than the published ones: subsets, your own data"
    add("--any_size", action="store_true", help=text)
    text = "damaged files to list per line of the table, 0 for all (default: 20)"
    add("--show", type=int, default=20, metavar="N", help=text)
    text = "processes; does not change the table (default: one per core)"
    add("--workers", type=int, default=cores(), help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.workers < 1 or args.show < 0 or (args.num_points or 1) < 1:
        parser.error("--workers and --num_points are at least 1, --show at least 0")
    if args.set_aside and (args.quick or "shapenet" not in (args.dataset or TITLES)):
        parser.error("--set_aside needs shapenet in --dataset, and no --quick")
    if not args.data_root.is_dir():
        print(f"--data_root {args.data_root}: no such folder", file=sys.stderr)
        sys.exit(1)
    try:
        sys.exit(0 if verify(args) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
