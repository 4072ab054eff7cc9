"""What pre-training adds, by objective: every run and the table, in one command.

For every seed and arm: pre-training, then the frozen point encoder evaluated by
eval_svm.py (linear SVM with C chosen on held-out training data, k-NN, few labels,
corrupted test clouds) and by eval_fewshot.py; with --finetune also fine-tuned on 1 %
and 10 % of the labels. Arms have equally many steps, and start from the untrained
encoder of their seed. Results go to --out. The same command continues after any stop: a
complete run is not repeated, and an unfinished training is resumed.

    python -m benchmarks.study --data_root ../shared/data --out study --minutes 60
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from utils.run import cli
from utils.run.run_folder import CHECKPOINTS, read_metrics, replace_file

ROOT = Path(__file__).resolve().parents[1]
UNTRAINED = "untrained"
ARMS = {  # and what each adds to the command of pre-training
    UNTRAINED: "",
    "crosspoint": "",
    "crosspoint, 2 images": "--num_images 2",
    "multi-view, 2 images": "--objective multiview --num_images 2",
    "intra-modal alone": "--cmid_weight 0",
    "cross-modal alone": "--imid_weight 0",
}
SVM = "--C 0.01 0.1 1 10 100 --labels_per_class 1 5 20 --corrupt 3"
FEW_SHOT = "--table"
MOST_POINTS = 1024  # of a labelled cloud, as the published SVM has
FINE_TUNE = {  # by the share of the labels in %
    1: "--label_fraction 0.01 --batch_size 10 --epochs 25",
    10: "--label_fraction 0.1 --batch_size 20 --epochs 15",
}

Work = tuple[str, int]  # arm, seed
Values = dict[str, dict[str, dict[int, float]]]  # row, arm, seed -> accuracy in %


@dataclass(frozen=True)
class Run:
    """A script and its flags, the name of its run folder, and what it builds on."""

    name: str
    script: str
    flags: tuple[str, ...]
    pretraining: str  # its command: another one makes this another run

    @property
    def key(self) -> list[str]:
        """All that the result depends on."""
        return [self.script, *self.flags, self.pretraining]


def runs_of(arm: str, seed: int, args: argparse.Namespace) -> list[Run]:
    """The runs of one arm and seed, in order; after one that fails none is started."""
    prefix = f"{arm.replace(',', '').replace(' ', '_')}_{seed}"
    best = CHECKPOINTS / f"{prefix}_pretrain" / "models" / "best_model.pth"
    common = f"--seed {seed} --emb_dims {args.emb_dims} --wandb disabled"
    own = ("--data_root", str(Path(args.data_root).resolve()), *common.split())
    points = f"--num_points {min(args.num_points, MOST_POINTS)}"
    weights = "none" if arm == UNTRAINED else best
    commands = {}
    if arm != UNTRAINED:
        commands["pretrain"] = (
            f"train_crosspoint.py --epochs {args.epochs} --batch_size "
            f"{args.batch_size} --image_encoder {args.image_encoder} --image_size "
            f"{args.image_size} --num_workers {args.num_workers} --svm_every 0 "
            f"--checkpoint_steps 50 --num_points {args.num_points} {ARMS[arm]}"
        )
    commands["svm"] = f"eval_svm.py {SVM} {points} --model_path {weights}"
    commands["fewshot"] = f"eval_fewshot.py {FEW_SHOT} {points} --model_path {weights}"
    for share, flags in FINE_TUNE.items() if args.finetune else ():
        start = "--from_scratch" if arm == UNTRAINED else f"--model_path {best}"
        commands[f"finetune{share}pc"] = (
            f"finetune_cls.py --k 15 --num_workers {args.num_workers} {points} "
            f"{flags} {start}"
        )
    before, runs = commands.get("pretrain", ""), []
    for kind, command in commands.items():
        script, *words = command.split()
        runs.append(Run(f"{prefix}_{kind}", script, (*words, *own), before))
    return runs


class Study:
    """The runs in a folder: which are complete, and the start of those that are not.

    ``runs/<name>.json`` has a run's command and, once it is complete, its seconds;
    ``runs/<name>.log`` what it printed.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.stopped, self.failed = threading.Event(), False
        (out / "runs").mkdir(parents=True, exist_ok=True)

    def _file(self, run: Run, end: str) -> Path:
        return self.out / "runs" / f"{run.name}.{end}"

    def _folder(self, run: Run) -> Path:
        return self.out / CHECKPOINTS / run.name

    def _state(self, run: Run) -> dict[str, Any]:
        """State of this exact command; empty if it has not been started."""
        path = self._file(run, "json")
        state = json.loads(path.read_text()) if path.is_file() else {}
        return state if state.get("command") == run.key else {}

    def _write_state(self, run: Run, seconds: float | None) -> None:
        state = json.dumps({"command": run.key, "seconds": seconds})
        replace_file(self._file(run, "json"), state.encode())

    def complete(self, run: Run) -> bool:
        """Whether this exact command has finished."""
        return self._state(run).get("seconds") is not None

    def do(self, runs: list[Run], threads: int) -> None:
        """Do what is incomplete, one run after the other, until one fails."""
        for run in runs:
            if not self.complete(run) and not self._do(run, threads):
                return

    def _do(self, run: Run, threads: int) -> bool:
        if self.stopped.is_set():
            return False
        # An unfinished training is resumed; everything else is rerun.
        resumable = not run.script.startswith("eval_") and self._state(run)
        words = [*run.flags, "--exp_name", run.name]
        words.append("--resume" if resumable else "--overwrite")
        self._write_state(run, None)
        begin = time.monotonic()
        with open(self._file(run, "log"), "a") as log:
            process = subprocess.Popen(
                [sys.executable, ROOT / run.script, *words],
                cwd=self.out,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it as one signal: ours
            )
            while process.poll() is None:
                if self.stopped.wait(0.2):
                    process.terminate()  # a training writes a checkpoint
                    process.wait()
        if process.returncode:
            if not self.stopped.is_set():
                self.failed = True
                print(f"{run.name} failed: see {log.name}", flush=True)
            return False
        seconds = round(time.monotonic() - begin, 1)
        self._write_state(run, seconds)
        for path in self._folder(run).glob("models/checkpoint_*.pth"):
            path.unlink()  # hundreds of MB, of no use to a complete training
        print(f"{run.name}: {seconds:.0f} s", flush=True)
        return True

    def figures(self, run: Run) -> Iterator[tuple[str, float]]:
        """Rows of the table and the run's accuracies in percent."""
        for record in read_metrics(self._folder(run)):
            if run.script == "eval_svm.py":
                yield from svm_rows(record)
            elif run.script == "eval_fewshot.py":
                setting = f"{record['k_way']} ways {record['m_shot']} shots"
                yield f"few-shot, {setting}", 100 * record["mean"]
            elif run.script == "finetune_cls.py" and record.get("epoch_end"):
                share = run.name.rpartition("finetune")[2].replace("pc", " %")
                yield f"fine-tuned, {share} of labels", 100 * record["test_accuracy"]

    def write(
        self, work: Mapping[Work, list[Run]], args: argparse.Namespace, command: str
    ) -> None:
        """Print the table of what is complete; write ``table.md``, ``study.json``."""
        values: Values = {}
        commits = set()
        jobs = [(*key, run) for key, runs in work.items() for run in runs]
        done = [job for job in jobs if self.complete(job[-1])]
        for arm, seed, run in done:
            config = json.loads((self._folder(run) / "config.json").read_text())
            commits.add(config["environment"]["commit"])
            for row, value in self.figures(run):
                values.setdefault(row, {}).setdefault(arm, {})[seed] = value
        command = f"python -m benchmarks.study {command}"
        head = (
            f"Commit {', '.join(sorted(commits)) or '-'}; {len(done)} of {len(jobs)} "
            f"runs complete; pre-training of {args.epochs} epochs, batches of "
            f"{args.batch_size}.\n\n    {command}\n"
        )
        text = f"{head}\n{table(values, args.arms, args.seeds, UNTRAINED)}\n"
        content = {
            "commits": sorted(commits),
            "command": command,
            "arguments": vars(args),
            "values": values,
            "differences": differences(values, UNTRAINED),
        }
        replace_file(self.out / "table.md", text.encode())
        written = json.dumps(content, indent=1, default=str)
        replace_file(self.out / "study.json", written.encode())
        print(f"\n{text}\nin {self.out}: table.md, study.json")


def svm_rows(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A record of eval_svm.py as rows: classifiers on clean and corrupted clouds."""
    names = {"accuracy": "linear SVM", "knn_accuracy": "k-NN"}
    for key in record:
        if key.startswith("labels_") and key.endswith("_accuracy"):
            count = key.split("_")[1]
            names[key] = f"{count} label{'s' * (count != '1')} a class"
    for key, name in names.items():
        yield name, 100 * record[key]
    copies = record.get("corrupted", {})
    for key, name in names.items() if copies else ():
        yield f"corrupted, {name}", 100 * copies["mean"][key]
    for kind in copies:
        for key in ("accuracy", "knn_accuracy") if kind != "mean" else ():
            yield f"{kind}, {names[key]}", 100 * copies[kind][key]


def interval(scores: Sequence[float]) -> float | None:
    """Half-width of the mean's 95 % interval: t(0.975, n - 1) s / √n; None if n < 2."""
    count = len(scores)
    if count < 2:
        return None
    error = statistics.stdev(scores) / count**0.5
    return float(student.ppf(0.975, count - 1)) * error


def paired(values: Values, name: str, arm: str, reference: str) -> list[float]:
    """arm - reference in a row, of the seeds that both have."""
    own, other = (values[name].get(column, {}) for column in (arm, reference))
    return [own[seed] - other[seed] for seed in own if seed in other]


def differences(values: Values, reference: str) -> dict[str, dict[str, dict]]:
    """By row and arm: mean paired difference, its interval's half-width, seeds."""
    result: dict[str, dict[str, dict]] = {name: {} for name in values}
    for name, row in values.items():
        for arm in row:
            pairs = paired(values, name, arm, reference)
            if arm != reference and pairs:
                summary = {"mean": statistics.fmean(pairs), "interval": interval(pairs)}
                result[name][arm] = summary | {"seeds": len(pairs)}
    return result


def table(
    values: Values, arms: Sequence[str], seeds: Sequence[int], reference: str
) -> str:
    """Markdown: accuracies by row and arm, then differences to the reference arm."""

    def cell(scores: list[float], half: float | None, sign: str = "") -> str:
        if not scores:
            return "not run"
        count, spread = len(scores), "" if half is None else f" ± {half:.2f}"
        few = "" if count == len(seeds) else f" ({count} seed{'s' * (count != 1)})"
        return f"{statistics.fmean(scores):{sign}.2f}{spread}{few}"

    def accuracy(name: str, arm: str) -> str:
        scores = [*values[name].get(arm, {}).values()]
        return cell(scores, statistics.stdev(scores) if len(scores) > 1 else None)

    def difference(name: str, arm: str) -> str:
        pairs = paired(values, name, arm, reference)
        return cell(pairs, interval(pairs), "+")

    def grid(columns: Sequence[str], text: Callable[[str, str], str]) -> str:
        lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name in values:
            cells = " | ".join(text(name, arm) for arm in columns)
            lines.append(f"| {name} | {cells} |")
        return "\n".join(lines)

    others = [arm for arm in arms if arm != reference]
    return f"""\
Test accuracy in %, mean ± sample deviation over seeds {", ".join(map(str, seeds))}:

{grid(arms, accuracy)}

Difference to {reference} of the same seed: mean ± half-width of its 95 % interval \
(t distribution):

{grid(others, difference)}"""


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--data_root", default="data", help="folder of the data sets")
    add("--out", type=Path, default=Path("study"), help="results")
    names = f"in quotes: {'; '.join(ARMS)} (default: all)"
    add("--arms", nargs="+", choices=ARMS, metavar="ARM", default=[*ARMS], help=names)
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(default: 1 2 3)")
    add("--epochs", type=int, default=2, help="pre-training epochs")
    add("--batch_size", type=int, default=12, help="in pre-training")
    points = "per cloud (default: 512); evaluations use at most 1,024"
    add("--num_points", type=int, default=512, help=points)
    add("--emb_dims", type=int, default=1024, help="(default: 1024)")
    add("--image_encoder", default="resnet18", help="(default: resnet18)")
    add("--image_size", type=int, default=80, help="in pixels (default: 80)")
    add("--num_workers", type=int, default=0, help="per training run")
    add("--finetune", action="store_true", help="also fine-tune, with few labels")
    add("--jobs", type=int, default=2, help="concurrent runs")
    add("--threads", type=int, default=1, help="per run")
    add("--minutes", type=float, help="time limit (default: none)")
    return parser


def main(words: list[str] | None = None) -> int:
    """Do the runs, write and print the table; 1 if a run has failed."""
    args = get_args_parser().parse_args(words)
    study = Study(args.out.resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = {
        (arm, seed): runs_of(arm, seed, args)
        for seed in args.seeds
        for arm in args.arms
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        parts = [pool.submit(study.do, runs, args.threads) for runs in work.values()]
        try:
            wait(parts, args.minutes and 60 * args.minutes)
        except KeyboardInterrupt:
            print("interrupted: the same command continues", flush=True)
        finally:
            study.stopped.set()
            pool.shutdown(cancel_futures=True)
    for part in parts:
        if not part.cancelled():
            part.result()  # raises what went wrong in the study itself
    study.write(work, args, command=shlex.join(words or sys.argv[1:]))
    return int(study.failed)


if __name__ == "__main__":
    sys.exit(main())
