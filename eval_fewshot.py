"""Judge a frozen point encoder by few-shot episodes on its features.

Every episode draws N classes, fits a linear SVM to m shots of each and is judged on
--n_query others. Features are computed once, over all ranks; the episodes of a seed are
the same for any number of processes.

  one CPU   python eval_fewshot.py --dataset modelnet40 --model_path best_model.pth \\
                --k_way 5 --m_shot 10
  N GPUs    torchrun --nproc_per_node=N eval_fewshot.py --dataset scanobjectnn \\
                --model_path best_model.pth --table
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from models import ENCODERS
from utils.run import cli, flags


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of the few-shot evaluation."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(
        parser, exp_name="", naming="fewshot_<data sets>_<run and file of the weights>"
    )
    flags.add_frozen_encoder_flags(parser, num_points=2048, k=5, models=ENCODERS)
    group = parser.add_argument_group("episodes")
    flags.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS, several=True)
    group.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="where support and query come from; published: train (default: train)",
    )
    group.add_argument("--k_way", type=flags.positive_int, help="classes (default: 5)")
    group.add_argument(
        "--m_shot", type=flags.positive_int, help="samples a class to fit (default: 10)"
    )
    group.add_argument(
        "--n_query",
        type=flags.positive_int,
        default=20,
        help="samples a class to judge (default: 20)",
    )
    group.add_argument(
        "--n_runs", type=flags.positive_int, default=50, help="episodes (default: 50)"
    )
    group.add_argument(
        "--table",
        action="store_true",
        help="instead of --k_way and --m_shot the four published settings, 5 and 10 "
        "ways with 10 and 20 shots",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
from torch import nn

from datasets import labelled_clouds
from datasets.files import DataError
from datasets.labelled import LabelledClouds
from models import point_encoder
from models.edgeconv import chosen_form
from utils.judging.features import extract_features
from utils.judging.fewshot import PUBLISHED_SETTINGS, check_classes, evaluate_episodes
from utils.parallel import distributed
from utils.parallel.seed import seed_torch
from utils.run import checkpoint
from utils.run.logger import RunLogger
from utils.run.run_folder import open_run_folder


def main(args: argparse.Namespace) -> None:
    process = distributed.start(args.dist_timeout)
    judge_encoder(args, process)
    distributed.stop()


def judge_encoder(args: argparse.Namespace, process: distributed.Process) -> None:
    """Every data set's features and episodes, and a run folder with the results."""
    name = checkpoint.run_name(args.model_path)
    args.exp_name = args.exp_name or "_".join(["fewshot", *args.dataset, name])
    settings: Sequence[tuple[int, int]] = PUBLISHED_SETTINGS
    if not args.table:
        settings = ((args.k_way or 5, args.m_shot or 10),)
    sets, encoder, source = distributed.run_everywhere(
        lambda: prepare(args, process),
        DataError,
        checkpoint.CheckpointError,
        ValueError,
    )
    labels = {n: distributed.gather_array(sets[n].labels) for n in args.dataset}

    def check() -> None:
        with cli.usage_errors():
            for dataset, clouds in sets.items():
                for setting in settings:
                    names = clouds.class_names
                    check_classes(labels[dataset], names, *setting, args.n_query)

    distributed.run_on_main(check)
    encoder.to(process.device)
    inputs = [] if args.model_path == cli.UNTRAINED else [args.model_path]
    folder = open_run_folder(args.exp_name, args.overwrite, inputs=inputs)
    with RunLogger(folder, vars(args)) as logger:
        form = "{}: {}".format(*chosen_form(args.edgeconv, process.device))
        logger.introduce({"encoder": source, "k": str(args.k), "edgeconv": form})
        for dataset, clouds in sets.items():
            features = features_of(
                dataset, clouds, encoder, process.device, args, logger
            )
            for setting in settings:
                record = judge_setting(features, labels[dataset], setting, args, logger)
                place = {"dataset": dataset, "model_path": args.model_path}
                logger.record({**place, **record})


def prepare(
    args: argparse.Namespace, process: distributed.Process
) -> tuple[dict[str, LabelledClouds], nn.Module, str]:
    """This rank's clouds of every data set, the encoder and where it comes from."""
    chosen_form(args.edgeconv, process.device)
    if args.table and (args.k_way or args.m_shot):
        raise ValueError("--table has settings of its own: no --k_way, no --m_shot")
    if args.k_way == 1:
        raise ValueError("--k_way 1 leaves nothing to tell apart: use 2 or more")
    if args.k > args.num_points:
        raise ValueError(f"--k {args.k} is more than --num_points {args.num_points}")
    shard = (process.rank, process.world_size)
    sets = {
        name: labelled_clouds(
            name, args.data_root, args.split, args.num_points, shard, args.variant
        )
        for name in args.dataset
    }
    seed_torch(args.seed)
    encoder = point_encoder(args.model, args.k, args.emb_dims, args.edgeconv)
    source = checkpoint.load_frozen(encoder, args.model_path, args.seed)
    return sets, encoder, source


def features_of(
    dataset: str,
    clouds: LabelledClouds,
    encoder: nn.Module,
    device: torch.device,
    args: argparse.Namespace,
    logger: RunLogger,
) -> np.ndarray:
    """(M, F) of all ranks' clouds, and a line in the log."""
    start = time.perf_counter()
    features = extract_features(
        encoder, clouds.points, args.test_batch_size, device, dataset
    )
    seconds = time.perf_counter() - start
    logger.info(
        f"{dataset} {args.split}: {len(features)} clouds, features {seconds:.1f} s"
    )
    return features


def judge_setting(
    features: np.ndarray,
    labels: np.ndarray,
    setting: tuple[int, int],
    args: argparse.Namespace,
    logger: RunLogger,
) -> dict[str, object]:
    """The episodes of one setting, by rank 0: a line in the log, and the record."""
    ways, shots = setting

    def episodes() -> dict[str, object]:
        begin = time.perf_counter()
        found = evaluate_episodes(
            features, labels, ways, shots, args.n_query, args.n_runs, args.seed
        )
        return {
            "mean": found.mean,
            "deviation": found.deviation,
            "interval": found.interval,
            "seconds": round(time.perf_counter() - begin, 2),
            "accuracies": found.accuracies,
        }

    result = distributed.run_on_main(episodes)
    text = (
        f"{ways:>2} ways {shots:>2} shots: {result['mean']:.2%} "
        f"± {result['deviation']:.2%} over {args.n_runs} episodes"
    )
    if result["interval"] is not None:
        text += f", 95 % interval of the mean ± {result['interval']:.2%}"
    logger.info(f"{text}  ({result['seconds']} s)")
    return {"k_way": ways, "m_shot": shots, **result}


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), DataError, checkpoint.CheckpointError)
