"""Write synthetic shapes in the file formats of the four real data sets."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from datasets.files import SHAPENETPART as PARTS
from datasets.labelled import VARIANTS
from datasets.synthetic.render import render
from datasets.synthetic.scans import scan
from datasets.synthetic.shapes import (
    CATEGORIES,
    SYNSETS,
    Shape,
    make_shape,
    sample_surface,
)
from utils.parallel.seed import SHAPE, generator

POINTS = 2048
VIEWS = 24
IMAGE_SIZE = 137

SHAPENET = "ShapeNet"
RENDERING = "ShapeNetRendering"
MODELNET = "modelnet40_ply_hdf5_2048"
SCANS = "ScanObjectNN"

# Random stream of each split: no two splits share a shape.
SPLITS = {
    SHAPENET: ("all",),
    MODELNET: ("train", "test"),
    SCANS: ("train", "test"),
    PARTS: ("train", "val", "test"),
}
_KEYS = [(name, split) for name, splits in SPLITS.items() for split in splits]
STREAMS = {key: number for number, key in enumerate(_KEYS)}
PREVIEW_STREAM = len(STREAMS)


def make_row(job: tuple[str, str, int, int, int]) -> Any:
    """Make one shape for one data set; this is what a worker process runs.

    Args:
        job: data set, root folder, seed, random stream, index of the shape.

    Returns:
        For ShapeNet, whose files it writes, their (path, bytes, sha256); otherwise the
        category and the points with their labels.
    """
    name, root, seed, stream, index = job
    rng = generator(SHAPE, seed, stream, index)
    category = index % len(CATEGORIES)
    shape = make_shape(category, rng)
    if name == SHAPENET:
        return _write_model(Path(root), shape, index, rng)
    if name == SCANS:
        return category, scan(shape, POINTS, rng)
    points, face = sample_surface(shape.vertices, shape.faces, POINTS, rng)
    points = points - points.mean(axis=0)
    points /= np.sqrt((points**2).sum(axis=1)).max()
    return category, points.astype(np.float32), shape.face_part[face].astype(np.uint8)


def _write_model(
    root: Path, shape: Shape, index: int, rng: np.random.Generator
) -> list[tuple[str, int, str]]:
    """Write the PLY file and images of one model; (path, bytes, sha256) of each."""
    synset, model = SYNSETS[shape.category], f"synthetic_{index:06d}"
    points, _ = sample_surface(shape.vertices, shape.faces, POINTS, rng)
    # The second term gives every category both ASCII and binary files.
    ascii_file = (index + index // len(CATEGORIES)) % 2 == 0
    content = {f"{SHAPENET}/{synset}/{model}.ply": _ply(points, ascii_file)}
    mesh = shape.in_unit_sphere(), shape.faces, shape.face_colour
    first = rng.uniform(0, 15)
    for view in range(VIEWS):
        azimuth, elevation = first + 360 * view / VIEWS, rng.uniform(25, 30)
        image, stream = render(*mesh, azimuth, elevation, IMAGE_SIZE), io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", compress_level=3)
        path = f"{RENDERING}/{synset}/{model}/rendering/{view:02d}.png"
        content[path] = stream.getvalue()
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return [(path, len(data), _digest(data)) for path, data in content.items()]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _ply(points: np.ndarray, text: bool) -> bytes:
    # Written by hand, since plyfile needs 56 ms for the text form.
    kind = "ascii" if text else "binary_little_endian"
    header = f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    points = points.astype("<f4")
    if not text:
        return header.encode() + points.tobytes()
    rows = (f"{x:.8g} {y:.8g} {z:.8g}\n" for x, y, z in points.tolist())
    return (header + "".join(rows)).encode()


def tree_entries(models: Iterable[list[tuple[str, int, str]]]) -> dict[str, list]:
    """Manifest entries of the ShapeNet folders.

    The digest of a folder is that of its sorted lines ``path sha256``.
    """
    entries = sorted(entry for model in models for entry in model)
    files = {}
    for folder in (SHAPENET, RENDERING):
        own = [entry for entry in entries if entry[0].startswith(folder + "/")]
        lines = "".join(f"{path} {digest}\n" for path, _, digest in own)
        total = sum(size for _, size, _ in own)
        entry = {"path": folder, "count": len(own), "bytes": total}
        files[folder] = [entry | {"sha256": _digest(lines.encode())}]
    return files


def file_entry(root: Path, path: Path) -> dict[str, str | int]:
    """Manifest entry of one file."""
    name, data = path.relative_to(root).as_posix(), path.read_bytes()
    return {"path": name, "bytes": len(data), "sha256": _digest(data)}


def write_split(root: Path, name: str, split: str, rows: list) -> None:
    """Write the files of one split of ModelNet40, ScanObjectNN or ShapeNetPart."""
    folder = root / name
    labels = np.array([row[0] for row in rows])
    if name == SCANS:
        stem = {"train": "training", "test": "test"}[split]
        for variant, (sub, end) in VARIANTS.items():
            data, mask = zip(*(row[1][variant] for row in rows), strict=True)
            arrays = {"data": np.stack(data), "mask": np.stack(mask)}
            arrays["label"] = labels.astype(np.int32)
            path = folder / "h5_files" / sub / f"{stem}_objectdataset{end}.h5"
            _write_h5(path, arrays)
            _write_names(path.parent)  # not the published classes
        return
    arrays = {"data": np.stack([row[1] for row in rows])}
    arrays["label"] = labels[:, None].astype(np.uint8)
    if name == PARTS:
        arrays["pid"] = np.stack([row[2] for row in rows])
    # Two training files, so that readers have to join several.
    files = np.array_split(np.arange(len(rows)), 2 if split == "train" else 1)
    paths = [folder / f"ply_data_{split}{k}.h5" for k in range(len(files))]
    for path, index in zip(paths, files, strict=True):
        _write_h5(path, {key: array[index] for key, array in arrays.items()})
    if name == MODELNET:
        # The official lists give paths relative to the parent of the data root.
        listed = "".join(f"data/{MODELNET}/{path.name}\n" for path in paths)
        (folder / f"{split}_files.txt").write_text(listed)
        _write_names(folder)


def _write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            # Time stamps would make files with the same content differ.
            file.create_dataset(name, data=array, track_times=False)


def _write_names(folder: Path) -> None:
    (folder / "shape_names.txt").write_text("".join(f"{c}\n" for c in CATEGORIES))
