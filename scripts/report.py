"""What a pre-training run has learnt, as one page of HTML that needs nothing else.

  python -m scripts.report checkpoints/NAME --untrained checkpoints/SVM_WITHOUT \\
      --pretrained checkpoints/SVM_WITH [--data_root data] [--out FILE.html]

The two other folders are of eval_svm.py, on ``--model_path none`` and on the weights of
the run. Several runs, of several seeds for example, take as many of each, in the same
order: table and curves are of all of them, the other pictures of the first. Numbers are
those of the runs' files; maps and neighbours come from features that are computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from matplotlib.figure import Figure

from datasets import labelled_clouds
from datasets.labelled import LabelledClouds
from models import point_encoder
from scripts.pipeline_table import SETS
from scripts.quickstart_table import accuracies, spread
from scripts.report_runs import (
    PRETRAINING,
    Run,
    command,
    read_confusion,
    read_judged,
    read_run,
)
from scripts.training_shapes import shapes_figure
from utils.drawing import cloud_figures, feature_space, figures
from utils.drawing.html_page import element, page, picture, table
from utils.drawing.plot import curves_figure, png_bytes, read_runs
from utils.judging.features import extract_features
from utils.parallel import distributed
from utils.parallel.seed import seed_torch
from utils.run import checkpoint, cli
from utils.run.run_folder import replace_file

MAP_CLOUDS, QUERIES, NEIGHBOURS = 1000, 4, 5
UNTRAINED, TRAINED = "untrained", "pre-trained"


def is_synthetic(root: str | Path) -> bool:
    """Whether the folder was written by :mod:`datasets.synthetic`."""
    return Path(root, "manifest.json").is_file()


def set_name(dataset: str, root: str) -> str:
    """A data set's name on the page."""
    return SETS[dataset] + ("-like" if is_synthetic(root) else "")


def shown(figure: Figure, alt: str, caption: str = "") -> Element:
    """A figure on the page, an inch of it 96 pixels wide as CSS has it."""
    return picture(png_bytes(figure), round(96 * figure.get_figwidth()), alt, caption)


def what_was_run(
    runs: Sequence[Run], judged: Sequence[Run], root: str, judged_on: str
) -> list[Element]:
    """Commands, data, commit and machine; all arguments of the first run."""
    first, everything = runs[0], [*runs, *judged]
    environment = first.config["environment"]
    commits = {run.config["environment"]["commit"]: None for run in everything}
    done = [sum("epoch_end" in record for record in run.records) for run in runs]
    epochs = {f"{n} of {r.args.epochs}": None for n, r in zip(done, runs, strict=True)}
    versions = ("python", "torch", "torchvision", "numpy")
    note = ", synthetic: the figures say nothing of the real data sets"
    data = root if root == judged_on else f"{root}, judged on {judged_on}"
    code = []
    for run in runs:
        words = [element("span", word, class_="whole") for word in command(run)]
        spaced = [part for word in words for part in (word, " ")]
        code.append(element("div", element("code", *spaced)))
    rows = [
        ("command", element("div", *code)),
        ("epochs done", ", ".join(epochs)),
        ("data", f"{data}{note if is_synthetic(root) else ''}"),
        ("processes", str(first.config["world_size"])),
        ("commit", element("code", ", ".join(commits))),
        ("versions", ", ".join(f"{n} {environment[n]}" for n in versions)),
        ("machine", environment["machine"]),
    ]
    arguments = [(name, str(value)) for name, value in vars(first.args).items()]
    every = table(("argument", "value"), arguments)
    summary = element("summary", f"All arguments of {first.folder.name}")
    return [table((), rows), element("details", summary, every)]


def results(untrained: Sequence[Run], trained: Sequence[Run], root: str) -> Element:
    """Accuracies of the linear SVM, a row for each data set and encoder."""
    runs = {UNTRAINED: untrained, TRAINED: trained}
    found = {who: accuracies(run.folder for run in own) for who, own in runs.items()}
    rows = []
    for name in found[TRAINED]:
        for who in found:
            own = found[who].get(name, [])
            cells = [
                spread([r[key] for r in own]) if own else "not run"
                for key in ("accuracy", "class_accuracy")
            ]
            C = " ".join(f"{r['C']:g}" for r in own)
            sizes = " / ".join(f"{r['train_size']} + {r['test_size']}" for r in own[:1])
            rows.append((set_name(name, root), who, *cells, C, sizes))
    heads = ("data set", "encoder", "accuracy, %", "mean class accuracy, %", "C")
    return table((*heads, "training + test clouds"), rows)


@dataclass(frozen=True)
class Described:
    """A labelled data set and the features of both encoders."""

    label: str
    train: LabelledClouds
    test: LabelledClouds
    features: dict[tuple[str, str], np.ndarray]  # by encoder and split


def describe(dataset: str, root: str, judged: dict[str, Run]) -> Described:
    """Read a data set and compute its features, as eval_svm.py did.

    Args:
        dataset: its name on command lines.
        root: the folder of the data sets.
        judged: the run of eval_svm.py of each encoder.
    """
    args = judged[TRAINED].args
    device = distributed.start().device
    clouds = {
        split: labelled_clouds(
            dataset, root, split, args.num_points, variant=args.variant
        )
        for split in ("train", "test")
    }
    features = {}
    for name, run in judged.items():
        own = run.args
        seed_torch(own.seed)
        encoder = point_encoder(own.model, own.k, own.emb_dims, own.edgeconv).to(device)
        checkpoint.load_frozen(encoder, own.model_path, own.seed)
        for split, part in clouds.items():
            features[name, split] = extract_features(
                encoder, part.points, own.test_batch_size, device, f"{dataset} {split}"
            )
    label = set_name(dataset, root)
    return Described(label, clouds["train"], clouds["test"], features)


def maps(found: Described, seed: int) -> Element:
    """t-SNE of the test clouds before and after."""
    rows = feature_space.spread_rows(found.test.labels, MAP_CLOUDS, seed)
    places = {
        name: feature_space.plane_map(found.features[name, "test"][rows], seed)
        for name in (UNTRAINED, TRAINED)
    }
    title = f"{found.label}: {len(rows)} test clouds"
    labels = found.test.labels[rows]
    return shown(
        figures.map_figure(places, labels, found.test.class_names, title),
        f"Two t-SNE maps of {len(rows)} test clouds of {found.label}, coloured by "
        "class: by features of the untrained encoder, and of the pre-trained one.",
    )


def confusion(run: Run, dataset: str, root: str) -> Element:
    """The confusion matrix that the pre-trained encoder's SVM left behind."""
    matrix, names = read_confusion(run.folder / f"confusion_{dataset}.csv")
    accuracy = next(r["accuracy"] for r in run.records if r["dataset"] == dataset)
    label = set_name(dataset, root)
    title = f"{label}, pre-trained encoder: accuracy {accuracy:.1%}"
    wrong = matrix - np.diag(np.diag(matrix))
    alt = f"Confusion matrix of {title}, {matrix.sum()} test clouds."
    if wrong.any():
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        alt += (
            f" The most frequent confusion: {names[row]} taken for {names[column]}, "
            f"{wrong[row, column]} of {matrix[row].sum()}."
        )
    return shown(figures.confusion_figure(matrix, names, title), alt)


def neighbours(found: Described, seed: int) -> Element:
    """Test clouds and the training clouds next to them, and how many share a class."""
    near = {
        name: feature_space.nearest(
            found.features[name, "test"], found.features[name, "train"], NEIGHBOURS
        )
        for name in (UNTRAINED, TRAINED)
    }
    shares = {
        name: feature_space.same_class_share(
            found.test.labels, found.train.labels, rows
        )
        for name, (rows, _) in near.items()
    }
    queries = feature_space.spread_rows(found.test.labels, QUERIES, seed)
    rows, cosine = (array[queries] for array in near[TRAINED])
    figure = cloud_figures.neighbour_figure(
        *(found.test.points[queries], found.test.labels[queries]),
        *(found.train.points[rows], found.train.labels[rows], cosine),
        found.test.class_names,
        f"{found.label}: test clouds and their nearest training clouds",
    )
    of_class = ", ".join(f"{share:.1%} {name}" for name, share in shares.items())
    return shown(
        figure,
        f"{QUERIES} test clouds of {found.label}, each with the {NEIGHBOURS} training "
        "clouds of the most similar features, framed green where of the same class.",
        f"Share of the {NEIGHBOURS} neighbours that are of the test cloud's class: "
        f"{of_class}.",
    )


def write_report(
    folders: Sequence[str],
    untrained: Sequence[str],
    pretrained: Sequence[str],
    data_root: str | None,
    out: str | Path,
) -> None:
    """Read the runs, compute features, and write the page; see this file's head.

    Raises:
        UsageError, DataError, CheckpointError: naming the folder or file.
    """
    if not len(folders) == len(untrained) == len(pretrained):
        raise cli.UsageError(
            f"{len(folders)} runs, {len(untrained)} --untrained and {len(pretrained)} "
            "--pretrained: give as many of each, in the same order"
        )
    curves = curves_figure(read_runs(folders))
    runs = [read_run(folder, PRETRAINING) for folder in folders]
    before = [read_judged(folder, None) for folder in untrained]
    after = [read_judged(*pair) for pair in zip(pretrained, runs, strict=True)]
    first, judged = runs[0].args, {UNTRAINED: before[0], TRAINED: after[0]}
    own, other = judged[TRAINED].args, judged[UNTRAINED].args
    root, seed = data_root or own.data_root, own.seed
    trained_on = data_root or first.data_root
    both = [{r["dataset"]: None for r in run.records} for run in judged.values()]
    names = [name for name in both[0] if name in both[1]]
    if not names:
        raise cli.UsageError(
            f"{untrained[0]} and {pretrained[0]} have judged no data set in common: "
            "run eval_svm.py with the same --dataset for both"
        )
    for name in ("num_points", "variant", *([] if data_root else ["data_root"])):
        if getattr(own, name) != getattr(other, name):
            raise cli.UsageError(
                f"{untrained[0]} and {pretrained[0]} differ in --{name}: run "
                "eval_svm.py on the same clouds for both"
            )
    found = [describe(name, root, judged) for name in names]
    ran = ", ".join(run.folder.name for run in runs)
    sections = {
        "What was run": what_was_run(runs, [*before, *after], trained_on, root),
        "Linear SVM on frozen features": [
            results(before, after, root),
            element("p", TEXTS["svm"]),
        ],
        "Training curves": [
            shown(curves, f"Curves of loss and accuracy of {ran}.", TEXTS["curves"])
        ],
        "Features before and after: t-SNE": [
            element("p", TEXTS["maps"]),
            *(maps(one, seed) for one in found),
        ],
        "Confusion": [
            element("p", TEXTS["confusion"]),
            *(confusion(after[0], name, root) for name in names),
        ],
        "Nearest neighbours": [
            element("p", TEXTS["neighbours"]),
            *(neighbours(one, seed) for one in found),
        ],
        "Training shapes": [
            element("p", TEXTS["shapes"]),
            shown(shapes_figure(first, trained_on), TEXTS["shapes_alt"]),
        ],
    }
    title = f"What has {ran} learnt without labels?"
    replace_file(out, page(title, TEXTS["lead"], sections))


TEXTS = {
    "lead": "A CrossPoint point encoder, pre-trained on pairs of clouds and pictures, "
    "beside the same network with random weights.",
    "svm": "A linear classifier reads out what the frozen features already separate. "
    "Of several values of C the one is taken that is best on a held-out fifth of the "
    "training set; test data choose nothing.",
    "curves": "Loss of the global batch, and its intra-modal (IMID) and cross-modal "
    "(CMID) terms.",
    "maps": "t-SNE keeps neighbours together: read which classes touch, not how far "
    "apart or how large groups are.",
    "confusion": "Rows are true classes; a cell's colour is its share of the row. A "
    "dark cell off the diagonal names two classes that the features do not tell apart.",
    "neighbours": "The training clouds that the pre-trained encoder finds most like a "
    "test cloud, by the cosine of their features. A few rows are anecdotes; the line "
    "below counts over the whole test split.",
    "shapes": "What pre-training sees of a shape in its first epoch: two augmented "
    "clouds, whose scale and place do not show because each is fitted to its cell, and "
    "one rendered view with its colours changed, flipped or not; beside it that view "
    "unchanged, and others.",
    "shapes_alt": "Some training shapes, a row each: the stored cloud, two augmented "
    "clouds, the augmented picture, and rendered views.",
}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="folders of train_crosspoint.py"
    )
    for name, what in (
        ("untrained", "no weights"),
        ("pretrained", "the run's weights"),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            required=True,
            metavar="RUN_DIR",
            help=f"folder of eval_svm.py on {what}, one for each run",
        )
    parser.add_argument(
        "--data_root", help="folder of the data sets (default: the runs')"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="where the page goes (default: report.html in the first run's folder)",
    )
    args = parser.parse_args()
    out = args.out or Path(args.runs[0], "report.html")
    write_report(args.runs, args.untrained, args.pretrained, args.data_root, out)
    print(out)


if __name__ == "__main__":
    cli.run(main)
