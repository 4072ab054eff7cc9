"""A report on a pre-training run: one HTML page without links or scripts.

  python -m scripts.report checkpoints/NAME --untrained checkpoints/SVM_WITHOUT \\
      --pretrained checkpoints/SVM_WITH [--data_root data] [--out FILE.html]

The two other folders are runs of eval_svm.py: with ``--model_path none``, and with the
weights of the run. For several runs (of several seeds, for example) name as many of
each, in the same order: the table and the curves show all of them, the other figures
the first. Numbers are read from the runs' files; maps and neighbours use features that
are computed here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from scripts.quickstart_table import accuracies, spread
from scripts.report_data import (
    PRETRAINING,
    TRAINED,
    UNTRAINED,
    Described,
    Run,
    command,
    compared,
    describe,
    draw_shapes,
    is_synthetic,
    read_confusion,
    read_judged,
    read_run,
    set_name,
)
from utils.drawing.confusion import confusion_figure
from utils.drawing.curves import curves_figure, read_runs
from utils.drawing.maps import map_figure, plane_map, spread_rows
from utils.drawing.neighbours import nearest, neighbour_figure, same_class_share
from utils.drawing.page import element, page, picture, table
from utils.errors import UsageError
from utils.run import cli
from utils.run.run_folder import replace_file

MAP_CLOUDS, QUERIES, NEIGHBOURS = 1000, 4, 5


def what_was_run(
    runs: Sequence[Run], judged: Sequence[Run], root: str, judged_on: str
) -> list[Element]:
    """Commands, data, commit and machine; all arguments of the first run."""
    first, everything = runs[0], [*runs, *judged]
    environment = first.config["environment"]
    commits = {run.config["environment"]["commit"]: None for run in everything}
    done = [sum("epoch_end" in record for record in run.records) for run in runs]
    epochs = {f"{n} of {r.args.epochs}": None for n, r in zip(done, runs, strict=True)}
    note = ", synthetic: these numbers say nothing about the real data sets"
    data = root if root == judged_on else f"{root}, judged on {judged_on}"
    code = []
    for run in runs:  # a flag and its value stay on one line
        words = [element("span", word, class_="word") for word in command(run)]
        spaced = [part for word in words for part in (word, " ")]
        code.append(element("div", element("code", *spaced)))
    versions = ("python", "torch", "torchvision", "numpy")
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


def maps(found: Described, seed: int) -> Element:
    """t-SNE of the test clouds before and after."""
    rows = spread_rows(found.test.labels, MAP_CLOUDS, seed)
    places = {
        name: plane_map(found.features[name, "test"][rows], seed)
        for name in (UNTRAINED, TRAINED)
    }
    title = f"{found.label}: {len(rows)} test clouds"
    return picture(
        map_figure(places, found.test.labels[rows], found.test.class_names, title),
        f"Two t-SNE maps of {len(rows)} test clouds of {found.label}, coloured by "
        "class: features of the untrained encoder, and of the pre-trained one.",
    )


def confusion(run: Run, dataset: str, root: str) -> Element:
    """The confusion matrix that was written when the pre-trained encoder was judged."""
    matrix, names = read_confusion(run.folder / f"confusion_{dataset}.csv")
    accuracy = next(r["accuracy"] for r in run.records if r["dataset"] == dataset)
    title = f"{set_name(dataset, root)}, pre-trained encoder: accuracy {accuracy:.1%}"
    wrong = matrix - np.diag(np.diag(matrix))
    alt = f"Confusion matrix of {title}, {matrix.sum()} test clouds."
    if wrong.any():
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        alt += (
            f" The most frequent confusion: {names[row]} classified as "
            f"{names[column]}, {wrong[row, column]} of {matrix[row].sum()}."
        )
    return picture(confusion_figure(matrix, names, title), alt)


def neighbours(found: Described, seed: int) -> Element:
    """Test clouds with their nearest training clouds, and how many share a class."""
    near = {
        name: nearest(
            found.features[name, "test"], found.features[name, "train"], NEIGHBOURS
        )
        for name in (UNTRAINED, TRAINED)
    }
    test, train = found.test, found.train
    shares = ", ".join(
        f"{same_class_share(test.labels, train.labels, rows):.1%} {name}"
        for name, (rows, _) in near.items()
    )
    queries = spread_rows(test.labels, QUERIES, seed)
    rows, cosine = (array[queries] for array in near[TRAINED])
    figure = neighbour_figure(
        *(test.points[queries], test.labels[queries]),
        *(train.points[rows], train.labels[rows], cosine),
        test.class_names,
        f"{found.label}: test clouds and their nearest training clouds",
    )
    return picture(
        figure,
        f"{QUERIES} test clouds of {found.label}, each with the {NEIGHBOURS} training "
        "clouds with the most similar features; a green frame means the same class.",
        f"Share of the {NEIGHBOURS} neighbours that have the test cloud's class: "
        f"{shares}.",
    )


def write_report(
    folders: Sequence[str],
    untrained: Sequence[str],
    pretrained: Sequence[str],
    data_root: str | None,
    out: str | Path,
) -> None:
    """Read the runs, compute features, and write the page; see this file's docstring.

    Raises:
        UsageError, DataError, CheckpointError: naming the folder or file.
    """
    if not len(folders) == len(untrained) == len(pretrained):
        raise UsageError(
            f"{len(folders)} runs, {len(untrained)} --untrained and {len(pretrained)} "
            "--pretrained: name as many of each, in the same order"
        )
    curves = curves_figure(read_runs(folders))
    runs = [read_run(folder, PRETRAINING) for folder in folders]
    before = [read_judged(folder, None) for folder in untrained]
    after = [read_judged(*pair) for pair in zip(pretrained, runs, strict=True)]
    first, judged = runs[0].args, {UNTRAINED: before[0], TRAINED: after[0]}
    names = compared(judged, same_root=data_root is None)
    own = judged[TRAINED].args
    root, seed = data_root or own.data_root, own.seed
    trained_on = data_root or first.data_root
    found = [describe(name, root, judged) for name in names]
    ran = ", ".join(run.folder.name for run in runs)
    sections = {
        "What was run": what_was_run(runs, [*before, *after], trained_on, root),
        "Linear SVM on frozen features": [
            results(before, after, root),
            element("p", TEXTS["svm"]),
        ],
        "Training curves": [
            picture(curves, f"Curves of loss and accuracy of {ran}.", TEXTS["curves"])
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
            picture(draw_shapes(first, trained_on), TEXTS["shapes_alt"]),
        ],
    }
    title = f"What has {ran} learnt without labels?"
    replace_file(out, page(title, TEXTS["lead"], sections))


TEXTS = {
    "lead": "A CrossPoint point encoder, pre-trained on pairs of clouds and images, "
    "beside the same network with random weights.",
    "svm": "A linear classifier reads out what the frozen features already separate. "
    "The value of C is the one that does best on a held-out fifth of the training set; "
    "nothing is chosen on test data.",
    "curves": "Loss of the global batch, and its intra-modal (IMID) and cross-modal "
    "(CMID) terms.",
    "maps": "t-SNE preserves neighbourhoods: see which classes touch, not how far "
    "apart or how large the groups are.",
    "confusion": "Rows are true classes; a cell's colour is its share of the row. A "
    "dark cell off the diagonal marks two classes that the features do not separate.",
    "neighbours": "The training clouds whose features have the largest cosine to those "
    "of a test cloud, by the pre-trained encoder. A few rows are anecdotes; the line "
    "below counts over the whole test split.",
    "shapes": "Some shapes as pre-training sees them in its first epoch: two augmented "
    "clouds (scale and position do not show, because each is fitted to its cell) and "
    "one augmented image, followed by the rendered image that it was made from and by "
    "those of the next epochs.",
    "shapes_alt": "Some training shapes, a row each: the stored cloud, two augmented "
    "clouds, the augmented image, and rendered images.",
}


def get_args_parser() -> argparse.ArgumentParser:
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
        "--data_root", help="folder of the data sets (default: that of the runs)"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="the file to write (default: report.html in the first run's folder)",
    )
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    out = args.out or Path(args.runs[0], "report.html")
    write_report(args.runs, args.untrained, args.pretrained, args.data_root, out)
    print(out)


if __name__ == "__main__":
    cli.run(main)
