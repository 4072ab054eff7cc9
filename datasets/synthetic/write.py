"""Write synthetic shapes in the file formats of the four real data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from datasets.files import MODELNET40, RENDERINGS, SCANOBJECTNN, SHAPENET, SHAPENETPART
from datasets.labelled import VARIANTS
from datasets.shapenet_part import CATEGORIES
from datasets.synthetic.render import render
from datasets.synthetic.scans import scan
from datasets.synthetic.shapes import SYNSETS, Shape, make_shape, sample_surface
from datasets.transforms import center_and_scale
from utils.parallel.seed import SHAPE, generator

POINTS = 2048
VIEWS = 24
IMAGE_SIZE = 137


def make_row(name: str, root: Path, seed: int, stream: int, index: int) -> Any:
    """Make one shape for one data set; this is what a worker process runs.

    Args:
        name: of the data set.
        root: folder of all data sets.
        seed, stream, index: of the shape, which is a function of them.

    Returns:
        The category, and of ScanObjectNN the result of :func:`scan`, of the others the
        points (2048,3) f4 and the part of each (2048,) u1. Of ShapeNet, whose files it
        writes, None.
    """
    rng = generator(SHAPE, seed, stream, index)
    category = index % len(CATEGORIES)
    shape = make_shape(category, rng)
    if name == SHAPENET:
        _write_model(root, shape, index, rng)
        return None
    if name == SCANOBJECTNN:
        return category, scan(shape, POINTS, rng)
    points, face = sample_surface(shape.vertices, shape.faces, POINTS, rng)
    return category, center_and_scale(points), shape.face_part[face].astype(np.uint8)


def _write_model(
    root: Path, shape: Shape, index: int, rng: np.random.Generator
) -> None:
    """Write the PLY file and the images of one model."""
    synset, model = SYNSETS[shape.category], f"synthetic_{index:06d}"
    points, _ = sample_surface(shape.vertices, shape.faces, POINTS, rng)
    # The second term gives every category both ASCII and binary files.
    text = (index + index // len(CATEGORIES)) % 2 == 0
    _write_ply(root / SHAPENET / synset / f"{model}.ply", points, text)
    images = root / RENDERINGS / synset / model / "rendering"
    images.mkdir(parents=True)
    mesh = shape.in_unit_sphere(), shape.faces, shape.face_colour
    first = rng.uniform(0, 15)
    for view in range(VIEWS):
        azimuth, elevation = first + 360 * view / VIEWS, rng.uniform(25, 30)
        image = Image.fromarray(render(*mesh, azimuth, elevation, IMAGE_SIZE))
        image.save(images / f"{view:02d}.png", compress_level=3)


def _write_ply(path: Path, points: np.ndarray, text: bool) -> None:
    # Written by hand, since plyfile needs 56 ms for the text form.
    kind = "ascii" if text else "binary_little_endian"
    header = f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    points = points.astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header.encode())
        if text:
            np.savetxt(file, points, "%.8g")
        else:
            file.write(points.tobytes())


def write_split(root: Path, name: str, split: str, rows: list) -> None:
    """Write the HDF5 files of one split from the results of :func:`make_row`."""
    if name == SHAPENET:
        return  # make_row has written its files
    folder = root / name
    labels = np.array([row[0] for row in rows])
    if name == SCANOBJECTNN:
        stem = {"train": "training", "test": "test"}[split]
        for variant, (sub, end) in VARIANTS.items():
            data, mask = zip(*(row[1][variant] for row in rows), strict=True)
            arrays = {"data": np.stack(data), "mask": np.stack(mask)}
            arrays["label"] = labels.astype(np.int32)
            path = folder / "h5_files" / sub / f"{stem}_objectdataset{end}.h5"
            _write_h5(path, arrays)
            _write_names(path.parent)
        return
    arrays = {"data": np.stack([row[1] for row in rows])}
    arrays["label"] = labels[:, None].astype(np.uint8)
    if name == SHAPENETPART:
        arrays["pid"] = np.stack([row[2] for row in rows])
    # Two training files, so that readers have to join several.
    files = np.array_split(np.arange(len(rows)), 2 if split == "train" else 1)
    paths = [folder / f"ply_data_{split}{k}.h5" for k in range(len(files))]
    for path, index in zip(paths, files, strict=True):
        _write_h5(path, {key: array[index] for key, array in arrays.items()})
    if name == MODELNET40:
        # The official lists give paths relative to the parent of the data root.
        listed = "".join(f"data/{MODELNET40}/{path.name}\n" for path in paths)
        (folder / f"{split}_files.txt").write_text(listed)
        _write_names(folder)


def _write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            # Time stamps would make files with the same content differ.
            file.create_dataset(name, data=array, track_times=False)


def _write_names(folder: Path) -> None:
    """The names of the classes, which are not the published ones."""
    (folder / "shape_names.txt").write_text("".join(f"{c}\n" for c in CATEGORIES))
