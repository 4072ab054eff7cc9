"""The user's own clouds and meshes, in any common format, prepared for a network.

Iterate over `OwnFiles`. Files that cannot be read are noted and skipped.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from plyfile import PlyData

from datasets import SAMPLINGS
from datasets.files import DataError, open_file, points_all_equal, refuse
from datasets.transforms import center_and_scale

TEXTS = (".xyz", ".pts", ".txt", ".csv")
ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
MESHES = (".obj", ".off", ".stl", ".glb", ".gltf")
FORMATS = (".ply", ".pcd", *TEXTS, *ARRAYS, *MESHES)
KEYS = ("points", "data")  # of NPZ and HDF5 files, tried in this order
MAX_COLUMNS = 20  # of a point: coordinates, normal, colour, ...
MAX_FARTHEST = 100_000  # points that farthest-point sampling looks at


class Cloud(NamedTuple):
    """One cloud, or a mesh's sampled points."""

    name: str  # path of the file; `path#row` in a file of several clouds
    given: np.ndarray  # (P, 3), as in the file: all of its points
    rows: np.ndarray  # (N,), those that the network sees; repeated if P < N
    points: np.ndarray  # (N, 3) float32, these rows, rotated, centred and scaled


@dataclass
class OwnFiles:
    """The clouds of files and folders, in order; a cloud is a function of the seed.

    Larger clouds are sampled by "farthest" (point sampling), "random", or "first" as
    the evaluations do, meshes uniformly by area.

    Raises:
        DataError: if a path does not exist, or is a folder without files of `FORMATS`.
    """

    paths: Iterable[str | Path]  # files, and folders that are searched for files
    num_points: int = 1024  # N, points of each cloud that the network sees
    sampling: str = "farthest"
    seed: int = 0  # for the sampling
    as_is: bool = False  # neither centre clouds nor scale them to the unit sphere
    up: str = "y"  # the files' vertical axis: "y", or "z" to rotate z to y
    # Filled while iterating: name -> reason, and name -> points, if below num_points
    failed: dict[str, str] = field(default_factory=dict, init=False)
    repeated: dict[str, int] = field(default_factory=dict, init=False)
    # Clouds, as far as is known before all files are read
    total: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.files = find_files(self.paths)
        self.total = len(self.files)

    def __iter__(self) -> Iterator[Cloud]:
        for path in self.files:
            try:
                arrays = read_file(path, self.num_points, self.seed)
            except DataError as error:
                self.failed[str(path)] = error.problem
                continue
            self.total += len(arrays) - 1
            for row, raw in enumerate(arrays):
                name = str(path) if len(arrays) == 1 else f"{path}#{row}"
                if problem := problem_of(raw):
                    self.failed[name] = problem
                    continue
                if len(raw) < self.num_points:
                    self.repeated[name] = len(raw)
                rng = np.random.default_rng(self.seed)
                rows = sample_rows(raw, self.num_points, self.sampling, rng)
                points = raw[rows]
                if self.up == "z":
                    points = points[:, [0, 2, 1]] * [1, 1, -1]
                if not self.as_is:
                    points = center_and_scale(points)
                yield Cloud(name, raw, rows, points.astype(np.float32))

    def batches(self, size: int) -> Iterator[list[Cloud]]:
        """Up to `size` clouds at a time."""
        clouds = iter(self)
        while batch := list(islice(clouds, size)):
            yield batch

    def read_again(self, name: str, folder: str = "") -> Cloud:
        """A cloud by its name, below the folder in which it was read before.

        A `DataError` if it no longer exists, or can no longer be read.
        """
        full = Path(folder, name)
        path = full if full.exists() else Path(folder, re.sub(r"#\d+$", "", name))
        for cloud in replace(self, paths=[path]):
            if cloud.name == str(full):
                return cloud
        refuse(path, "no longer holds this cloud, or it is damaged")


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files, and those of known formats anywhere in the folders, sorted.

    Raises:
        DataError: if a path does not exist, or is a folder without such files.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in FORMATS]
            if not inside:
                refuse(path, f"has no file of a known format: {', '.join(FORMATS)}")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            refuse(path, "no such file or folder")
    return list(dict.fromkeys(files))


def read_file(path: Path, num_points: int, seed: int) -> list[np.ndarray]:
    """The clouds of a file, each (P, 3) in the file's numbers, not checked yet.

    On a mesh, or a PLY file with faces, `num_points` are sampled uniformly by area. A
    `DataError` if the file is missing, empty, damaged or of another format.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        refuse(path, f"unknown format; known are {', '.join(FORMATS)}")
    try:
        with open_file(path):  # reports a missing or empty file
            pass
        if kind in MESHES or (kind == ".ply" and _has_faces(path)):
            from datasets.prepare.meshes import load_mesh, sample_points

            mesh = load_mesh(path)
            middle = mesh.bounds.mean(axis=0)
            # Points are float32: those of a mesh far from the origin would be rounded.
            mesh.apply_translation(-middle)
            rng = np.random.default_rng(seed)
            return [sample_points(mesh, num_points, rng) + middle]
        if kind in TEXTS:
            return [_read_text(path)]
        if kind in ARRAYS:
            return _read_arrays(path, kind)
        if kind == ".ply":
            vertex = PlyData.read(str(path))["vertex"].data
            return [np.stack([vertex[axis] for axis in "xyz"], axis=1)]
        from pypcd4 import PointCloud  # slow to import

        return [PointCloud.from_path(path).numpy(("x", "y", "z"))]
    except DataError as error:
        refuse(path, error.problem)
    except Exception as error:  # damaged files make their readers raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        refuse(path, f"not a readable {kind[1:].upper()} file ({reason})")


def problem_of(points: np.ndarray) -> str:
    """Why a cloud (P, 3) cannot be used and what to do, or an empty text."""
    if len(points) == 0:
        return "holds no points: remove the file"
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(points.astype(np.float32)).all(axis=1))
    if len(bad):
        return (
            f"point {bad[0, 0]} has a non-finite coordinate ({len(bad)} such points): "
            "remove them from the file"
        )
    if len(points) == 1:
        return "holds one point: a cloud needs several"
    if points_all_equal(points):
        return f"all of its {len(points)} points are equal: remove the file"
    return ""


def sample_rows(
    points: np.ndarray, count: int, sampling: str, rng: np.random.Generator
) -> np.ndarray:
    """Rows (count,) of points (P, 3): all, repeated where P < count, or a sample."""
    if sampling not in SAMPLINGS:
        names = ", ".join(SAMPLINGS)
        raise ValueError(f"sampling {sampling!r} is not one of {names} (--sampling)")
    if len(points) <= count or sampling == "first":
        return np.resize(np.arange(min(len(points), count)), count)
    if sampling == "random":
        return rng.choice(len(points), count, replace=False)
    if len(points) <= MAX_FARTHEST:
        return farthest_rows(points, count, rng)
    candidates = rng.choice(len(points), max(MAX_FARTHEST, count), replace=False)
    return candidates[farthest_rows(points[candidates], count, rng)]


def farthest_rows(
    points: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Farthest-point sampling from a random start: rows (count,) of points (P, 3).

    Each next row is the point farthest from all that were chosen before.
    """
    axes = np.ascontiguousarray((points - points[0]).T, np.float32)  # (3, P)
    distance = np.full(len(points), np.inf, np.float32)
    rows = np.empty(count, np.int64)
    row = rng.integers(len(points))
    for i in range(count):
        rows[i] = row
        step = axes - axes[:, row, None]
        np.minimum(distance, np.einsum("ap,ap->p", step, step), out=distance)
        row = distance.argmax()
    return rows


def _has_faces(path: Path) -> bool:
    with open(path, "rb") as stream:
        header = stream.read(1 << 16).partition(b"end_header")[0]
    return re.search(rb"^element face +0*[1-9]", header, re.M) is not None


def _read_text(path: Path) -> np.ndarray:
    """Columns x, y and z by a header's names, else the first three.

    Separators are commas, semicolons or blanks. A first line of one number, the count
    of PTS files, is skipped, as are lines that begin with # or //.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [x for x in lines if x.strip() and not x.lstrip().startswith(("#", "//"))]
    if not lines:
        refuse(path, "holds no points: remove the file")
    separator = next((s for s in ",;" if s in lines[-1]), None)
    first = [word.strip(' "').lower() for word in lines[0].split(separator)]
    columns, skipped = [0, 1, 2], int(len(first) == 1)
    try:
        [float(word) for word in first if word]
    except ValueError:  # words: a header
        if not {"x", "y", "z"} <= set(first):
            refuse(path, f"its header {lines[0].strip()!r} has no columns x, y and z")
        columns, skipped = [first.index(axis) for axis in "xyz"], 1
    lines = lines[skipped:]
    if not lines:
        return np.empty((0, 3))
    return np.loadtxt(lines, delimiter=separator, usecols=columns, ndmin=2)


def _read_arrays(path: Path, kind: str) -> list[np.ndarray]:
    if kind in (".h5", ".hdf5"):
        with h5py.File(path, "r") as file:
            arrays = {k: v for k, v in file.items() if hasattr(v, "ndim")}
            return _split_clouds(path, arrays)
    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError as error:
        if kind == ".npy" and "pickle" in str(error):
            refuse(path, "not a readable NPY file of numbers")
        raise
    if kind == ".npy":
        return _split_clouds(path, {"the array": loaded})
    with loaded:
        return _split_clouds(path, loaded)


def _split_clouds(path: Path, arrays: Any) -> list[np.ndarray]:
    """The clouds of the one array that has any, or of that under one of `KEYS`."""
    shapes = {name: (arrays[name].dtype, arrays[name].shape) for name in arrays}
    fit = [
        name
        for name, (dtype, shape) in shapes.items()
        if dtype.kind in "fiu"
        and len(shape) in (2, 3)
        and 3 <= shape[-1] <= MAX_COLUMNS
    ]
    named = [name for name in KEYS if name in fit] or fit
    if not named or (len(named) > 1 and named[0] not in KEYS):
        holds = ", ".join(f"{n} {kind} {shape}" for n, (kind, shape) in shapes.items())
        refuse(
            path,
            f"expected one array of points (N, 3) or clouds (M, N, 3), called "
            f"{' or '.join(KEYS)} if there are several; it holds {holds or 'none'}",
        )
    array = np.asarray(arrays[named[0]][..., :3])
    return [array] if array.ndim == 2 else list(array)
