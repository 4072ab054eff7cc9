"""The data sets: what training and evaluation read, and what makes or checks it.

In reading order:

    shapenet_render.py   pre-training: two augmented views of a cloud, and an image
    transforms.py        the augmentations of clouds and images
    labelled.py          ModelNet40 and ScanObjectNN
    corruptions.py       rotated, occluded, noisy and sparser copies of test clouds
    shapenet_part.py     ShapeNetPart
    sampler.py           global batches that do not depend on the number of processes
    packed.py            ShapeNetRender in a few files; as a command, writes them
    shapenet_files.py    ShapeNetRender as it is unpacked, one file a cloud and image
    files.py hdf5.py     strict readers of single files, and their errors
    own_files.py         the user's own clouds and meshes, in any common format
    download.py verify.py from_meshes.py    commands; their code is in prepare/
    prepare/             download, verify, pack, make from meshes
    synthetic/           procedural data sets, to try everything without a download

Readers import only ``errors`` and ``parallel`` of `utils`, and nothing here imports
`models`. This file holds what command lines and metrics need without loading PyTorch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names for command lines come without loading PyTorch
    from datasets.labelled import LabelledClouds

CLASSIFICATION = ("modelnet40", "scanobjectnn")
SCANOBJECTNN_VARIANTS = ("obj_bg", "obj_only", "pb_t50_rs")
SAMPLINGS = ("farthest", "random", "first")  # of own files
CATEGORIES = (  # of ShapeNetPart
    *("airplane", "bag", "cap", "car", "chair", "earphone", "guitar", "knife", "lamp"),
    *("laptop", "motorbike", "mug", "pistol", "rocket", "skateboard", "table"),
)
# Parts of ShapeNetPart's 16 categories, in their order.
PARTS_PER_CATEGORY = (4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)


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
        num_points: take the first `num_points` of each cloud; None for all.
        shard: (rank, world size): read only this rank's contiguous share.
        variant: of ScanObjectNN; ModelNet40 has none.

    Raises:
        ValueError: for another name.
        DataError: if something is missing or damaged.
    """
    from datasets.labelled import ModelNet40, ScanObjectNN

    if name == "modelnet40":
        return ModelNet40(data_root, split, num_points, shard)
    if name == "scanobjectnn":
        return ScanObjectNN(data_root, split, variant, num_points, shard)
    names = ", ".join(CLASSIFICATION)
    raise ValueError(f"data set {name!r} is not one of {names} (--dataset)")
