"""What the report shows: runs that belong together, features, training shapes."""

import csv
import json
import shlex
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import train_crosspoint
from datasets import labelled_clouds
from datasets.labelled import LabelledClouds
from datasets.shapenet_part import CATEGORIES
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic.shapes import SYNSETS
from models import point_encoder
from scripts.pipeline_table import SETS, is_synthetic
from utils.drawing.clouds import Cell, cloud_grid
from utils.drawing.curves import Records
from utils.drawing.features import spread_rows
from utils.errors import UsageError
from utils.judging.features import extract_features
from utils.parallel import distributed
from utils.run import checkpoint, cli
from utils.run.run_folder import read_metrics

UNTRAINED, TRAINED = "untrained", "pre-trained"
SHAPES = 5  # training shapes that are drawn

# A script, and an argument that only its runs have.
PRETRAINING, JUDGEMENT = ("train_crosspoint.py", "image_size"), ("eval_svm.py", "C")


@dataclass(frozen=True)
class Run:
    """A run's config.json, its arguments alone, and its metrics.jsonl."""

    folder: Path
    args: Namespace
    config: dict[str, Any]
    records: Records


def read_run(folder: str | Path, kind: tuple[str, str]) -> Run:
    """A run of ``PRETRAINING`` or ``JUDGEMENT``.

    A UsageError names the file that is missing or damaged.
    """
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        args = Namespace(**config["arguments"])
        if kind[1] not in args or "environment" not in config:
            raise KeyError(kind[1])
        return Run(Path(folder), args, config, read_metrics(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is missing or damaged: {folder} should be a run of {kind[0]}"
        ) from error


def read_judged(folder: str | Path, trained: Run | None) -> Run:
    """A run of eval_svm.py on the weights of a pre-training run, or on none.

    A UsageError if it evaluated other weights.
    """
    run = read_run(folder, JUDGEMENT)
    actual = run.args.model_path
    if trained is None:
        expected, fits = cli.UNTRAINED, actual == cli.UNTRAINED
    else:
        expected = str(trained.folder / "models" / "best_model.pth")
        fits = trained.folder.resolve() in Path(actual).resolve().parents
    if not fits:
        raise UsageError(
            f"{folder} evaluated {actual}; expected a run of "
            f"eval_svm.py --dataset modelnet40 scanobjectnn --model_path {expected}"
        )
    return run


def compared(before: Run, after: Run, same_root: bool) -> list[str]:
    """The data sets that both encoders were evaluated on.

    A UsageError if there is none, or the encoders got different clouds.
    """
    judged = {record["dataset"] for record in after.records}
    names = [r["dataset"] for r in before.records if r["dataset"] in judged]
    folders = f"{before.folder} and {after.folder}"
    if not names:
        remedy = "run eval_svm.py with the same --dataset for both"
        raise UsageError(f"{folders} have no data set in common: {remedy}")
    for name in ("num_points", "variant", *(["data_root"] if same_root else [])):
        if getattr(before.args, name) != getattr(after.args, name):
            remedy = "run eval_svm.py on the same clouds for both"
            raise UsageError(f"{folders} differ in --{name}: {remedy}")
    return names


def command(run: Run) -> str:
    """train_crosspoint.py, as for one node, and every flag that is not at its default.

    Without --overwrite and --resume, which do not change what was trained.
    """
    processes = run.config["world_size"]
    torchrun = f"torchrun --nproc_per_node={processes}"
    words = [torchrun if processes > 1 else "python", "train_crosspoint.py"]
    defaults = vars(train_crosspoint.get_args_parser().parse_args([]))
    for name, value in vars(run.args).items():
        if name in ("overwrite", "resume") or value == defaults.get(name):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            words.append(f"--{name} {shlex.join(map(str, values))}")
    return " ".join(words)


def read_confusion(path: Path) -> tuple[np.ndarray, list[str]]:
    """The counts (C, C) and the C names in a table of eval_svm.py."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            (_, *names), *rows = csv.reader(file)
        counts = np.array([row[1:] for row in rows], np.int64)
        return counts.reshape(len(names), len(names)), names
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: missing or damaged ({error}): run eval_svm.py again"
        ) from error


def set_name(dataset: str, root: str) -> str:
    """A data set's name on the page."""
    return SETS.get(dataset, dataset) + ("-like" if is_synthetic(root) else "")


def read_splits(dataset: str, root: str, judged: Run) -> list[LabelledClouds]:
    """Training and test clouds of a data set, as a run of eval_svm.py had them."""
    size, variant = judged.args.num_points, judged.args.variant
    clouds = partial(labelled_clouds, num_points=size, variant=variant)
    return [clouds(dataset, root, split) for split in ("train", "test")]


def features_of(splits: list[LabelledClouds], judged: Run) -> list[np.ndarray]:
    """Features (M, F) of each split by the encoder of a run of eval_svm.py."""
    args, device = judged.args, distributed.start().device
    torch.manual_seed(args.seed)
    encoder = point_encoder(args.model, args.k, args.emb_dims, args.edgeconv).to(device)
    checkpoint.load_encoder(encoder, args.model_path, args.seed)
    size = args.test_batch_size
    return [extract_features(encoder, x.points, size) for x in splits]


def draw_shapes(args: Namespace, root: str) -> Figure:
    """Shapes of different categories, as stored and as the first epoch got them.

    A row for each shape: its cloud, both views, its augmented image, and the rendered
    image that this was made from. Above an augmented cloud stands how many of its
    points are distinct. ``args`` are those of train_crosspoint.py.
    """
    options = {"num_points": args.num_points, "packed": args.packed, "seed": args.seed}
    trained = ShapeNetRender(root, image_size=args.image_size, **options)
    plain = ShapeNetRender(
        root,
        point_transform=lambda points, _: points,
        image_transform=lambda image, *_: torch.from_numpy(np.array(image)),
        **options,
    )
    synsets = [shape.split("/")[0] for shape in trained.shapes]
    numbers = np.unique(synsets, return_inverse=True)[1]
    categories = dict(zip(SYNSETS, CATEGORIES, strict=True))
    rows = []
    for index in spread_rows(numbers, SHAPES, args.seed).tolist():
        *views, augmented = trained.example((0, index))
        # The seed, which both data sets share, chooses the rendered image.
        stored, _, rendered = plain[0, index]
        name = categories.get(synsets[index], synsets[index])
        row = [Cell(stored.numpy().T, f"{name}\nas stored")]
        for name, points in zip(("first view", "second view"), views, strict=True):
            distinct = len(np.unique(points, axis=0))
            row.append(Cell(points, f"{name}\n{distinct} of {len(points)} points"))
        images = (augmented, "augmented"), (np.asarray(rendered), "as rendered")
        rows.append([*row, *(Cell(*image) for image in images)])
    return cloud_grid(rows)
