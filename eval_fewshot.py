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

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from models import ENCODERS
from utils import cli


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of the few-shot evaluation."""
    parser = cli.Parser(__doc__)
    cli.add_run_flags(
        parser, exp_name="", naming="fewshot_<data set>_<run or file of the weights>"
    )
    cli.add_frozen_encoder_flags(parser, num_points=2048, k=5, models=ENCODERS)
    group = parser.add_argument_group("episodes")
    cli.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS)
    group.add_argument(
        "--split",
        choices=("train", "test"),
        default="train",
        help="where support and query come from; published: train (default: train)",
    )
    group.add_argument(
        "--k_way", type=cli.positive_int, default=5, help="classes (default: 5)"
    )
    group.add_argument(
        "--m_shot",
        type=cli.positive_int,
        default=10,
        help="samples a class to fit (default: 10)",
    )
    group.add_argument(
        "--n_query",
        type=cli.positive_int,
        default=20,
        help="samples a class to judge (default: 20)",
    )
    group.add_argument(
        "--n_runs", type=cli.positive_int, default=50, help="episodes (default: 50)"
    )
    group.add_argument(
        "--table",
        action="store_true",
        help="the four published settings, 5 and 10 ways with 10 and 20 shots",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = get_args_parser().parse_args()

from torch import nn

from datasets import labelled_clouds
from datasets.files import DataError
from datasets.modelnet import LabelledClouds
from models import point_encoder
from models.edgeconv import chosen_form
from utils import checkpoint, distributed
from utils.features import extract_features
from utils.fewshot import PUBLISHED_SETTINGS, check_classes, evaluate_episodes
from utils.logger import RunLogger, open_run_folder
from utils.seed import seed_torch


def main(args: argparse.Namespace) -> None:
    process = distributed.start(args.dist_timeout)
    judge_encoder(args, process)
    distributed.stop()


def judge_encoder(args: argparse.Namespace, process: distributed.Process) -> None:
    """Features, then the episodes of every setting, and a run folder with both."""
    name = checkpoint.run_name(args.model_path)
    args.exp_name = args.exp_name or f"fewshot_{args.dataset}_{name}"
    settings = PUBLISHED_SETTINGS if args.table else ((args.k_way, args.m_shot),)
    clouds, encoder, source = distributed.run_everywhere(
        lambda: prepare(args, process),
        *(DataError, checkpoint.CheckpointError, ValueError),
    )
    encoder.to(process.device)
    inputs = [] if args.model_path == cli.UNTRAINED else [args.model_path]
    folder = open_run_folder(args.exp_name, args.overwrite, inputs=inputs)
    with RunLogger(folder, vars(args)) as logger:
        form = "{}: {}".format(*chosen_form(args.edgeconv, process.device))
        logger.introduce({"encoder": source, "k": str(args.k), "edgeconv": form})
        labels = distributed.gather_array(clouds.labels)

        def check() -> None:
            with cli.usage_errors():
                for ways, shots in settings:
                    check_classes(labels, clouds.class_names, ways, shots, args.n_query)

        distributed.run_on_main(check)
        start = time.perf_counter()
        features = extract_features(
            encoder, clouds.points, args.test_batch_size, process.device, args.dataset
        )
        logger.info(
            f"{args.dataset} {args.split}: {len(features)} clouds, "
            f"features {time.perf_counter() - start:.1f} s"
        )
        for ways, shots in settings:

            def episodes(ways: int = ways, shots: int = shots) -> dict[str, object]:
                begin = time.perf_counter()
                found = evaluate_episodes(
                    *(features, labels, ways, shots),
                    *(args.n_query, args.n_runs, args.seed),
                )
                return {
                    "mean": found.mean,
                    "deviation": found.deviation,
                    "interval": found.interval,
                    "seconds": round(time.perf_counter() - begin, 2),
                    "accuracies": found.accuracies,
                }

            result = distributed.run_on_main(episodes)
            seconds = f"({result['seconds']} s)"
            logger.info(
                f"{ways:>2} ways {shots:>2} shots: {result['mean']:.2%} "
                f"± {result['deviation']:.2%} over {args.n_runs} episodes, 95 % "
                f"interval of the mean ± {result['interval']:.2%}  {seconds}"
            )
            setting = {"dataset": args.dataset, "k_way": ways, "m_shot": shots}
            logger.record({**setting, "model_path": args.model_path, **result})


def prepare(
    args: argparse.Namespace, process: distributed.Process
) -> tuple[LabelledClouds, nn.Module, str]:
    """This rank's clouds, the encoder and where it comes from."""
    chosen_form(args.edgeconv, process.device)
    if args.k > args.num_points:
        raise ValueError(f"--k {args.k} is more than --num_points {args.num_points}")
    clouds = labelled_clouds(
        *(args.dataset, args.data_root, args.split, args.num_points),
        *((process.rank, process.world_size), args.variant),
    )
    seed_torch(args.seed)
    encoder = point_encoder(args.model, args.k, args.emb_dims, args.edgeconv)
    source = checkpoint.load_frozen(encoder, args.model_path, args.seed)
    return clouds, encoder, source


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), DataError, checkpoint.CheckpointError)
