"""The user's own files: every format, every kind of damage, and the sampling."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from plyfile import PlyData, PlyElement
from pypcd4 import Encoding, PointCloud

from datasets.files import DataError
from datasets.own_files import OwnFiles, sample_rows
from datasets.transforms import center_and_scale
from tests.datasets.helpers import write_h5

CLOUD = np.random.default_rng(0).normal(size=(40, 3)).round(3).astype(np.float32)
OTHER = CLOUD[::-1] * 2
WIDE = np.hstack([CLOUD, OTHER])  # with a normal


def text(separator: str = " ", head: str = "", end: str = "") -> bytes:
    lines = [separator.join(f"{value:.3f}" for value in row) + end for row in WIDE]
    return (head + "\n".join(lines) + "\n").encode()


def write_ply(path: Path, text: bool) -> None:
    rows = np.rec.fromarrays([*CLOUD.T, CLOUD[:, 0]], names="x,y,z,quality")
    PlyData([PlyElement.describe(rows, "vertex")], text=text).write(str(path))


PCD = PointCloud.from_xyz_points(CLOUD)
INDEXED = [f"{i},{z},{y},{x}" for i, (x, y, z) in enumerate(CLOUD)]
LABELS = np.zeros((2, 1), np.uint8)
BOTH = np.stack([CLOUD, OTHER])
# What writes a file, by its name: all hold CLOUD, and those of BOTH also OTHER.
WRITERS = {
    "ascii.ply": lambda path: write_ply(path, True),
    "binary.PLY": lambda path: write_ply(path, False),
    "ascii.pcd": lambda path: PCD.save(path, Encoding.ASCII),
    "binary.pcd": lambda path: PCD.save(path, Encoding.BINARY),
    "compressed.pcd": lambda path: PCD.save(path, Encoding.BINARY_COMPRESSED),
    "blanks.xyz": lambda path: path.write_bytes(text()),
    "count.pts": lambda path: path.write_bytes(text(head="40\n")),
    "commas.txt": lambda path: path.write_bytes(text(",", head="// X,Y,Z\n\n")),
    "trailing.txt": lambda path: path.write_bytes(text(",", end=",")),
    "windows.xyz": lambda path: path.write_bytes(text().replace(b"\n", b"\r\n")),
    "header.csv": lambda path: path.write_bytes(text(", ", '"X", "Y", "Z", a, b, c\n')),
    "semicolons.csv": lambda path: path.write_bytes(text(";", head="x;y;z;a;b;c\n")),
    "index.csv": lambda path: path.write_text("\n".join(["index,z,y,x", *INDEXED])),
    "one.npy": lambda path: np.save(path, WIDE),
    "two.npy": lambda path: np.save(path, BOTH),
    "key.npz": lambda path: np.savez(path, points=CLOUD, normals=OTHER, label=3),
    "sole.npz": lambda path: np.savez(path, cloud=WIDE, label=LABELS),
    "two.h5": lambda path: write_h5(path, data=BOTH, label=LABELS),
    "two.hdf5": lambda path: write_h5(path, data=BOTH.astype(float)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_points_in_order(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    files = OwnFiles([tmp_path], num_points=40, as_is=True)
    actual = list(files)
    assert not files.failed and not files.repeated
    path = str(tmp_path / name)
    names = [f"{path}#0", f"{path}#1"] if "two" in name else [path]
    assert [x.name for x in actual] == names and files.total == len(names)
    for cloud, expected in zip(actual, BOTH, strict=False):
        assert cloud.points.dtype == np.float32
        assert np.allclose(cloud.given, expected, rtol=1e-6)
        assert np.array_equal(cloud.points, cloud.given.astype(np.float32))


@pytest.mark.parametrize("kind", ["obj", "off", "stl", "glb", "gltf", "ply"])
def test_meshes_are_sampled_on_their_surface(kind: str, tmp_path: Path) -> None:
    size = np.array([1, 2, 3])
    box = trimesh.creation.box(size)
    box.apply_translation([1e6, 0, 5])
    box.export(tmp_path / f"box.{kind}")
    files = OwnFiles([tmp_path], num_points=500)
    (cloud,) = files
    assert not files.failed
    off = np.abs(cloud.given - [1e6, 0, 5]) / (size / 2)  # 1 on a face
    tolerance = 1e-4 if kind in ("obj", "off") else 0.2  # others hold float32
    assert np.abs(off.max(axis=1) - 1).max() < tolerance
    long = off.argmax(axis=1) == 0  # the two faces of 2 x 3, of 22 in all
    assert abs(long.mean() - 12 / 22) < 0.1
    assert np.abs(np.linalg.norm(cloud.points, axis=1).max() - 1) < 1e-6
    (again,) = OwnFiles([tmp_path / f"box.{kind}"], num_points=500)
    (other,) = OwnFiles([tmp_path], num_points=500, seed=1)
    assert np.array_equal(cloud.points, again.points)
    assert not np.array_equal(cloud.points, other.points)


FAR_FACE = trimesh.Trimesh(np.diag([np.inf] * 3), [[0, 1, 2]], process=False)
DAMAGE = {
    "empty.ply": (b"", "the file is empty"),
    "text.ply": (b"hello\n", "not a readable PLY file"),
    "cut.ply": (WRITERS["binary.PLY"], "not a readable PLY file"),
    "cut.pcd": (WRITERS["compressed.pcd"], "not a readable PCD file"),
    "cut.npy": (WRITERS["one.npy"], "not a readable NPY file"),
    "cut.npz": (WRITERS["key.npz"], "not a readable NPZ file"),
    "cut.h5": (WRITERS["two.h5"], "not a readable H5 file"),
    "words.xyz": (b"1 2 3\n4 five 6\n", "not a readable XYZ file"),
    "names.csv": (b"a,b,c\n1,2,3\n", "its header 'a,b,c' has no columns x, y and z"),
    "plane.xyz": (b"1 2\n3 4\n", "not a readable XYZ file"),
    "blank.txt": (b"\n# nothing\n", "holds no points"),
    "zero.pts": (b"0\n", "holds no points"),
    "one.xyz": (b"1 2 3\n", "holds one point"),
    "equal.xyz": (b"1 2 3\n" * 3, "all of its 3 points are equal"),
    "nan.xyz": (b"1 2 3\n4 5 nan\n4 5 6\n", "point 1 has a non-finite coordinate"),
    "huge.xyz": (b"1 2 3\n4 5 1e60\n", "point 1 has a non-finite coordinate"),
    "other.las": (b"LASF", "unknown format; known are .ply, .pcd"),
    "rows.npy": (lambda path: np.save(path, CLOUD.T), "expected one array of points"),
    "features.npz": (
        lambda path: np.savez(path, train=np.zeros((9, 64))),
        "it holds train float64 (9, 64)",
    ),
    "objects.npy": (lambda path: np.save(path, [{}]), "not a readable NPY file"),
    "two.npz": (lambda path: np.savez(path, a=CLOUD, b=CLOUD), "called points or data"),
    "flat.off": (b"OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n", "no face with an area"),
    "hole.obj": (b"v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "non-finite coordinate"),
    "faces.ply": (FAR_FACE.export, "non-finite coordinate"),
    "empty.h5": (lambda path: write_h5(path), "it holds none"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_listed_and_the_others_read(name, tmp_path) -> None:
    content, reason = DAMAGE[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
        if name.startswith("cut"):
            path.write_bytes(path.read_bytes()[:-30])
    np.save(tmp_path / "good.npy", CLOUD)
    files = OwnFiles([path, tmp_path / "good.npy"], num_points=8)
    assert [cloud.name for cloud in files] == [str(tmp_path / "good.npy")]
    assert list(files.failed) == [str(path)]
    actual = files.failed[str(path)]
    assert reason in actual and "\n" not in actual


def test_a_damaged_cloud_of_several_leaves_the_others(tmp_path: Path) -> None:
    clouds = np.stack([CLOUD, np.full_like(CLOUD, np.inf), OTHER])
    np.save(tmp_path / "three.npy", clouds)
    files = OwnFiles([tmp_path], num_points=8)
    assert [cloud.name[-2:] for cloud in files] == ["#0", "#2"]
    assert [name[-2:] for name in files.failed] == ["#1"]
    assert files.total == 3


def test_missing_files_and_folders_without_any_are_refused_at_once(tmp_path) -> None:
    with pytest.raises(DataError, match="no_such: no such file or folder"):
        OwnFiles([tmp_path / "no_such"])
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match="has no file of a known format"):
        OwnFiles([tmp_path])


def test_folders_are_searched_and_files_named_twice_read_once(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/1.npy", "a.npy", "b/2.npy"):
        np.save(tmp_path / name, CLOUD)
    files = OwnFiles([tmp_path, tmp_path / "a.npy"])
    names = [str(path.relative_to(tmp_path)) for path in files.files]
    assert names == ["a.npy", "b/1.npy", "b/2.npy"]
    assert [len(batch) for batch in files.batches(2)] == [2, 1]


def prepared(points: np.ndarray, folder: Path, **how: object) -> np.ndarray:
    np.save(folder / "x.npy", points)
    (cloud,) = OwnFiles([folder / "x.npy"], num_points=len(points), **how)
    return cloud.points


def test_clouds_are_turned_centred_and_scaled(tmp_path: Path) -> None:
    assert np.array_equal(prepared(CLOUD, tmp_path), center_and_scale(CLOUD))
    far = prepared(np.array([4e6, 5e5, 100]) + CLOUD, tmp_path)
    assert np.allclose(far, center_and_scale(CLOUD), atol=1e-6)  # not in float32
    x, y, z = CLOUD.T
    turned = prepared(CLOUD, tmp_path, up="z", as_is=True)
    assert np.array_equal(turned, np.stack([x, z, -y], axis=1))


@pytest.mark.parametrize("sampling", ["farthest", "random", "first"])
def test_samples_are_a_function_of_the_seed(sampling: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CLOUD)
    one, again, other = (
        next(iter(OwnFiles([tmp_path], 20, sampling, seed=seed))) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.rows, again.rows)
    assert np.array_equal(one.rows, other.rows) == (sampling == "first")
    assert len(set(one.rows)) == 20
    assert np.array_equal(one.points, center_and_scale(CLOUD[one.rows]))
    if sampling == "first":
        assert np.array_equal(one.rows, np.arange(20))


def test_farthest_points_are_those_of_the_definition() -> None:
    rows = sample_rows(CLOUD, 12, "farthest", np.random.default_rng(3))
    points = CLOUD.astype(float)
    for i in range(1, 12):
        chosen = points[rows[:i]]
        distance = np.linalg.norm(points[:, None] - chosen, axis=2).min(axis=1)
        assert rows[i] == distance.argmax()


def test_very_large_clouds_are_thinned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.own_files.MAX_FARTHEST", 15)
    rows = sample_rows(CLOUD, 12, "farthest", np.random.default_rng(3))
    assert len(set(rows)) == 12 and rows.max() > 15


def test_small_clouds_are_repeated_and_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CLOUD)
    files = OwnFiles([tmp_path], num_points=100)
    (cloud,) = files
    assert np.array_equal(cloud.rows, [*range(40), *range(40), *range(20)])
    assert files.repeated == {str(tmp_path / "x.npy"): 40}


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling 'some' is not one of"):
        sample_rows(CLOUD, 4, "some", np.random.default_rng())
