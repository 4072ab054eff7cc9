"""The table that scripts/pipeline.sh prints at its end, from the files of its runs.

python -m scripts.pipeline_table NAME      of the runs checkpoints/NAME_*
"""

from __future__ import annotations

import json
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
TUNED = {  # run, and the metric of its epochs
    "fine-tuning, ModelNet40, accuracy": ("ft-mn", "accuracy"),
    "fine-tuning, ScanObjectNN, accuracy": ("ft-so", "accuracy"),
    "part segmentation, instance mIoU": ("ft-partseg", "miou"),
}


def results(name: str) -> dict[str, tuple[float, str, str]]:
    """Our number in %, what follows it, and a note, by task; only what was run."""
    found = {}
    for r in read_metrics(CHECKPOINTS / f"{name}_svm"):
        task = f"linear SVM, {SETS[r['dataset']]}"
        found[task] = 100 * r["accuracy"], "", f"C = {r['C']:g}, held-out choice"
    for r in read_metrics(CHECKPOINTS / f"{name}_fewshot"):
        setting = f"{r['k_way']} ways {r['m_shot']} shots"
        note = f"{len(r['accuracies'])} episodes"
        ours = 100 * r["mean"], f" ± {100 * r['deviation']:.1f}", note
        found[f"few-shot, {SETS[r['dataset']]}, {setting}"] = ours
    for task, (run, metric) in TUNED.items():
        folder = CHECKPOINTS / f"{name}_{run}"
        epochs = [r for r in read_metrics(folder) if "epoch_end" in r]
        if not epochs:
            continue
        best = 100 * epochs[-1][f"best_test_{metric}"]
        note = f"last epoch; best, chosen on test data: {best:.1f}"
        wanted = read_config(folder)["arguments"]["epochs"]
        if len(epochs) < wanted:
            note = f"after {len(epochs)} of {wanted} epochs; {note}"
        found[task] = 100 * epochs[-1][f"test_{metric}"], "", note
    return found


def table(name: str) -> str:
    """The complete text."""
    found = results(name)
    lines = [("in %", "published", "ours", "difference", "")]
    for task, published in PUBLISHED.items():
        if task in found:
            ours, deviation, note = found[task]
            gap = "" if published == "-" else f"{ours - float(published[:4]):+.1f}"
            lines.append((task, published, f"{ours:.1f}{deviation}", gap, note))
        else:
            lines.append((task, published, "-", "", "not run"))
    runs = len(list(CHECKPOINTS.glob(f"{name}_*")))
    text = [f"Results of checkpoints/{name}_* ({runs} runs)", *origin(name), ""]
    form = "{:<40}  {:>10}  {:>10}  {:>10}  {}"
    return "\n".join(text + [form.format(*line).rstrip() for line in lines])


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def origin(name: str) -> list[str]:
    """The origin of the numbers: data, commit, machine, seed."""
    folder = CHECKPOINTS / f"{name}_svm"
    if not (folder / "config.json").is_file():
        return []
    config = read_config(folder)
    root, seed = config["arguments"]["data_root"], config["arguments"]["seed"]
    commit, machine = (config["environment"][key] for key in ("commit", "machine"))
    lines = [f"data {root}, seed {seed}; commit {commit}; {machine}"]
    if Path(root, "manifest.json").is_file():
        lines.append(
            "synthetic data: the differences from published numbers mean nothing"
        )
    return lines


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("name", help="of the study: scripts/pipeline.sh --name")
    print(table(parser.parse_args().name))


if __name__ == "__main__":
    cli.run(main)
