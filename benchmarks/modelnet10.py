"""The gain on ModelNet10 from pre-training on a small collection of meshes.

For every seed: CrossPoint pre-training; the linear SVM and few-shot episodes on an
untrained and on the pre-trained encoder; fine-tuning from scratch and from pre-trained
weights with 1 % and 10 % of the labels. Complete runs are not repeated, so an
interrupted study resumes. The numbers are read from the runs' metrics.jsonl.

    python -m benchmarks.modelnet10 --data_root ../shared/data --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from utils.run.run_folder import CHECKPOINTS, read_metrics

POINTS = "--num_points 256"
# Flags given here differ from the published protocol.
PRETRAIN = (
    f"train_crosspoint.py {POINTS} --epochs 6 --image_encoder resnet18 "
    "--image_size 112 --svm_every 0 --num_workers 1"
)
SVM = f"eval_svm.py {POINTS} --C 0.01 0.1 1 10 100"
FEW_SHOT = f"eval_fewshot.py {POINTS} --table"
FINE_TUNE = f"finetune_cls.py {POINTS} --k 15 --num_workers 0 --test_batch_size 64"
FRACTIONS = {
    "1 %": "--label_fraction 0.01 --batch_size 10 --epochs 25",
    "10 %": "--label_fraction 0.1 --batch_size 20 --epochs 15",
}
STARTS = ("untrained", "pre-trained")


def commands(seed: int) -> dict[str, str]:
    """Every run of a seed, in order: its name and its script with all flags."""
    weights = CHECKPOINTS / f"mn10_{seed}_pretrain" / "models" / "best_model.pth"
    runs = {"pretrain": PRETRAIN}
    for start, path in zip(STARTS, ("none", weights), strict=True):
        runs[f"svm {start}"] = f"{SVM} --model_path {path}"
        runs[f"few-shot {start}"] = f"{FEW_SHOT} --model_path {path}"
    for share, flags in FRACTIONS.items():
        for start, path in zip(STARTS, ("", weights), strict=True):
            origin = f"--model_path {path}" if path else "--from_scratch"
            runs[f"{share} {start}"] = f"{FINE_TUNE} {flags} {origin}"
    return {
        name: f"{command} --seed {seed} --wandb disabled "
        f"--exp_name mn10_{seed}_{name.replace(' ', '_').replace('_%', 'pc')}"
        for name, command in runs.items()
    }


def records(command: str) -> list[dict]:
    """The run's metrics; of a training those of whole epochs."""
    found = read_metrics(CHECKPOINTS / command.split()[-1])
    return [r for r in found if "--epochs" not in command or "epoch_end" in r]


def complete(command: str, data_root: str) -> bool:
    """Whether the run on these data has all epochs, its SVM or its four settings."""
    words = command.split()
    config = CHECKPOINTS / words[-1] / "config.json"
    if not config.is_file():
        return False
    arguments = json.loads(config.read_text(encoding="utf-8"))["arguments"]
    wanted = 4 if "--table" in words else 1
    if "--epochs" in words:
        wanted = int(words[words.index("--epochs") + 1])
    return arguments["data_root"] == data_root and len(records(command)) == wanted


def accuracies(name: str, command: str) -> dict[str, float]:
    """A run's accuracies in percent, by row of the table."""
    found = records(command)
    if name.startswith("svm"):
        return {"linear SVM": 100 * found[-1]["accuracy"]}
    if name.startswith("few-shot"):
        return {
            f"few-shot, {r['k_way']} ways {r['m_shot']} shots": 100 * r["mean"]
            for r in found
        }
    share = name.rsplit(" ", 1)[0]
    return {f"fine-tuning, {share} of the labels": 100 * found[-1]["test_accuracy"]}


def spread(values: list[float]) -> str:
    """Mean and, of two values or more, sample deviation."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def table(seeds: list[int]) -> str:
    """Markdown: a row a task, over the seeds, whose runs are all complete."""
    values: dict[str, dict[str, list[float]]] = {}
    losses = []
    for seed in seeds:
        for name, command in commands(seed).items():
            if name == "pretrain":
                of_epochs = [record["train_loss"] for record in records(command)]
                losses.append(f"{of_epochs[0]:.3f} -> {of_epochs[-1]:.3f}")
                continue
            start = name.rsplit(" ", 1)[-1]
            for row, value in accuracies(name, command).items():
                values.setdefault(row, {}).setdefault(start, []).append(value)
    lines = [
        f"Test accuracy in %, seeds {', '.join(map(str, seeds))}",
        "",
        "| | untrained, from scratch | pre-trained | gain |",
        "|---|---|---|---|",
    ]
    for row, by_start in values.items():
        before, after = (by_start[start] for start in STARTS)
        gain = [b - a for a, b in zip(before, after, strict=True)]
        lines.append(f"| {row} | {spread(before)} | {spread(after)} | {spread(gain)} |")
    loss = f"Pre-training loss, first and last epoch: {', '.join(losses)}"
    return "\n".join([*lines, "", loss])


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", default="data", help="(default: data)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=2, help="(default: 2)")
    return parser


def main() -> None:
    """Run the command line."""
    args = get_args_parser().parse_args()
    for seed in args.seeds:
        for command in commands(seed).values():
            if complete(command, args.data_root):
                continue
            launcher = f"torchrun --standalone --nproc_per_node={args.processes}"
            line = f"{launcher} {command} --overwrite --data_root"
            print(f"\n$ {line} {args.data_root}", flush=True)
            done = subprocess.run([*line.split(), args.data_root])
            if done.returncode:
                sys.exit(done.returncode)
    print(table(args.seeds))


if __name__ == "__main__":
    main()
