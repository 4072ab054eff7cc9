"""The table that scripts/pipeline.sh prints at its end, from the files of its runs.

python -m scripts.pipeline_table NAME      of the runs checkpoints/NAME_*
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from utils.judging.fewshot import PUBLISHED_SETTINGS
from utils.run import cli
from utils.run.run_folder import CHECKPOINTS, read_metrics

SETS = {"modelnet40": "ModelNet40", "scanobjectnn": "ScanObjectNN"}
# Published by CrossPoint (CVPR 2022), in %. Classification fine-tuning is not in it.
SVM = {"modelnet40": 91.2, "scanobjectnn": 81.7}
FEW_SHOT = {
    "modelnet40": ((92.5, 3.0), (94.9, 2.1), (83.6, 5.3), (87.9, 4.2)),
    "scanobjectnn": ((74.8, 1.5), (79.0, 1.2), (62.9, 1.7), (73.9, 2.2)),
}
PART_MIOU = 85.5


@dataclass(frozen=True)
class Row:
    """A row of the table; numbers in %, None if missing."""

    task: str
    published: float | None
    ours: float | None
    deviations: tuple[float | None, float | None] = (None, None)
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        gap = None
        if self.published is not None and self.ours is not None:
            gap = self.ours - self.published
        published, ours = (
            _number(value) + (f" ± {spread:.1f}" if spread is not None else "")
            for value, spread in zip(
                (self.published, self.ours), self.deviations, strict=True
            )
        )
        difference = "" if gap is None else f"{gap:+.1f}"
        return self.task, published, ours, difference, self.note


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def svm_rows(name: str) -> list[Row]:
    """One row for each data set."""
    found = {r["dataset"]: r for r in read_metrics(CHECKPOINTS / f"{name}_svm")}
    rows = []
    for key, label in SETS.items():
        result = found.get(key)
        ours = 100 * result["accuracy"] if result else None
        note = f"C = {result['C']:g}, held-out choice" if result else "not run"
        rows.append(Row(f"linear SVM, {label}", SVM[key], ours, note=note))
    return rows


def few_shot_rows(name: str) -> list[Row]:
    """Four rows for each data set."""
    rows = []
    records = read_metrics(CHECKPOINTS / f"{name}_fewshot")
    for key, label in SETS.items():
        own = [r for r in records if r["dataset"] == key]
        found = {(r["k_way"], r["m_shot"]): r for r in own}
        for setting, (mean, deviation) in zip(
            PUBLISHED_SETTINGS, FEW_SHOT[key], strict=True
        ):
            task = f"few-shot, {label}, {setting[0]} ways {setting[1]} shots"
            result = found.get(setting)
            ours = 100 * result["mean"] if result else None
            spread = 100 * result["deviation"] if result else None
            note = f"{len(result['accuracies'])} episodes" if result else "not run"
            rows.append(Row(task, mean, ours, (deviation, spread), note))
    return rows


def tuned_row(task: str, run: str, metric: str, published: float | None) -> Row:
    """The last epoch of a fine-tuning; the note has the best, chosen on test data."""
    folder = CHECKPOINTS / run
    epochs = [r for r in read_metrics(folder) if "epoch_end" in r]
    if not epochs:
        return Row(task, published, None, note="not run")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = config["arguments"]["epochs"]
    last, best = (100 * epochs[-1][f"{kind}test_{metric}"] for kind in ("", "best_"))
    note = f"last epoch; best, chosen on test data: {best:.1f}"
    if len(epochs) < wanted:
        note = f"after {len(epochs)} of {wanted} epochs; {note}"
    return Row(task, published, last, note=note)


def table(name: str) -> str:
    """The complete text."""
    rows = [*svm_rows(name), *few_shot_rows(name)]
    for run, label in zip(("ft-mn", "ft-so"), SETS.values(), strict=True):
        task = f"fine-tuning, {label}, accuracy"
        rows.append(tuned_row(task, f"{name}_{run}", "accuracy", None))
    part = "part segmentation, instance mIoU"
    rows.append(tuned_row(part, f"{name}_ft-partseg", "miou", PART_MIOU))
    lines: list[tuple[str, ...]] = [("in %", "published", "ours", "difference", "")]
    lines += [row.cells() for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    runs = len(list(CHECKPOINTS.glob(f"{name}_*")))
    text = [f"Results of checkpoints/{name}_* ({runs} runs)", *_origin(name), ""]
    for task, *numbers, note in lines:
        columns = zip(numbers, widths[1:], strict=True)
        cells = "  ".join(cell.rjust(width) for cell, width in columns)
        text.append(f"{task:<{widths[0]}}  {cells}  {note}".rstrip())
    return "\n".join(text)


def _origin(name: str) -> list[str]:
    """The origin of the numbers: data, commit, machine, seed."""
    path = CHECKPOINTS / f"{name}_svm" / "config.json"
    if not path.is_file():
        return []
    config = json.loads(path.read_text(encoding="utf-8"))
    arguments, found = config["arguments"], config["environment"]
    root = arguments["data_root"]
    lines = [
        f"data {root}, seed {arguments['seed']}; commit {found['commit']}; "
        f"{found['machine']}"
    ]
    if (Path(root) / "manifest.json").is_file():
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
