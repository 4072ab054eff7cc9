"""The data sets; :func:`labelled_clouds` opens one by its name on command lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names for command lines come without loading PyTorch
    from datasets.modelnet import LabelledClouds

CLASSIFICATION = ("modelnet40", "scanobjectnn")
SCANOBJECTNN_VARIANTS = ("obj_bg", "obj_only", "pb_t50_rs")


def labelled_clouds(
    name: str,
    data_root: str | os.PathLike,
    split: str,
    num_points: int | None = None,
    shard: tuple[int, int] = (0, 1),
    variant: str = "obj_bg",
) -> LabelledClouds:
    """A classification data set, or one rank's share of it.

    Args:
        name: ``modelnet40`` or ``scanobjectnn``.
        data_root: the folder of the data sets.
        split: ``train`` or ``test``.
        num_points: the first so many points of every cloud; None for all.
        shard: (rank, world size): read only this rank's contiguous share.
        variant: of ScanObjectNN; ModelNet40 has none.

    Raises:
        ValueError: for another name.
        DataError: if something is missing or damaged.
    """
    from datasets.modelnet import ModelNet40
    from datasets.scanobjectnn import ScanObjectNN

    if name == "modelnet40":
        return ModelNet40(data_root, split, num_points, shard)
    if name == "scanobjectnn":
        return ScanObjectNN(data_root, split, variant, num_points, shard)
    raise ValueError(f"--dataset {name!r} is not one of {', '.join(CLASSIFICATION)}")
