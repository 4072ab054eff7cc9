"""The flags that scripts share, in argument groups, and the types of their values.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from utils.parallel.machine import loader_workers
from utils.run.cli import RETIRED, UNTRAINED

Number = TypeVar("Number", int, float)


def _bounded(value: Number, least: int, excluded: bool = False) -> Number:
    if not least <= value < float("inf") or (excluded and value == least):
        bound = "above" if excluded else "at least"
        raise argparse.ArgumentTypeError(f"must be {bound} {least}, got {value}")
    return value


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    return _bounded(int(text), 1)


def natural_int(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    return _bounded(int(text), 0)


def natural_float(text: str) -> float:
    """An argparse type: a finite number of at least 0."""
    return _bounded(float(text), 0)


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    return _bounded(float(text), 0, excluded=True)


def server_url(text: str) -> str:
    """An argparse type: the address of a server, which must not have a key in it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("must be http://HOST:PORT or https://HOST")
    if parts.username is not None:
        raise argparse.ArgumentTypeError(RETIRED["--wb_key"])
    return text


def add_run_flags(
    parser: argparse.ArgumentParser,
    exp_name: str,
    resumable: bool = False,
    naming: str = "",
) -> None:
    """Flags of every script: data, name of the run, seed, timeout, W&B.

    Args:
        parser: gets the flags.
        exp_name: default name of the run folder.
        resumable: whether there is a ``--resume``.
        naming: help text on how the name is made if ``exp_name`` is empty.
    """
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--data_root", default="data", help="folder of the data sets")
    add(
        "--exp_name",
        default=exp_name,
        help=f"results go to checkpoints/<exp_name>/ (default: {exp_name or naming})",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true", help="delete the contents of the run folder"
    )
    if resumable:
        existing.add_argument(
            "--resume",
            action="store_true",
            help="continue from the run folder's checkpoint_last.pth; without one, "
            "start from the beginning",
        )
    add("--seed", type=natural_int, default=1, help="seed of all randomness")
    add(
        "--dist_timeout",
        type=positive_float,
        default=600.0,
        help="seconds to wait for an unresponsive rank before the run ends",
    )
    add("--debug", action="store_true", help="show the traceback of every error")
    add(
        "--wandb",
        choices=("offline", "online", "disabled"),
        default="offline",
        help="W&B: log to the run folder, to a server, or not at all",
    )
    add(
        "--wb_url",
        type=server_url,
        default="http://localhost:28282",
        help="W&B server of --wandb online",
    )


def add_model_flags(
    parser: argparse.ArgumentParser,
    models: tuple[str, ...],
    published: Mapping[str, int],
    weights: str = "",
    of_weights: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> argparse._ArgumentGroup:
    """Flags of every script that builds a point encoder; returns their group.

    Args:
        parser: gets the flags.
        models: names of the encoders, the default first.
        published: defaults of ``num_points`` and ``k``.
        weights: help of ``--model_path`` if the script requires it.
        of_weights: flags whose default is the weights' own value. They are None until
            :func:`utils.run.network.settle`; ``published`` applies without weights.
        aliases: other names of encoders, of earlier code.
    """
    group = parser.add_argument_group("model")

    def add(name: str, default: object = None, help: str = "", **options: Any) -> None:
        if name[2:] in of_weights:
            help += f" (default: the weights' own; without weights, {default})"
            default = None
        group.add_argument(name, default=default, help=help, **options)

    add(
        "--model",
        type=lambda name: (aliases or {}).get(name, name),
        choices=models,
        default=models[0],
        help="encoder",
    )
    add(
        "--model_path",
        default="",
        required=bool(weights),
        metavar="FILE",
        help=weights or "weights to start from (default: random initialisation)",
    )
    add(
        "--num_points",
        type=positive_int,
        default=published["num_points"],
        help="points per cloud; from data sets the first N stored",
    )
    add(
        "--k",
        type=positive_int,
        default=published["k"],
        help="neighbours per point in the kNN graph; ignored by pointnet",
    )
    add("--emb_dims", type=positive_int, default=1024, help="width of the embedding")
    add(
        "--edgeconv",
        choices=("auto", "fused", "plain"),
        default="auto",
        help="EdgeConv implementation: fused; plain, by definition (slower, equal up "
        "to rounding); auto: fused where supported",
    )
    return group


def add_training_flags(
    parser: argparse.ArgumentParser,
    batch_size: int,
    epochs: int,
    weight_decay: float,
    optimizer: str = "adam",
) -> argparse._ArgumentGroup:
    """Flags of every training script, with their defaults; returns their group."""
    group = parser.add_argument_group("training")
    add = group.add_argument
    add(
        "--batch_size",
        type=positive_int,
        default=batch_size,
        help="global batch in samples, whatever the number of processes",
    )
    add(
        "--test_batch_size",
        type=positive_int,
        default=32,
        help="global batch in samples for evaluation",
    )
    add("--epochs", type=positive_int, default=epochs, help="training epochs")
    add("--optimizer", choices=("adam", "sgd"), default=optimizer, help="optimiser")
    add(
        "--lr",
        type=positive_float,
        default=None,
        help="learning rate, not scaled with the batch (default: Adam 1e-3, SGD 0.1)",
    )
    add("--momentum", type=natural_float, default=0.9, help="SGD momentum")
    add("--weight_decay", type=natural_float, default=weight_decay, help="L2 penalty")
    add(
        "--precision",
        choices=("fp32", "fp64", "bf16", "fp16"),
        default="fp32",
        help="bf16 and fp16 use autocast; in fp32, convolutions on GPUs use TF32, the "
        "default of PyTorch",
    )
    add(
        "--num_workers",
        type=natural_int,
        default=loader_workers(),
        help="loader processes per rank (default: a rank's share of the CPU cores, at "
        "most 12)",
    )
    add(
        "--print_freq",
        type=positive_int,
        default=10,
        help="steps between lines of metrics.jsonl",
    )
    add(
        "--save_freq",
        type=positive_int,
        default=10,
        help="epochs between models/ckpt_epoch_N.pth files, and between images in W&B; "
        "the last epoch logs images too",
    )
    add(
        "--checkpoint_steps",
        type=natural_int,
        default=0,
        help="steps between checkpoints within an epoch, besides those at its end "
        "(default: 0, none)",
    )
    return group


def add_downstream_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Flags of the scripts that fine-tune; returns their group."""
    group = parser.add_argument_group("fine-tuning")
    add = group.add_argument
    add(
        "--from_scratch",
        action="store_true",
        help="start from random weights instead of --model_path",
    )
    add(
        "--dropout",
        type=natural_float,
        default=0.5,
        help="dropout probability in the head",
    )
    add(
        "--eval",
        action="store_true",
        help="only evaluate the weights of --model_path on the test split",
    )
    return group


def add_frozen_encoder_flags(
    parser: argparse.ArgumentParser,
    models: tuple[str, ...],
    published: Mapping[str, int],
    of_weights: Collection[str],
) -> None:
    """Flags of the scripts that evaluate a frozen encoder; arguments as in
    :func:`add_model_flags`."""
    group = add_model_flags(
        parser,
        models,
        published,
        weights=f"weights to evaluate, or '{UNTRAINED}' for an untrained encoder",
        of_weights=of_weights,
    )
    group.add_argument(
        "--test_batch_size",
        type=positive_int,
        default=32,
        help="clouds per step over all ranks, at least one each",
    )


def add_dataset_flags(
    group: argparse._ArgumentGroup,
    datasets: tuple[str, ...],
    variants: tuple[str, ...],
    several: bool = False,
) -> None:
    """``--dataset``, the first name being the default, and ScanObjectNN's variant.

    Args:
        group: gets the flags.
        datasets, variants: names to choose from.
        several: whether more than one data set may be named.
    """
    group.add_argument(
        "--dataset",
        choices=datasets,
        nargs="+" if several else None,
        default=[datasets[0]] if several else datasets[0],
        help=f"data set{', or several' if several else ''} (default: {datasets[0]})",
    )
    group.add_argument(
        "--variant", choices=variants, default=variants[0], help="ScanObjectNN variant"
    )


def add_corrupt_flag(group: argparse._ArgumentGroup, clouds: str) -> None:
    """``--corrupt``; ``clouds`` says which ones are corrupted."""
    group.add_argument(
        "--corrupt",
        type=int,
        choices=range(6),
        default=0,
        help=f"also classify corrupted copies of {clouds}: turned (rotation), "
        "one-sided (occlusion), noisy (Gaussian noise), sparser (subsampling); "
        "severity 1 to 5 (default: 0, none)",
    )


def check_fine_tuning(args: argparse.Namespace, resumed: bool) -> None:
    """Raise a ValueError for fine-tuning flags that contradict each other.

    A resumed run takes its weights from the checkpoint and needs neither --model_path
    nor --from_scratch.
    """
    if args.eval and (args.from_scratch or not args.model_path):
        raise ValueError("--eval evaluates the weights of --model_path FILE: give one")
    if args.eval and args.resume:
        raise ValueError("--eval has nothing to --resume")
    starts = bool(args.model_path) + args.from_scratch
    if not args.eval and starts != 1 and not (resumed and starts == 0):
        raise ValueError(
            "choose where to start: either --model_path FILE (pre-trained weights) or "
            "--from_scratch (random weights)"
        )
    if args.batch_size < 2 and not args.eval:
        raise ValueError(
            "--batch_size 1 leaves BatchNorm a single value: use 2 or more"
        )
    if args.dropout >= 1:
        raise ValueError(f"--dropout {args.dropout:g} must be below 1")
