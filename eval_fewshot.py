"""Evaluate a frozen point encoder by few-shot episodes on its features.

Each episode draws N classes, fits a linear SVM to m shots of each and classifies
--n_query others. Each cloud's feature is computed once, by one rank; the episodes of a
seed are the same for any number of processes.

  one CPU   python eval_fewshot.py --dataset modelnet40 --model_path best_model.pth \\
                --k_way 5 --m_shot 10
  N GPUs    torchrun --nproc_per_node=N eval_fewshot.py --dataset scanobjectnn \\
                --model_path best_model.pth --table
"""

import argparse
import time

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from models import ENCODERS
from utils.run import cli, flags

PUBLISHED = {"num_points": 2048, "k": 5}


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of the few-shot evaluation."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(parser, "fewshot_<data sets>_<run and file of the weights>")
    own = ("model", "emb_dims", "num_points")  # K is 5 whatever the encoder's own
    flags.add_frozen_encoder_flags(parser, ENCODERS, PUBLISHED, of_weights=own)
    group = parser.add_argument_group("episodes")
    flags.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS, several=True)
    add = group.add_argument
    text = "split to draw support and query from (default: train, as published)"
    add("--split", choices=("train", "test"), default="train", help=text)
    for name, default, text in (
        ("--k_way", None, "classes per episode (default: 5)"),
        ("--m_shot", None, "support samples per class (default: 10)"),
        ("--n_query", 20, "query samples per class"),
        ("--n_runs", 50, "episodes"),
    ):
        add(name, type=flags.positive_int, default=default, help=text)
    text = "5 and 10 ways with 10 and 20 shots, as published, "
    text += "instead of --k_way and --m_shot"
    add("--table", action="store_true", help=text)
    flags.add_corrupt_flag(group, "the query samples")
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch

from datasets import labelled_clouds
from datasets.corruptions import corrupted_copies
from models import point_encoder
from models.edgeconv import chosen_form
from utils.judging.features import extract_features
from utils.judging.fewshot import PUBLISHED_SETTINGS, check_classes, evaluate_episodes
from utils.parallel import distributed
from utils.run.checkpoint import load_encoder, run_name
from utils.run.logger import RunLogger, evaluation_logger
from utils.run.network import settle


def main(args: argparse.Namespace, process: distributed.Process) -> None:
    """Features and episodes of every data set, and a run folder with the results."""
    name = "_".join(["fewshot", *args.dataset, run_name(args.model_path)])
    args.exp_name = args.exp_name or name
    one = ((args.k_way or 5, args.m_shot or 10),)
    settings = PUBLISHED_SETTINGS if args.table else one
    with distributed.fail_together():
        check_flags(args)
        network = settle(args, PUBLISHED)
        form, reason = chosen_form(args.edgeconv, process.device)
        sets = {
            name: labelled_clouds(
                name,
                args.data_root,
                args.split,
                num_points=args.num_points,
                shard=process.shard,
                variant=args.variant,
            )
            for name in args.dataset
        }
        torch.manual_seed(args.seed)
        encoder = point_encoder(args.model, args.k, args.emb_dims, args.edgeconv)
        weights = load_encoder(encoder, args.model_path, args.seed)
    labels = {n: distributed.gather_array(clouds.labels) for n, clouds in sets.items()}
    with distributed.fail_together():
        for name, clouds in sets.items():
            for setting in settings:
                check_classes(labels[name], clouds.class_names, *setting, args.n_query)

    encoder.to(process.device)
    rows = {"encoder": weights, "network": network.origin}
    rows["edgeconv"] = f"{form}: {reason}"
    with evaluation_logger(args, rows) as logger:
        for name, clouds in sets.items():
            start = time.perf_counter()
            size = args.test_batch_size
            features = extract_features(encoder, clouds.points, size, name)
            copies = {
                kind: extract_features(encoder, points, size, kind)
                for kind, points in corrupted_copies(clouds, args.corrupt, args.seed)
            }
            logger.info(
                f"{name} {args.split}: {len(features)} clouds, "
                f"features {time.perf_counter() - start:.1f} s"
            )
            for setting in settings:
                result = evaluate(features, copies, labels[name], setting, args, logger)
                source = {"dataset": name, "model_path": args.model_path}
                logger.record({**source, **result})


def check_flags(args: argparse.Namespace) -> None:
    """Raise a ValueError for flags that contradict each other."""
    if args.table and (args.k_way or args.m_shot):
        raise ValueError("--table sets --k_way and --m_shot itself: leave them out")
    if args.k_way == 1:
        raise ValueError("--k_way 1 leaves nothing to classify: use 2 or more")


def evaluate(
    features: np.ndarray,
    copies: dict[str, np.ndarray],
    labels: np.ndarray,
    setting: tuple[int, int],
    args: argparse.Namespace,
    logger: RunLogger,
) -> dict[str, object]:
    """Episodes of one setting, by rank 0: lines of the log, and the record.

    ``copies`` are features of corrupted clouds by kind, whose queries are classified,
    too.
    """
    ways, shots = setting

    def episodes() -> dict[str, object]:
        begin = time.perf_counter()
        chosen = (ways, shots, args.n_query, args.n_runs, args.seed)
        few_shot = evaluate_episodes(features, labels, *chosen, copies)
        record: dict[str, object] = {
            "mean": few_shot.mean,
            "deviation": few_shot.deviation,
            "interval": few_shot.interval,
            "seconds": round(time.perf_counter() - begin, 2),
            "accuracies": few_shot.accuracies,
        }
        if corrupted := few_shot.copies:
            mean = float(np.mean([*corrupted.values()]))
            record["corrupted"] = {**corrupted, "mean": mean}
        return record

    result = distributed.run_on_main(episodes)
    text = (
        f"{ways:>2} ways {shots:>2} shots: {result['mean']:.2%} "
        f"± {result['deviation']:.2%} over {args.n_runs} episodes"
    )
    if result["interval"] is not None:
        text += f", 95 % interval of the mean ± {result['interval']:.2%}"
    text += f"  ({result['seconds']} s)"
    if "corrupted" in result:
        means = (f"{kind} {mean:.2%}" for kind, mean in result["corrupted"].items())
        text += f"\n  corrupted: {', '.join(means)}"
    logger.info(text)
    return {"k_way": ways, "m_shot": shots, **result}


if __name__ == "__main__":
    cli.run(lambda: distributed.run(main, ARGS), ARGS.debug)
