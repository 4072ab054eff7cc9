"""Small data sets in the published layout, of random numbers: a ``--data_root``.

They do not change with the synthetic shapes, so that numbers computed from them can be
kept: see test_reference.py.
"""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement

from datasets import PARTS_PER_CATEGORY


def write_small_data(root: Path, shapes: int = 16, points: int = 80) -> Path:
    """ShapeNetRender, ModelNet40, ShapeNetPart; ``shapes`` samples to train on each."""
    rng = np.random.default_rng(0)

    def clouds(kinds: np.ndarray) -> np.ndarray:
        stretch = np.random.default_rng(1).uniform(0.1, 1, (16, 3))
        noise = rng.random((len(kinds), points, 3)) - 0.5
        return (noise * stretch[kinds][:, None]).astype("f4")

    for number, cloud in enumerate(clouds(np.arange(shapes) % 16)):
        name = f"0{number % 2}/shape{number:02}"
        ply = root / "ShapeNet" / f"{name}.ply"
        ply.parent.mkdir(parents=True, exist_ok=True)
        rows = np.rec.fromarrays(cloud.T, names="x,y,z")
        PlyData([PlyElement.describe(rows, "vertex")]).write(ply)
        views = root / "ShapeNetRendering" / name / "rendering"
        views.mkdir(parents=True)
        for view in range(2):
            pixels = rng.integers(0, 256, (24, 24, 4), np.uint8)
            Image.fromarray(pixels).save(views / f"{view:02}.png")
    modelnet = root / "modelnet40_ply_hdf5_2048"
    modelnet.mkdir()
    (modelnet / "shape_names.txt").write_text("rod\nplate\nball\n")
    partseg = root / "shapenet_part_seg_hdf5_data"
    partseg.mkdir()
    for split, count in (("train", shapes), ("test", shapes // 2)):
        labels = np.arange(count) % 3
        with h5py.File(modelnet / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = clouds(labels), labels[:, None].astype("u1")
    for split, count in (("train", shapes - 4), ("val", 4), ("test", shapes // 2)):
        labels = np.arange(count) % 16
        first = np.cumsum((0, *PARTS_PER_CATEGORY))[labels][:, None]
        parts = first + rng.integers(0, 2, (count, points))
        with h5py.File(partseg / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = clouds(labels), labels[:, None].astype("u1")
            file["pid"] = parts.astype("u1")
    return root
