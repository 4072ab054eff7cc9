"""The table that scripts/quickstart.sh prints at its end, from the files of its runs.

python -m scripts.quickstart_table SEEDS      of the seeds 1 to SEEDS
"""

from scripts.pipeline_table import SETS, accuracies, percent
from utils.run import cli
from utils.run.run_folder import CHECKPOINTS, read_metrics


def table(seeds: range) -> str:
    """The complete text: accuracies, losses, times, files."""
    kinds = [
        accuracies(CHECKPOINTS / f"quickstart_{kind}_seed{seed}" for seed in seeds)
        for kind in ("untrained", "pretrained")
    ]
    several = "s, mean ± deviation" if len(seeds) > 1 else ""
    form = "  {:<20}{:>14}{:>14}   {}"
    lines = [
        "",
        f"Linear SVM on frozen features, accuracy in %, {len(seeds)} seed{several}; "
        "C chosen on held-out training data",
        form.format("", "untrained", "pre-trained", "C untrained | pre-trained"),
    ]
    for name, label in SETS.items():
        values = [percent(*(r["accuracy"] for r in kind[name])) for kind in kinds]
        chosen = [" ".join(f"{r['C']:g}" for r in kind[name]) for kind in kinds]
        lines.append(form.format(f"{label}-like", *values, " | ".join(chosen)))
    lines += ["", "Pre-training loss, first step and mean of the last epoch"]
    for seed in seeds:
        metrics = read_metrics(CHECKPOINTS / f"quickstart_seed{seed}")
        first = next(m["loss"] for m in metrics if "step" in m)
        last = [m["train_loss"] for m in metrics if "epoch_end" in m][-1]
        lines.append(f"  seed {seed}: {first:.3f} -> {last:.3f}")
    lines += ["", "Wall time"]
    text = (CHECKPOINTS / "quickstart" / "stages.tsv").read_text()
    stages = [line.split("\t") for line in text.splitlines()]
    stages.append(["all", str(sum(int(seconds) for _, seconds in stages))])
    lines += [f"  {name:<38}{seconds:>6} s" for name, seconds in stages]
    lines += ["", "Files", "  data/synthetic/                          four data sets"]
    run = "checkpoints/quickstart"
    for seed in seeds:
        own = f"  {run}_untrained_seed{seed}/, {run}_pretrained_seed{seed}/   "
        lines += [
            f"  {run}_seed{seed}/models/best_model.pth   the point encoder",
            f"  {run}_seed{seed}/metrics.jsonl, run.log, wandb/",
            own + "confusion tables",
        ]
    lines.append(f"  {run}/report.html       curves, maps, neighbours")
    lines.append(f"  {run}/table.txt         this table")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("seeds", type=int, help="number of seeds that were run")
    print(table(range(1, parser.parse_args().seeds + 1)))


if __name__ == "__main__":
    cli.run(main)
