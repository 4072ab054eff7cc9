"""A report on a pre-training run: one HTML page without links or scripts.

  python -m scripts.report checkpoints/NAME --untrained checkpoints/SVM_WITHOUT \\
      --pretrained checkpoints/SVM_WITH [--data_root data] [--out FILE.html]

The two other folders are runs of eval_svm.py: with ``--model_path none``, and with the
weights of the run. For several runs (of several seeds, for example) name as many of
each, in the same order: the table and the curves show all of them, the other figures
the first. Numbers are read from the runs' files; maps and neighbours use features that
are computed here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts import report_data
from scripts.pipeline_table import is_synthetic, percent
from scripts.report_data import TRAINED, UNTRAINED, Run, set_name
from utils.drawing.curves import curves_figure, read_runs
from utils.drawing.features import confusion_figure, map_figure, neighbour_figure
from utils.drawing.page import image, page, table, text
from utils.errors import UsageError
from utils.run import cli
from utils.run.run_folder import replace_file

MAP_CLOUDS, QUERIES, NEIGHBOURS = 1000, 4, 5


def what_was_run(
    runs: Sequence[Run], judged: Sequence[Run], root: str, evaluated_on: str
) -> tuple[str, str]:
    """Commands, data, commit and machine, below an introduction."""
    environment = runs[0].config["environment"]
    commits = [run.config["environment"]["commit"] for run in (*runs, *judged)]
    epochs = [
        f"{sum('epoch_end' in record for record in run.records)} of {run.args.epochs}"
        for run in runs
    ]
    data = root if root == evaluated_on else f"{root}, evaluated on {evaluated_on}"
    if is_synthetic(root):
        data += ", synthetic: these numbers say nothing about the real data sets"
    versions = ("python", "torch", "torchvision", "numpy")
    rows = [
        ("epochs done", ", ".join(dict.fromkeys(epochs))),
        ("data", data),
        ("processes", str(runs[0].config["world_size"])),
        ("commit", ", ".join(dict.fromkeys(commits))),
        ("versions", ", ".join(f"{n} {environment[n]}" for n in versions)),
        ("machine", environment["machine"]),
    ]
    introduction = (
        "The numbers of each run are in its metrics.jsonl and below, all its arguments "
        "in its config.json; docs/model_card.md says what such weights are good for, "
        "and what not."
    )
    commands = "\n".join(map(report_data.command, runs))
    return introduction, text(commands, "pre") + table(rows)


def results(untrained: Sequence[Run], trained: Sequence[Run], root: str) -> str:
    """Accuracies of the linear SVM, a row for each data set and encoder."""
    rows = []
    for name in dict.fromkeys(r["dataset"] for run in trained for r in run.records):
        for who, runs in ((UNTRAINED, untrained), (TRAINED, trained)):
            chosen = [r for x in runs for r in x.records if r["dataset"] == name]
            cells = ["not run", "not run", "", ""]
            if chosen:
                cells = [
                    percent(*(r["accuracy"] for r in chosen)),
                    percent(*(r["class_accuracy"] for r in chosen)),
                    " ".join(f"{r['C']:g}" for r in chosen),
                    "{train_size} + {test_size}".format(**chosen[0]),
                ]
            rows.append((set_name(name, root), who, *cells))
    heads = ("data set", "encoder", "accuracy, %", "mean class accuracy, %", "C")
    return table(rows, (*heads, "training + test clouds"))


def confusion(run: Run, dataset: str, root: str) -> str:
    """The confusion matrix from the evaluation of the pre-trained encoder."""
    matrix, names = report_data.read_confusion(run.folder / f"confusion_{dataset}.csv")
    title = f"{set_name(dataset, root)}, pre-trained encoder: "
    figure = confusion_figure(matrix, names, title)
    return image(figure, f"Confusion matrix of {title}{matrix.sum()} test clouds.")


def maps_and_neighbours(
    dataset: str, root: str, judged: dict[str, Run]
) -> tuple[str, str]:
    """t-SNE maps of both encoders, and test clouds with their nearest training clouds.

    ``judged`` has the run of eval_svm.py by encoder; features are computed again.
    """
    splits = train, test = report_data.read_splits(dataset, root, judged[TRAINED])
    features = {w: report_data.features_of(splits, run) for w, run in judged.items()}
    seed, name = judged[TRAINED].args.seed, set_name(dataset, root)
    tested = {who: pair[1] for who, pair in features.items()}
    figure = map_figure(
        tested,
        test.labels,
        test.class_names,
        MAP_CLOUDS,
        seed,
        f"{name}, test split",
    )
    maps = image(
        figure,
        f"Two t-SNE maps of test clouds of {name}, coloured by class: features of the "
        "untrained encoder, and of the pre-trained one.",
    )
    title = f"{name}: test clouds and their nearest training clouds"
    figure, shares = neighbour_figure(
        train, test, features, QUERIES, NEIGHBOURS, seed, title
    )
    listed = ", ".join(f"{share:.1%} {who}" for who, share in shares.items())
    alt = f"{title}; a green frame means the same class."
    share = f"Share of the {NEIGHBOURS} neighbours that have the test cloud's class: "
    return maps, image(figure, alt) + text(f"{share}{listed}.")


def write_report(
    folders: Sequence[str],
    untrained: Sequence[str],
    pretrained: Sequence[str],
    data_root: str | None,
    out: str | Path,
) -> None:
    """Read the runs, compute features, and write the page; see this file's docstring.

    A UsageError, DataError or CheckpointError names the folder or file.
    """
    if not len(folders) == len(untrained) == len(pretrained):
        raise UsageError(
            f"{len(folders)} runs, {len(untrained)} --untrained and {len(pretrained)} "
            "--pretrained: name as many of each, in the same order"
        )
    curves = curves_figure(read_runs(folders))
    runs = [report_data.read_run(f, report_data.PRETRAINING) for f in folders]
    before = [report_data.read_judged(folder, None) for folder in untrained]
    after = [*map(report_data.read_judged, pretrained, runs)]
    names = report_data.compared(before[0], after[0], same_root=data_root is None)
    root = data_root or after[0].args.data_root
    trained_on = data_root or runs[0].args.data_root
    judged = {UNTRAINED: before[0], TRAINED: after[0]}
    drawn = [maps_and_neighbours(name, root, judged) for name in names]
    ran = ", ".join(run.folder.name for run in runs)
    sections: dict[str, Sequence[str]] = {
        "What was run": what_was_run(runs, [*before, *after], trained_on, root),
        "Linear SVM on frozen features": (
            "A linear classifier reads out what the frozen features already separate. "
            "The value of C is the one that does best on a held-out fifth of the "
            "training set; nothing is chosen on test data.",
            results(before, after, root),
        ),
        "Training curves": (
            "Loss of the global batch, and its intra-modal (IMID) and cross-modal "
            "(CMID) terms.",
            image(curves, f"Curves of loss and accuracy of {ran}."),
        ),
        "Features before and after: t-SNE": (
            "t-SNE preserves neighbourhoods: see which classes touch, not how far "
            "apart or how large the groups are.",
            *(maps for maps, _ in drawn),
        ),
        "Confusion": (
            "Rows are true classes; a cell's colour is its share of the row. A dark "
            "cell off the diagonal marks two classes that are not separated.",
            *(confusion(after[0], name, root) for name in names),
        ),
        "Nearest neighbours": (
            "The training clouds whose features have the largest cosine to those of a "
            "test cloud, by the pre-trained encoder. A few rows are anecdotes; the "
            "line below counts over the whole test split.",
            *(neighbours for _, neighbours in drawn),
        ),
        "Training shapes": (
            "Some shapes as pre-training sees them in its first epoch: two augmented "
            "clouds (scale and position do not show, because each is fitted to its "
            "cell), one augmented image, and the rendered image that it was made from.",
            image(
                report_data.draw_shapes(runs[0].args, trained_on),
                "Some training shapes, a row each: the stored cloud, two augmented "
                "clouds, the augmented image, and the rendered one.",
            ),
        ),
    }
    title = f"What has {ran} learnt without labels?"
    lead = "A CrossPoint point encoder, pre-trained on pairs of clouds and images, "
    lead += "beside the same network with random weights."
    replace_file(out, page(title, lead, sections))


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    folders: dict[str, Any] = {"nargs": "+", "metavar": "RUN_DIR"}
    parser.add_argument("runs", **folders, help="folders of train_crosspoint.py")
    for flag, weights in ("--untrained", "no"), ("--pretrained", "the run's"):
        about = f"folder of eval_svm.py on {weights} weights, one for each run"
        parser.add_argument(flag, **folders, required=True, help=about)
    about = "folder of the data sets (default: that of the runs)"
    parser.add_argument("--data_root", help=about)
    about = "the file to write (default: report.html in the first run's folder)"
    parser.add_argument("--out", metavar="FILE.html", help=about)
    return parser


def main() -> None:
    args = get_args_parser().parse_args()
    out = args.out or Path(args.runs[0], "report.html")
    write_report(args.runs, args.untrained, args.pretrained, args.data_root, out)
    print(out)


if __name__ == "__main__":
    cli.run(main)
