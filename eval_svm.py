"""Evaluate a frozen point encoder by a linear SVM and by k-NN on its features.

Each cloud's feature is computed once, by one rank; rank 0 fits the SVM. Of several
values of C the best on a held-out fifth of the training set is chosen. Optional: few
labels, corrupted test clouds (docs/evaluation.md). Compare with an untrained encoder
(--model_path none) to see what pre-training adds.

  one CPU   python eval_svm.py --dataset modelnet40 --model_path best_model.pth
  N GPUs    torchrun --nproc_per_node=N eval_svm.py --dataset scanobjectnn \\
                --model_path best_model.pth --C 0.01 0.1 1 10 100
            python eval_svm.py --dataset modelnet40 --model_path best_model.pth \\
                --labels_per_class 1 5 20 --corrupt 3
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from models import ENCODERS
from utils.run import cli, flags

PUBLISHED = {"num_points": 1024, "k": 15}


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of the SVM evaluation."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(parser, "svm_<data sets>_<run and file of the weights>")
    flags.add_frozen_encoder_flags(parser, ENCODERS, PUBLISHED)
    group = parser.add_argument_group("evaluation")
    flags.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS, several=True)
    add = group.add_argument
    text = "the SVM's C; of several, the best on held-out training data (default: 0.1)"
    add("--C", type=flags.positive_float, nargs="+", default=[0.1], help=text)
    text = "k of the k-NN classifier; 0 for none"
    add("--knn", type=flags.natural_int, default=20, metavar="K", help=text)
    add(
        "--labels_per_class",
        type=flags.positive_int,
        nargs="+",
        default=[],
        metavar="N",
        help="also fit an SVM to N labelled clouds per class, for each N",
    )
    text = "random draws for each N of --labels_per_class"
    add("--draws", type=flags.positive_int, default=10, help=text)
    flags.add_corrupt_flag(group, "the test clouds, with every classifier")
    text = "write features and labels of both splits, for one --dataset"
    add("--save_features", default="", metavar="FILE.npz", help=text)
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
from torch import nn

from datasets import labelled_clouds
from datasets.corruptions import corrupted_copies
from datasets.labelled import LabelledClouds
from models import point_encoder
from models.edgeconv import chosen_form
from utils.judging.features import extract_features
from utils.judging.judges import check_labels_per_class, judge_clouds, judges_table
from utils.judging.metrics import write_confusion
from utils.judging.svm import judge_features
from utils.parallel import distributed
from utils.run.checkpoint import load_encoder, run_name
from utils.run.logger import RunLogger, evaluation_logger
from utils.run.network import settle


def main(args: argparse.Namespace, process: distributed.Process) -> None:
    """Features and SVM of every data set, and a run folder with the results."""
    name = "_".join(["svm", *args.dataset, run_name(args.model_path)])
    args.exp_name = args.exp_name or name
    with distributed.fail_together():
        check_flags(args)
        network = settle(args, PUBLISHED)
        form, reason = chosen_form(args.edgeconv, process.device)
        read = partial(
            labelled_clouds,
            data_root=args.data_root,
            num_points=args.num_points,
            shard=process.shard,
            variant=args.variant,
        )
        sets = {
            name: [read(name, split=split) for split in ("train", "test")]
            for name in args.dataset
        }
        torch.manual_seed(args.seed)
        encoder = point_encoder(args.model, args.k, args.emb_dims, args.edgeconv)
        weights = load_encoder(encoder, args.model_path, args.seed)
    labels = {
        name: [distributed.gather_array(part.labels) for part in splits]
        for name, splits in sets.items()
    }
    with distributed.fail_together():
        for name, (train, _) in sets.items():
            names, counts = train.class_names, args.labels_per_class
            check_labels_per_class(labels[name][0], names, counts)

    encoder.to(process.device)
    rows = {"encoder": weights, "network": network.origin}
    rows["edgeconv"] = f"{form}: {reason}"
    with evaluation_logger(args, rows) as logger:
        for name, splits in sets.items():
            result = evaluate(name, splits, labels[name], encoder, args, logger)
            logger.record({"dataset": name, "model_path": args.model_path, **result})


def check_flags(args: argparse.Namespace) -> None:
    """Raise a ValueError for contradictory flags or an output that is not writable."""
    if not args.save_features:
        return
    path = Path(args.save_features)
    if len(args.dataset) > 1:
        raise ValueError("--save_features takes one --dataset at a time")
    writable = path.parent.is_dir() and os.access(path.parent, os.W_OK)
    if path.suffix != ".npz" or not writable:
        problem = "is not NAME.npz in a folder that can be written"
        raise ValueError(f"--save_features {path} {problem}")


def evaluate(
    name: str,
    splits: list[LabelledClouds],
    labels: list[np.ndarray],
    encoder: nn.Module,
    args: argparse.Namespace,
    logger: RunLogger,
) -> dict[str, object]:
    """Features, choice of C, and test figures of one data set.

    ``splits`` are this rank's shares of the training and the test split, ``labels``
    those of all ranks. Writes ``confusion_<name>.csv`` (rows: true classes, columns:
    predictions).
    """
    start = time.perf_counter()
    size, classes = args.test_batch_size, splits[0].class_names
    features = [extract_features(encoder, part.points, size, name) for part in splits]
    copies = {
        kind: extract_features(encoder, points, size, kind)
        for kind, points in corrupted_copies(splits[1], args.corrupt, args.seed)
    }
    seconds = {"features_seconds": round(time.perf_counter() - start, 2)}

    def judge() -> dict[str, object]:
        begin = time.perf_counter()
        train, test = zip(features, labels, strict=True)
        judgement = judge_features(
            train, test, len(classes), args.C, args.seed, test_every_C=True
        )
        path = logger.folder / f"confusion_{name}.csv"
        write_confusion(path, judgement.matrix, classes)
        seconds["svm_seconds"] = round(time.perf_counter() - begin, 2)
        tests = {"clean": test[0], **copies}
        by_clouds = judge_clouds(
            judgement.svm,
            train,
            tests,
            test[1],
            knn=args.knn,
            labels_per_class=args.labels_per_class,
            draws=args.draws,
            seed=args.seed,
        )
        return {
            "C": judgement.C,
            **by_clouds.pop("clean"),
            "class_accuracy": judgement.class_accuracy,
            "train_size": judgement.train_size,
            "test_size": judgement.test_size,
            **seconds,
            "table": judgement.table,
            **({"corrupted": by_clouds} if args.corrupt else {}),
        }

    result = distributed.run_on_main(judge)
    logger.info(render(name, result))
    if args.save_features and distributed.rank() == 0:
        np.savez(
            args.save_features,
            train=features[0],
            train_labels=labels[0],
            test=features[1],
            test_labels=labels[1],
        )
    return result


def render(name: str, result: dict) -> str:
    """The result of one data set, for the log."""
    lines = [
        f"{name}: {result['train_size']} training and {result['test_size']} test "
        f"clouds, features {result['features_seconds']} s, "
        f"SVM {result['svm_seconds']} s"
    ]
    if len(result["table"]) > 1:
        lines.append("       C  held out      test")
        for row in result["table"]:
            mark = "  <- chosen on held-out data" if row["C"] == result["C"] else ""
            lines.append(
                f"{row['C']:>8g}  {row['held_out']:>7.2%}  {row['test']:>8.2%}{mark}"
            )
        best = max(row["test"] for row in result["table"])
        lines.append(f"best of the table, chosen on test data: {best:.2%}")
    lines.append(
        f"accuracy {result['accuracy']:.2%}, mean class accuracy "
        f"{result['class_accuracy']:.2%} (C = {result['C']:g})"
    )
    lines.append(judges_table({"clean": result, **result.get("corrupted", {})}))
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(lambda: distributed.run(main, ARGS), ARGS.debug)
