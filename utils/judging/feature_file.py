"""Features of the user's own clouds in an NPZ file, with their weights and settings."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import UsageError
from utils.run.run_folder import replace_file

SETTINGS = ("num_points", "sampling", "as_is", "up")  # which features should agree in


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
