"""How each synthetic shape becomes a row or a file of the real data sets' formats."""

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
PICTURE_SIZE = 137

SHAPENET = "ShapeNet"
RENDERING = "ShapeNetRendering"
MODELNET = "modelnet40_ply_hdf5_2048"
SCANS = "ScanObjectNN"

# The generator stream of each split: no shape of one turns up in another.
STREAMS = {
    (SHAPENET, "all"): 0,
    (MODELNET, "train"): 1,
    (MODELNET, "test"): 2,
    (SCANS, "train"): 3,
    (SCANS, "test"): 4,
    (PARTS, "train"): 5,
    (PARTS, "val"): 6,
    (PARTS, "test"): 7,
}
PREVIEW_STREAM = 8


def make_row(job: tuple[str, str, int, int, int]) -> Any:
    """Make one shape for one data set: the whole of a worker's task.

    Args:
        job: data set, root folder, seed, generator stream, number of the shape.

    Returns:
        For ShapeNet, whose files it writes, their (path, bytes, sha256); otherwise the
        category and the points with what belongs to them.
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
    """The PLY and the pictures of one model; (path, bytes, sha256) of each."""
    synset, model = SYNSETS[shape.category], f"synthetic_{index:06d}"
    points, _ = sample_surface(shape.vertices, shape.faces, POINTS, rng)
    # The second term lets every category have files of both kinds.
    ascii_file = (index + index // len(CATEGORIES)) % 2 == 0
    content = {f"{SHAPENET}/{synset}/{model}.ply": _ply(points, ascii_file)}
    vertices = shape.in_unit_sphere()
    first = rng.uniform(0, 15)
    for view in range(VIEWS):
        azimuth, elevation = first + 360 * view / VIEWS, rng.uniform(25, 30)
        picture = render(
            vertices, shape.faces, shape.face_colour, azimuth, elevation, PICTURE_SIZE
        )
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG", compress_level=3)
        path = f"{RENDERING}/{synset}/{model}/rendering/{view:02d}.png"
        content[path] = stream.getvalue()
    entries = []
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        entries.append((path, len(data), hashlib.sha256(data).hexdigest()))
    return entries


def _ply(points: np.ndarray, ascii_file: bool) -> bytes:
    kind = "ascii" if ascii_file else "binary_little_endian"
    header = (
        f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
    ).encode()
    if ascii_file:
        rows = points.astype(np.float32).tolist()
        lines = [f"{x:.8g} {y:.8g} {z:.8g}\n" for x, y, z in rows]
        return header + "".join(lines).encode()
    return header + points.astype("<f4").tobytes()


def tree_entries(results: Iterable[list[tuple[str, int, str]]]) -> dict[str, list]:
    """Consume the models; one manifest entry a folder tree.

    The digest of a tree is that of its files' ``path sha256`` lines, sorted.
    """
    entries = sorted(entry for model in results for entry in model)
    files = {}
    for folder in (SHAPENET, RENDERING):
        own = [entry for entry in entries if entry[0].startswith(folder + "/")]
        lines = "".join(f"{path} {digest}\n" for path, _, digest in own)
        files[folder] = [
            {
                "path": folder,
                "count": len(own),
                "bytes": sum(size for _, size, _ in own),
                "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            }
        ]
    return files


def file_entry(root: Path, path: Path) -> dict[str, str | int]:
    """The manifest entry of one file."""
    return {
        "path": path.relative_to(root).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _write_h5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            # No time stamps: equal arguments give equal bytes.
            file.create_dataset(name, data=array, track_times=False)


def _halves(split: str, count: int) -> list[tuple[str, slice]]:
    """Files of a split: training sets come in two, as readers must join several."""
    if split != "train":
        return [(f"{split}0", slice(0, count))]
    middle = (count + 1) // 2
    return [("train0", slice(0, middle)), ("train1", slice(middle, count))]


def _write_names(folder: Path) -> None:
    (folder / "shape_names.txt").write_text("".join(f"{c}\n" for c in CATEGORIES))


def write_modelnet(folder: Path, split: str, rows: list) -> None:
    """Files of one split from its rows, the list of their names, and the classes'."""
    label = np.array([[row[0]] for row in rows], np.uint8)
    data = np.stack([row[1] for row in rows])
    listed = ""
    for name, part in _halves(split, len(rows)):
        path = folder / f"ply_data_{name}.h5"
        _write_h5(path, {"data": data[part], "label": label[part]})
        # The official lists name their files from the folder above the data set's.
        listed += f"data/{MODELNET}/{path.name}\n"
    (folder / f"{split}_files.txt").write_text(listed)
    _write_names(folder)


def write_scans(folder: Path, split: str, rows: list) -> None:
    """The three variants of one split from its rows."""
    label = np.array([row[0] for row in rows], np.int32)
    stem = {"train": "training", "test": "test"}[split]
    for variant, (sub, end) in VARIANTS.items():
        arrays = {
            "data": np.stack([row[1][variant][0] for row in rows]),
            "label": label,
            "mask": np.stack([row[1][variant][1] for row in rows]),
        }
        _write_h5(folder / "h5_files" / sub / f"{stem}_objectdataset{end}.h5", arrays)
        _write_names(folder / "h5_files" / sub)  # other classes than the published


def write_parts(folder: Path, split: str, rows: list) -> None:
    """Files of one split from its rows."""
    label = np.array([[row[0]] for row in rows], np.uint8)
    data, pid = (np.stack([row[k] for row in rows]) for k in (1, 2))
    for name, part in _halves(split, len(rows)):
        arrays = {"data": data[part], "label": label[part], "pid": pid[part]}
        _write_h5(folder / f"ply_data_{name}.h5", arrays)
