"""The table that scripts/pipeline.sh prints at its end, from the files of its runs.

python -m scripts.pipeline_table NAME      of the runs checkpoints/NAME_*
"""

from __future__ import annotations

import json
from pathlib import Path

from utils.run import cli
from utils.run.run_folder import CHECKPOINTS, read_metrics

SETS = {"modelnet40": "ModelNet40", "scanobjectnn": "ScanObjectNN"}
# Mean and deviation in %, as published by CrossPoint (CVPR 2022), in the order of the
# table. Fine-tuning for classification is not among them.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "linear SVM, ModelNet40": (91.2,),
    "linear SVM, ScanObjectNN": (81.7,),
    "few-shot, ModelNet40, 5 ways 10 shots": (92.5, 3.0),
    "few-shot, ModelNet40, 5 ways 20 shots": (94.9, 2.1),
    "few-shot, ModelNet40, 10 ways 10 shots": (83.6, 5.3),
    "few-shot, ModelNet40, 10 ways 20 shots": (87.9, 4.2),
    "few-shot, ScanObjectNN, 5 ways 10 shots": (74.8, 1.5),
    "few-shot, ScanObjectNN, 5 ways 20 shots": (79.0, 1.2),
    "few-shot, ScanObjectNN, 10 ways 10 shots": (62.9, 1.7),
    "few-shot, ScanObjectNN, 10 ways 20 shots": (73.9, 2.2),
    "fine-tuning, ModelNet40, accuracy": (),
    "fine-tuning, ScanObjectNN, accuracy": (),
    "part segmentation, instance mIoU": (85.5,),
}
TUNED = {  # run, and the metric of its epochs
    "fine-tuning, ModelNet40, accuracy": ("ft-mn", "accuracy"),
    "fine-tuning, ScanObjectNN, accuracy": ("ft-so", "accuracy"),
    "part segmentation, instance mIoU": ("ft-partseg", "miou"),
}


def results(name: str) -> dict[str, tuple[tuple[float, ...], str]]:
    """Our mean and deviation in %, and a note, by task; only tasks that were run."""
    found: dict[str, tuple[tuple[float, ...], str]] = {}
    for r in read_metrics(CHECKPOINTS / f"{name}_svm"):
        task, note = f"linear SVM, {SETS[r['dataset']]}", "held-out choice"
        found[task] = (100 * r["accuracy"],), f"C = {r['C']:g}, {note}"
    for r in read_metrics(CHECKPOINTS / f"{name}_fewshot"):
        setting = f"{r['k_way']} ways {r['m_shot']} shots"
        ours = 100 * r["mean"], 100 * r["deviation"]
        note = f"{len(r['accuracies'])} episodes"
        found[f"few-shot, {SETS[r['dataset']]}, {setting}"] = ours, note
    for task, (run, metric) in TUNED.items():
        folder = CHECKPOINTS / f"{name}_{run}"
        epochs = [r for r in read_metrics(folder) if "epoch_end" in r]
        if not epochs:
            continue
        last, best = (
            100 * epochs[-1][f"{kind}test_{metric}"] for kind in ("", "best_")
        )
        note = f"last epoch; best, chosen on test data: {best:.1f}"
        wanted = _config(folder)["arguments"]["epochs"]
        if len(epochs) < wanted:
            note = f"after {len(epochs)} of {wanted} epochs; {note}"
        found[task] = (last,), note
    return found


def table(name: str) -> str:
    """The complete text."""
    found = results(name)
    lines = [("in %", "published", "ours", "difference", "")]
    for task, published in PUBLISHED.items():
        ours, note = found.get(task, ((), "not run"))
        gap = f"{ours[0] - published[0]:+.1f}" if ours and published else ""
        lines.append((task, _number(*published), _number(*ours), gap, note))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    runs = len(list(CHECKPOINTS.glob(f"{name}_*")))
    text = [f"Results of checkpoints/{name}_* ({runs} runs)", *_origin(name), ""]
    for task, *numbers, note in lines:
        columns = zip(numbers, widths[1:], strict=True)
        cells = "  ".join(cell.rjust(width) for cell, width in columns)
        text.append(f"{task:<{widths[0]}}  {cells}  {note}".rstrip())
    return "\n".join(text)


def _number(*mean_and_deviation: float) -> str:
    return " ± ".join(f"{value:.1f}" for value in mean_and_deviation) or "-"


def _config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _origin(name: str) -> list[str]:
    """The origin of the numbers: data, commit, machine, seed."""
    folder = CHECKPOINTS / f"{name}_svm"
    if not (folder / "config.json").is_file():
        return []
    config = _config(folder)
    arguments, found = config["arguments"], config["environment"]
    root = arguments["data_root"]
    lines = [
        f"data {root}, seed {arguments['seed']}; commit {found['commit']}; "
        f"{found['machine']}"
    ]
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
