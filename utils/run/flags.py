"""The flags that scripts share, in argument groups, and the types of their values.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

import argparse
from collections.abc import Collection, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from utils.parallel.machine import loader_workers
from utils.run.cli import RETIRED, UNTRAINED

Number = TypeVar("Number", int, float)
# Flags of a network whose default may be the weights' own value.
OF_WEIGHTS = ("model", "emb_dims", "k", "num_points")


def _bounded(value: Number, least: int, excluded: bool = False) -> Number:
    if not least <= value < float("inf") or (excluded and value == least):
        bound = "above" if excluded else "at least"
        raise argparse.ArgumentTypeError(f"must be {bound} {least}, got {value}")
    return value


# Types for argparse.
def positive_int(text: str) -> int:
    return _bounded(int(text), 1)


def natural_int(text: str) -> int:
    return _bounded(int(text), 0)


def natural_float(text: str) -> float:
    return _bounded(float(text), 0)


def positive_float(text: str) -> float:
    return _bounded(float(text), 0, excluded=True)


def server_url(text: str) -> str:
    """The address of a server, which must not have a key in it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError("must be http://HOST:PORT or https://HOST")
    if parts.username is not None:
        raise argparse.ArgumentTypeError(RETIRED["--wb_key"])
    return text


def add_run_flags(
    parser: argparse.ArgumentParser, exp_name: str, resumable: bool = False
) -> None:
    """Flags of every script: data, name of the run, seed, timeout, W&B.

    ``exp_name`` is the run folder's default name; with a ``<`` in it, the rule by which
    the script makes one, for the help.
    """
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--data_root", default="data", help="folder of the data sets")
    text = f"results go to checkpoints/<exp_name>/ (default: {exp_name})"
    add("--exp_name", default="" if "<" in exp_name else exp_name, help=text)
    existing = group.add_mutually_exclusive_group()
    text = "delete the contents of the run folder"
    existing.add_argument("--overwrite", action="store_true", help=text)
    if resumable:
        text = "continue from checkpoint_last.pth if there is one, start otherwise"
        existing.add_argument("--resume", action="store_true", help=text)
    add("--seed", type=natural_int, default=1, help="seed of all randomness")
    text = "seconds to wait for an unresponsive rank before the run ends"
    add("--dist_timeout", type=positive_float, default=600.0, help=text)
    add("--debug", action="store_true", help="show the traceback of every error")
    modes = ("offline", "online", "disabled")
    text = "W&B: log to the run folder, to a server, or not at all"
    add("--wandb", choices=modes, default=modes[0], help=text)
    url, text = "http://localhost:28282", "W&B server of --wandb online"
    add("--wb_url", type=server_url, default=url, help=text)


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
        models: names of the encoders, the default first.
        published: defaults of ``num_points`` and ``k``.
        weights: help of ``--model_path`` if the script requires it.
        of_weights: flags whose default is the weights' own value. They are None until
            :func:`utils.run.network.settle`; ``published`` applies without weights.
        aliases: other names of encoders, of earlier code.
    """
    group = parser.add_argument_group("model")

    def add(name: str, default: object, help: str, **options: Any) -> None:
        if name[2:] in of_weights:
            help += f" (default: the weights' own; without weights, {default})"
            default = None
        group.add_argument(name, default=default, help=help, **options)

    def name_of(text: str) -> str:
        return (aliases or {}).get(text, text)

    add("--model", models[0], "encoder", type=name_of, choices=models)
    text = weights or "weights to start from (default: random initialisation)"
    add("--model_path", "", text, required=bool(weights), metavar="FILE")
    texts = {
        "num_points": "points per cloud; from data sets the first N stored",
        "k": "neighbours per point in the kNN graph; ignored by pointnet",
    }
    for name, text in texts.items():
        add(f"--{name}", published[name], text, type=positive_int)
    add("--emb_dims", 1024, "width of the embedding", type=positive_int)
    add(
        "--edgeconv",
        "auto",
        "EdgeConv implementation: fused; plain, by definition (slower, equal up "
        "to rounding); auto: fused where supported",
        choices=("auto", "fused", "plain"),
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
    text = "global batch in samples, whatever the number of processes"
    add("--batch_size", type=positive_int, default=batch_size, help=text)
    text = "global batch in samples for evaluation"
    add("--test_batch_size", type=positive_int, default=32, help=text)
    add("--epochs", type=positive_int, default=epochs, help="training epochs")
    add("--optimizer", choices=("adam", "sgd"), default=optimizer, help="optimiser")
    text = "learning rate, not scaled with the batch (default: Adam 1e-3, SGD 0.1)"
    add("--lr", type=positive_float, help=text)
    add("--momentum", type=natural_float, default=0.9, help="SGD momentum")
    add("--weight_decay", type=natural_float, default=weight_decay, help="L2 penalty")
    text = "bf16, fp16: autocast; fp32: convolutions on GPUs in TF32, PyTorch's default"
    choices = ("fp32", "fp64", "bf16", "fp16")
    add("--precision", choices=choices, default=choices[0], help=text)
    text = "loader processes per rank (default: its share of the CPU cores, at most 12)"
    add("--num_workers", type=natural_int, default=loader_workers(), help=text)
    text = "steps between lines of metrics.jsonl"
    add("--print_freq", type=positive_int, default=10, help=text)
    add(
        "--save_freq",
        type=positive_int,
        default=10,
        help="epochs between models/ckpt_epoch_N.pth files, and between images in W&B; "
        "the last epoch logs images too",
    )
    text = "steps between checkpoints besides that at an epoch's end (default: 0, none)"
    add("--checkpoint_steps", type=natural_int, default=0, help=text)
    return group


def add_downstream_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Flags of the scripts that fine-tune; returns their group."""
    group = parser.add_argument_group("fine-tuning")
    add = group.add_argument
    text = "start from random weights instead of --model_path"
    add("--from_scratch", action="store_true", help=text)
    text = "dropout probability in the head"
    add("--dropout", type=natural_float, default=0.5, help=text)
    text = "only evaluate the weights of --model_path on the test split"
    add("--eval", action="store_true", help=text)
    return group


def add_frozen_encoder_flags(
    parser: argparse.ArgumentParser,
    models: tuple[str, ...],
    published: Mapping[str, int],
    of_weights: Collection[str] = OF_WEIGHTS,
) -> None:
    """:func:`add_model_flags` of the scripts that evaluate a frozen encoder."""
    text = f"weights to evaluate, or '{UNTRAINED}' for an untrained encoder"
    group = add_model_flags(parser, models, published, text, of_weights)
    text = "clouds per step over all ranks, at least one each"
    group.add_argument("--test_batch_size", type=positive_int, default=32, help=text)


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
    first = datasets[0]
    group.add_argument(
        "--dataset",
        choices=datasets,
        nargs="+" if several else None,
        default=[first] if several else first,
        help=f"data set{', or several' * several} (default: {first})",
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
    """Raise a ValueError for fine-tuning flags that contradict each other."""
    if args.eval and (args.from_scratch or not args.model_path):
        raise ValueError("--eval evaluates the weights of --model_path FILE: give one")
    if args.eval and args.resume:
        raise ValueError("--eval has nothing to --resume")
    starts = bool(args.model_path) + args.from_scratch
    # A resumed run takes its weights from the checkpoint and needs neither.
    if not args.eval and starts != 1 and not (resumed and starts == 0):
        raise ValueError(
            "choose where to start: either --model_path FILE (pre-trained weights) or "
            "--from_scratch (random weights)"
        )
    if args.batch_size < 2 and not args.eval:
        problem = "--batch_size 1 leaves BatchNorm a single value"
        raise ValueError(f"{problem}: use 2 or more")
    if args.dropout >= 1:
        raise ValueError(f"--dropout {args.dropout:g} must be below 1")
