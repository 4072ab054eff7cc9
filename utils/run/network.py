"""Which network a weight file is of: from its entries, ``network.json`` and flags.

A weight file is a flat state dict, as the paper's code reads it. Its entries show the
network and its width. The rest, which changes features without an error, is in
``network.json`` beside it: neighbours, points and class names.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.errors import UsageError
from utils.parallel import distributed
from utils.run.checkpoint import CheckpointError, read_weights
from utils.run.cli import UNTRAINED
from utils.run.run_folder import replace_file, run_folder

FILE = "network.json"
FLAGS = ("model", "emb_dims", "k", "num_points")
KNOWN = {  # by an entry of their last layer, (E, input channels, 1)
    "dgcnn": ("conv5.0.weight", 512),
    "dgcnn_seg": ("conv6.0.weight", 192),
    "pointnet": ("conv5.0.weight", 128),
}
# How the published networks were trained, by their heads.
TRAINED = {
    "projection": {"k": 15, "num_points": 2048},
    "classifier": {"k": 20, "num_points": 1024},
    "linear": {"k": 20, "num_points": 1024},
    "parts": {"k": 40, "num_points": 2048},
}
# How the features of the published pre-training were evaluated.
EVALUATED = {"k": 15, "num_points": 1024}
Layers = list[tuple[str, Mapping[str, Any]]]  # values, and where they are from


@dataclass(frozen=True)
class Network:
    """What a program must know of a weight file to use it."""

    model: str  # dgcnn, dgcnn_seg or pointnet
    emb_dims: int  # width of the embedding
    k: int  # neighbours in the kNN graph; 1 for PointNet, which has none
    num_points: int  # per cloud
    head: str  # projection (pre-training), classifier, linear (a probe) or parts
    outputs: int | None  # of the head: classes or parts; None for a projection
    class_names: tuple[str, ...] | None  # of the outputs; of parts, the categories
    origin: str  # one line for the log, which value is from where


def read_network(
    path: str | Path,
    published: Mapping[str, int] = EVALUATED,
    *,
    model: str | None = None,
    emb_dims: int | None = None,
    k: int | None = None,
    num_points: int | None = None,
) -> Network:
    """The network of a weight file.

    ``model`` and ``emb_dims`` are those of the entries, ``k`` and ``num_points`` those
    of ``network.json``, or without one as published. The published protocols
    evaluate and fine-tune with other values than they pre-train with: a network
    pre-trained as published is used with the ``k`` and ``num_points`` of ``published``,
    any other with its own. Keyword arguments are the user's, and take precedence.

    Raises:
        CheckpointError: if the file cannot be read or is of an unknown network, or if
            ``model``, ``emb_dims`` or ``network.json`` are of another one.
    """
    overrides = {"model": model, "emb_dims": emb_dims, "k": k, "num_points": num_points}
    detected, evidence = _from_entries(read_weights(path))
    recorded = _read_json(Path(path).with_name(FILE))
    called = recorded["model"] if recorded else model
    if called and called not in KNOWN:
        detected = {}  # the user's own network, though its layers have these names
    for name, value in detected.items():
        if recorded and recorded[name] != value:
            raise CheckpointError(
                f"{path}: {FILE} beside it is of another network ({name} "
                f"{recorded[name]}, not {value}): move one of them to another folder"
            )
        if overrides.get(name) not in (None, value):
            raise CheckpointError(
                f"{path}: {evidence}, so its --{name} is {value}, not "
                f"{overrides[name]}: pass another file, or --{name} {value}"
            )
    if not detected and (not called or (recorded and called in KNOWN)):
        raise CheckpointError(
            f"{path}: not the weights of {', '.join(KNOWN)}; those of another network "
            "need --model"
        )
    head = (detected or recorded or {"head": "projection"})["head"]
    usual = TRAINED[head]
    layers: Layers = [
        ("published", {"head": head, "emb_dims": 1024, **usual}),
        (FILE, recorded),
        ("the file's entries", detected),
    ]
    for name in usual if head == "projection" else ():
        if recorded.get(name, usual[name]) == usual[name] != published[name]:
            text = f"published, after pre-training with {usual[name]}"
            layers.append((text, {name: published[name]}))
    return _network(layers, overrides)


def settle(
    args: argparse.Namespace, published: Mapping[str, int], resumed: bool = False
) -> Network:
    """Fill in the flags ``--model``, ``--emb_dims``, ``--k`` and ``--num_points``.

    Those that are None become those of ``--model_path``, of the run that is resumed, or
    as published, see :func:`read_network`.

    Raises:
        CheckpointError: see :func:`read_network`.
        ValueError: for more neighbours than points.
    """
    overrides = {name: getattr(args, name) for name in FLAGS}
    if resumed or args.model_path in ("", UNTRAINED):
        start = {"head": "projection", "model": args.model or "dgcnn", "emb_dims": 1024}
        layers: Layers = [("published", {**start, **published})]
        if resumed:
            path = run_folder(args.exp_name) / "models" / FILE
            layers.append((FILE, _read_json(path)))
        network = _network(layers, overrides)
    else:
        network = read_network(args.model_path, published, **overrides)
    for name in FLAGS:
        setattr(args, name, getattr(network, name))
    if args.k > args.num_points:
        raise ValueError(f"--k {args.k} is more than --num_points {args.num_points}")
    return network


def write_network(
    folder: str | Path,
    args: argparse.Namespace,
    head: str,
    outputs: int | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Rank 0 writes ``network.json`` into the folder of the weights.

    Args:
        folder: ``checkpoints/<exp_name>/models``.
        args: of the script, with the flags :data:`FLAGS`.
        head, outputs, class_names: see :class:`Network`.

    Raises:
        UsageError: if it cannot be written.
    """
    if distributed.rank() == 0:
        values = {name: getattr(args, name) for name in FLAGS}
        values |= {"head": head, "outputs": outputs, "class_names": class_names}
        text = json.dumps(values, indent=2) + "\n"
        replace_file(Path(folder, FILE), text.encode())


def _from_entries(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], str]:
    """Model, width and head by names and shapes, and the entry that shows the width;
    nothing if they are of an unknown network."""
    detected: dict[str, Any] = {}
    for model, (last, channels) in KNOWN.items():
        if last in state and state[last].shape[1:] == (channels, 1):
            detected = {"model": model, "emb_dims": len(state[last])}
            evidence = f"{last} has shape {tuple(state[last].shape)}"
    if not detected:
        return {}, ""
    detected |= {"head": "projection", "outputs": None}
    heads = {"linear3": "classifier", "linear": "linear", "conv11": "parts"}
    for name, head in heads.items():
        if f"{name}.weight" in state:
            detected |= {"head": head, "outputs": len(state[f"{name}.weight"])}
    return detected, evidence


def _read_json(path: Path) -> dict[str, Any]:
    """The values of a ``network.json``; none without one."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        numbers = [values[name] for name in ("emb_dims", "k", "num_points")]
        good = all(type(n) is int and n > 0 for n in numbers)
        good &= isinstance(values["model"], str) and values["head"] in TRAINED
        names, outputs = values["class_names"], values["outputs"]
        good &= names is None or all(isinstance(name, str) for name in names)
        if values["head"] in ("classifier", "linear"):
            good &= names is None or len(names) == outputs
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if good:
        return values
    raise UsageError(
        f"{path}: damaged, or not written by this program. Delete it; then give "
        "--k and --num_points where they are not as published"
    )


def _network(layers: Layers, overrides: Mapping[str, Any]) -> Network:
    """The values of all layers, where later ones win, overridden by ``overrides``; and
    the line that says where each value is from."""
    used: dict[str, Any] = {}
    source: dict[str, str] = {}
    for text, layer in layers:
        used |= layer
        source |= dict.fromkeys(layer, text)
    if used.get("model") == "pointnet":
        used["k"], source["k"] = 1, "pointnet has no graph"
        overrides = {**overrides, "k": None}
    for name, value in overrides.items():
        if value is not None and value != used.get(name):
            source[name] = f"set by this command (instead of {used.get(name)})"
            used[name] = value
    origin = "; ".join(
        " ".join(f"--{name} {used[name]}" for name in FLAGS if source[name] == text)
        + f": {text}"
        for text in dict.fromkeys(source[name] for name in FLAGS)
    )
    names = used.get("class_names")
    return Network(
        **{name: used[name] for name in (*FLAGS, "head")},
        outputs=used.get("outputs"),
        class_names=None if names is None else tuple(names),
        origin=origin,
    )
