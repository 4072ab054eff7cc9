"""The table that scripts/pipeline.sh prints at its end, from the files of its runs.

python -m scripts.pipeline_table NAME      of the runs checkpoints/NAME_*
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from utils.run import cli
from utils.run.run_folder import CHECKPOINTS, read_metrics

SETS = {"modelnet40": "ModelNet40", "scanobjectnn": "ScanObjectNN"}
# In %, as published by CrossPoint (CVPR 2022), which has no fine-tuning for
# classification; in the order of the table.
PUBLISHED = {
    "linear SVM, ModelNet40": "91.2",
    "linear SVM, ScanObjectNN": "81.7",
    "few-shot, ModelNet40, 5 ways 10 shots": "92.5 ± 3.0",
    "few-shot, ModelNet40, 5 ways 20 shots": "94.9 ± 2.1",
    "few-shot, ModelNet40, 10 ways 10 shots": "83.6 ± 5.3",
    "few-shot, ModelNet40, 10 ways 20 shots": "87.9 ± 4.2",
    "few-shot, ScanObjectNN, 5 ways 10 shots": "74.8 ± 1.5",
    "few-shot, ScanObjectNN, 5 ways 20 shots": "79.0 ± 1.2",
    "few-shot, ScanObjectNN, 10 ways 10 shots": "62.9 ± 1.7",
    "few-shot, ScanObjectNN, 10 ways 20 shots": "73.9 ± 2.2",
    "fine-tuning, ModelNet40, accuracy": "-",
    "fine-tuning, ScanObjectNN, accuracy": "-",
    "part segmentation, instance mIoU": "85.5",
}
TUNED = {  # run, the metric of its epochs, and a published batch that differs from ours
    "fine-tuning, ModelNet40, accuracy": ("ft-mn", "accuracy", ""),
    "fine-tuning, ScanObjectNN, accuracy": ("ft-so", "accuracy", ""),
    "part segmentation, instance mIoU": ("ft-partseg", "miou", ", published 8"),
}
CHOICES = """
ours: the last epoch, or the C that a held-out fifth of the training set chose
ours, by test: the best epoch or C by test data, as the published numbers were chosen;
the difference is that of this column where it has a number"""


def percent(*shares: float) -> str:
    """``91.2``, or ``91.2 ± 0.4`` with the sample deviation of two or more shares."""
    mean = f"{100 * statistics.fmean(shares):.1f}"
    if len(shares) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def accuracies(folders: Iterable[Path]) -> dict[str, list[dict]]:
    """Results of runs of eval_svm.py, a list for each data set."""
    by_dataset: dict[str, list[dict]] = {}
    for folder in folders:
        for result in read_metrics(folder):
            by_dataset.setdefault(result["dataset"], []).append(result)
    return by_dataset


def results(name: str) -> dict[str, tuple[str, str, str]]:
    """What was run: by task our number in %, that chosen by test data, and a note.

    The first is of the last epoch, or of a C chosen on held-out training data; the
    second of the best epoch or C, "" without a choice.
    """
    rows = {}
    for r in read_metrics(CHECKPOINTS / f"{name}_svm"):
        best = max(r["table"], key=lambda row: row["test"])
        note = f"C = {r['C']:g}; {best['C']:g} by test data"
        task = f"linear SVM, {SETS[r['dataset']]}"
        rows[task] = (percent(r["accuracy"]), percent(best["test"]), note)
    for r in read_metrics(CHECKPOINTS / f"{name}_fewshot"):
        task = f"few-shot, {SETS[r['dataset']]}, {r['k_way']} ways {r['m_shot']} shots"
        ours = f"{percent(r['mean'])} ± {percent(r['deviation'])}"
        rows[task] = (ours, "", f"{len(r['accuracies'])} episodes, C = 1")
    for task, (run, metric, published) in TUNED.items():
        folder = CHECKPOINTS / f"{name}_{run}"
        epochs = [r for r in read_metrics(folder) if "epoch_end" in r]
        if not epochs:
            continue
        arguments = read_config(folder)["arguments"]
        note = f"batch {arguments['batch_size']}{published}"
        if len(epochs) < arguments["epochs"]:
            note += f"; after {len(epochs)} of {arguments['epochs']} epochs"
        last, best = (epochs[-1][f"{of}test_{metric}"] for of in ("", "best_"))
        rows[task] = (percent(last), percent(best), note)
    return rows


def table(name: str) -> str:
    """The complete text."""
    measured = results(name)
    lines = [
        ("in %", "published", "ours", "ours,", "difference", ""),
        ("", "", "", "by test", "to published", ""),
    ]
    for task, published in PUBLISHED.items():
        ours, chosen, note = measured.get(task, ("-", "", "not run"))
        gap = ""
        if published != "-" and task in measured:
            gap = f"{float((chosen or ours)[:4]) - float(published[:4]):+.1f}"
        lines.append((task, published, ours, chosen, gap, note))
    runs = len(list(CHECKPOINTS.glob(f"{name}_*")))
    text = [f"Results of checkpoints/{name}_* ({runs} runs)", *origin(name), ""]
    form = "{:<40}  {:>10}  {:>10}  {:>8}  {:>12}  {}"
    return "\n".join(text + [form.format(*line).rstrip() for line in lines] + [CHOICES])


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def is_synthetic(root: str) -> bool:
    """Whether the folder was written by :mod:`datasets.synthetic`."""
    return Path(root, "manifest.json").is_file()


def origin(name: str) -> list[str]:
    """The origin of the numbers: data, commit, machine, seed."""
    folder = CHECKPOINTS / f"{name}_svm"
    if not (folder / "config.json").is_file():
        return []
    config = read_config(folder)
    root, seed = config["arguments"]["data_root"], config["arguments"]["seed"]
    commit, machine = (config["environment"][key] for key in ("commit", "machine"))
    lines = [f"data {root}, seed {seed}; commit {commit}; {machine}"]
    if is_synthetic(root):
        note = "the differences from published numbers mean nothing"
        lines.append(f"synthetic data: {note}")
    return lines


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("name", help="of the study: scripts/pipeline.sh --name")
    print(table(parser.parse_args().name))


if __name__ == "__main__":
    cli.run(main)
