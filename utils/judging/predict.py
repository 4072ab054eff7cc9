"""Use a network on any clouds: features, neighbours, classes, parts.

What predict.py and the notebook call, and predict.py's file of features. Clouds are
(M, N, 3) arrays, as the attribute ``points`` of `datasets.own_files.Cloud` stacked. The
network's mode is restored; the size of a batch does not change the result.
"""

import argparse
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import PARTS_PER_CATEGORY
from utils.errors import UsageError
from utils.judging.features import in_batches
from utils.judging.knn import nearest as nearest  # one of the functions of this file
from utils.run.run_folder import replace_file

SETTINGS = ("num_points", "sampling", "as_is", "up")  # which features should agree in


def features(
    encoder: nn.Module, clouds: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """Features (M, F) float32, the input of an SVM or a search.

    ``encoder.features`` maps points (B, 3, N) to (B, F); that of a classifier and of a
    part segmentation network does, too.
    """
    network: Any = encoder
    return _joined(encoder, network.features, clouds, batch_size)


def classify(
    network: nn.Module, clouds: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """Probabilities (M, classes) float32; the network gives logits (B, classes)."""
    return _joined(network, lambda x: network(x).softmax(1), clouds, batch_size)


def segment(
    network: nn.Module, clouds: np.ndarray, category: int, batch_size: int = 32
) -> np.ndarray:
    """The part of every point, (M, N) int64, numbered 0 to 49 over all categories.

    Args:
        network: gives logits (B, 50, N) for points (B, 3, N) and categories (B, 16).
        category: of all the clouds, 0 to 15. As in the evaluation, a point may be given
            a part of another category.
    """

    def parts(points: Tensor) -> Tensor:
        numbers = torch.full((len(points),), category, device=points.device)
        one_hot = F.one_hot(numbers, len(PARTS_PER_CATEGORY))
        return network(points, one_hot).argmax(dim=1)

    return _joined(network, parts, clouds, batch_size)


def spread(values: np.ndarray, sampled: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The value (P,) of each point, taken from the nearest sampled point.

    Args:
        values: (N,), such as parts.
        sampled, points: (N, 3) and (P, 3), in the same coordinates.
    """
    from sklearn.neighbors import KDTree  # slow to import

    return values[KDTree(sampled).query(points, return_distance=False)[:, 0]]


def _joined(
    network: nn.Module,
    call: Callable[[Tensor], Tensor],
    clouds: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    batches = (slice(i, i + batch_size) for i in range(0, len(clouds), batch_size))
    result = torch.cat(in_batches(network, call, clouds, batches))
    return (result.float() if result.is_floating_point() else result).numpy()


def write_features(
    names: Sequence[str], features: np.ndarray, args: argparse.Namespace
) -> None:
    """Write the file ``--out`` of predict.py."""
    content = io.BytesIO()
    np.savez(
        content,
        names=np.array(names),
        features=features,
        folder=os.getcwd(),  # of the names
        weights=_digest(args.model_path),
        k=args.k,
        **{name: getattr(args, name) for name in SETTINGS},
    )
    replace_file(args.out, content.getbuffer())


def read_features(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The file ``--among`` of predict.py.

    Raises:
        UsageError: if it is not one of ``features``, or is of another network.
    """
    hint = f"`python predict.py features ... --model_path {args.model_path}` makes one"
    try:
        with np.load(args.among, allow_pickle=False) as file:
            entries = ("names", "features", "folder", "weights", "k", *SETTINGS)
            stored = {name: file[name] for name in entries}
    except Exception as error:  # damaged files make NumPy raise anything
        reason = str(error).split("\n")[0]
        if "pickle" in reason:
            reason = "not an NPZ file"  # NumPy advises to load it all the same
        raise UsageError(
            f"{args.among}: not written by predict.py features ({reason}); {hint}"
        ) from error
    if stored["weights"] != _digest(args.model_path):
        raise UsageError(f"{args.among} has features of other weights; {hint}")
    if stored["k"] != args.k:
        raise UsageError(f"{args.among} has features of --k {stored['k']}: give that")
    for name in SETTINGS:
        if stored[name] != getattr(args, name):
            print(
                f"note: {args.among} was made with --{name} {stored[name]}, this "
                f"search has {getattr(args, name)}"
            )
    return stored


def _digest(path: str) -> str:
    """SHA-256 of a weight file: features of other weights cannot be compared."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
