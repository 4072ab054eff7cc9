"""The synthetic generator: shapes, scans, images, files, reproducibility, folders."""

import contextlib
import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import plyfile
import pytest
import trimesh
from PIL import Image

from datasets import PARTS_PER_CATEGORY, synthetic
from datasets.files import MODELNET40 as MODELNET
from datasets.files import SHAPENETPART as PARTS
from datasets.labelled import VARIANTS
from datasets.shapenet_part import CATEGORIES, FIRST_PART
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic.render import camera, project, render, scan, unproject
from datasets.synthetic.shapes import SYNSETS, Shape, make_shape
from tests.datasets import helpers

# Parts, numbered within the category, that a shape may lack.
OPTIONAL = {
    "airplane": {3},
    "chair": {3},
    "earphone": {1, 2},
    "lamp": {0},
    "table": {2},
}


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def mesh_shape(mesh: trimesh.Trimesh) -> Shape:
    part, colour = np.zeros(len(mesh.faces), int), np.ones((len(mesh.faces), 3))
    return Shape(0, mesh.vertices, mesh.faces, part, colour)


@pytest.mark.parametrize("category", range(16), ids=CATEGORIES)
def test_parts_of_a_category(category):
    shapes = [make_shape(category, rng(category, k)) for k in range(25)]
    every = set(range(PARTS_PER_CATEGORY[category]))
    optional = OPTIONAL.get(CATEGORIES[category], set())
    seen = [set(np.unique(s.face_part) - FIRST_PART[category]) for s in shapes]
    assert set.union(*seen) == every
    assert set.intersection(*seen) == every - optional
    for shape in shapes:
        assert shape.faces.max() < len(shape.vertices)
        assert len(shape.face_part) == len(shape.face_colour) == len(shape.faces)
        assert np.isfinite(shape.vertices).all()
        diagonal = np.linalg.norm(np.ptp(shape.vertices, axis=0))
        assert diagonal == pytest.approx(1)
    proportions = {tuple(np.ptp(s.vertices, axis=0).round(6)) for s in shapes}
    assert len(proportions) == len(shapes)


# Scans


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_scan_sees_one_side(variant):
    ball = mesh_shape(trimesh.creation.icosphere(subdivisions=4))
    directions = rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for k in range(4):
        points, mask = scan(ball, 2048, rng(5, k))[variant]
        own = points[mask == 0]
        extent = np.ptp(own @ directions.T, axis=0)
        # Half a ball is half as deep as wide.
        assert extent.min() < 0.68 * extent.max()


def test_scans_are_turned_about_the_vertical_alone():
    upright = mesh_shape(trimesh.creation.box(extents=(0.1, 2, 0.4)))
    headings = []
    for k in range(12):
        points, _ = scan(upright, 2048, rng(6, k))["obj_only"]
        # The long axis stays vertical, the broad side points anywhere.
        assert np.ptp(points[:, 1]) > 3 * np.ptp(points[:, [0, 2]], axis=0).max()
        flat = points[:, [0, 2]] - points[:, [0, 2]].mean(axis=0)
        axis = np.linalg.eigh(flat.T @ flat)[1][:, 1]
        headings.append(np.arctan2(axis[1], axis[0]) % np.pi)
    assert np.ptp(headings) > 1


def test_background_lies_below_the_object():
    ball = mesh_shape(trimesh.creation.icosphere(subdivisions=3))
    for k in range(6):
        points, mask = scan(ball, 2048, rng(7, k))["obj_bg"]
        height = points[:, 1]
        assert np.median(height[mask == -1]) < np.quantile(height[mask == 0], 0.05)


# Renderer


def test_unproject_inverts_project():
    points = rng(1).uniform(-0.6, 0.6, (50, 3))
    back = unproject(project(points, 137), 137)
    np.testing.assert_allclose(back, points, atol=1e-12)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "seen"),
    [(0, 0, (0, 0, 1)), (180, 0, (0, 0, -1)), (90, 0, (1, 0, 0)), (0, 89, (0, 1, 0))],
)
def test_camera_position(azimuth, elevation, seen):
    towards = camera(azimuth, elevation)[2]
    np.testing.assert_allclose(towards, seen, atol=0.02)
    box = trimesh.creation.box(extents=(0.8, 0.8, 0.8))
    facing = (np.asarray(box.face_normals) @ np.array(seen, float)) > 0.9
    colours = np.where(facing[:, None], [1.0, 0, 0], [0, 0, 1.0])
    image = render(box.vertices, box.faces, colours, azimuth, elevation, 137)
    assert image[68, 68, 0] > 80 and image[68, 68, 2] == 0
    assert image[0, 0, 3] == 0 and image[68, 68, 3] == 255


# Files

SHAPES, SEED = 24, 0


@pytest.fixture
def root(synthetic_root) -> Path:
    return synthetic_root


def read(*paths: Path) -> dict[str, np.ndarray]:
    """Of several files one after the other, the keys that all of them have."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(h5py.File(path, "r")) for path in paths]
        shared = set.intersection(*map(set, files))
        return {name: np.concatenate([f[name] for f in files]) for name in shared}


def test_shapenet_models_and_renderings(root):
    models = sorted(root.glob("ShapeNet/*/*.ply"))
    counts = Counter(model.parent.name for model in models)
    assert [counts[synset] for synset in SYNSETS] == [2] * 8 + [1] * 8
    texts = set()
    for model in models:
        ply = plyfile.PlyData.read(model)
        texts.add(ply.text)
        points = np.stack([ply["vertex"][axis] for axis in "xyz"], axis=1)
        assert points.shape == (2048, 3) and points.dtype == np.float32
        assert np.isfinite(points).all() and np.ptp(points, axis=0).max() > 0.3
        name = Path(model.parent.name, model.stem, "rendering")
        files = sorted((root / "ShapeNetRendering" / name).iterdir())
        assert [p.name for p in files] == [f"{k:02d}.png" for k in range(24)]
        views = np.stack([np.array(Image.open(path)) for path in files])
        assert views.shape == (24, 137, 137, 4) and views.dtype == np.uint8
        assert len({view.tobytes() for view in views}) == 24
        for view in views:
            covered = view[..., 3] > 0
            assert 0.003 < covered.mean() < 0.8
            assert (view[covered][:, 3] < 255).any()  # antialiased
            assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any()
            assert np.ptp(view[covered][:, :3], axis=0).max() > 30  # shaded
    assert texts == {True, False}


@pytest.mark.parametrize(
    ("name", "split", "files", "count"),
    [
        (MODELNET, "train", 2, SHAPES),
        (MODELNET, "test", 1, 16),
        (PARTS, "train", 2, SHAPES),
        (PARTS, "val", 1, 16),
        (PARTS, "test", 1, 16),
    ],
)
def test_modelnet_and_shapenet_part_files(root, name, split, files, count):
    names = [f"ply_data_{split}{k}.h5" for k in range(files)]
    arrays = read(*(root / name / file for file in names))
    data, label = arrays["data"], arrays["label"]
    assert data.shape == (count, 2048, 3) and data.dtype == np.float32
    assert label.tolist() == [[row % 16] for row in range(count)]
    assert label.dtype == np.uint8
    assert np.abs(data.mean(axis=1)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(data, axis=2).max(axis=1), 1, atol=1e-5)
    if name == MODELNET:
        listed = (root / name / f"{split}_files.txt").read_text().split()
        assert listed == [f"data/{MODELNET}/{file}" for file in names]
        assert (root / name / "shape_names.txt").read_text().split() == [*CATEGORIES]
    else:
        part = arrays["pid"] - np.array(FIRST_PART)[label]
        assert part.shape == (count, 2048) and part.min() >= 0
        assert (part < np.array(PARTS_PER_CATEGORY)[label]).all()


@pytest.mark.parametrize("split", ["training", "test"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scanobjectnn_files(root, variant, split):
    sub, end = VARIANTS[variant]
    path = root / "ScanObjectNN/h5_files" / sub / f"{split}_objectdataset{end}.h5"
    arrays = read(path)
    data, mask = arrays["data"], arrays["mask"]
    assert data.shape == (SHAPES, 2048, 3) and mask.shape == (SHAPES, 2048)
    assert data.dtype == np.float32 and np.isfinite(data).all()
    assert arrays["label"].tolist() == [row % 16 for row in range(SHAPES)]
    assert (path.parent / "shape_names.txt").read_text().split() == list(CATEGORIES)
    background = (mask == -1).mean(axis=1)
    if variant == "obj_only":
        assert (background == 0).all()
    elif variant == "obj_bg":
        assert ((background >= 0.09) & (background <= 0.41)).all()
    else:
        assert 0 < background.mean() < 0.6
        assert np.abs(data.mean(axis=1)).max() > 0.05  # shifted


def test_no_shape_is_in_two_splits(root):
    files = [*(root / MODELNET).glob("*.h5"), *(root / PARTS).glob("*.h5")]
    clouds = read(*files)["data"]
    assert len({cloud.tobytes() for cloud in clouds}) == len(clouds)


def test_the_manifest_says_what_was_written(root):
    manifest = json.loads((root / "manifest.json").read_text())
    assert (manifest["shapes"], manifest["seed"]) == (SHAPES, SEED)
    assert manifest["version"] == synthetic.VERSION
    counts = {"train": SHAPES, "val": 16, "test": 16}
    assert manifest["datasets"][PARTS] == {"counts": counts}


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(root, tmp_path):
    synthetic.generate(tmp_path / "data", SHAPES, SEED, workers=2)
    assert helpers.files(tmp_path / "data") == helpers.files(root)


def test_a_row_depends_on_seed_and_index(root):
    stored = read(root / PARTS / "ply_data_train0.h5")["data"][4]
    for seed, index, same in ((SEED, 4, True), (SEED + 1, 4, False), (SEED, 20, False)):
        points = synthetic.make_row(PARTS, root, seed, 5, index)[1]
        assert np.array_equal(points, stored) == same


# The command


def run(*arguments, status: int = 0) -> None:
    assert helpers.exit_status(synthetic.main, *arguments, "--no-pack") == status


@pytest.fixture
def quick(monkeypatch):
    """Write only the manifest; the function returned makes writing fail instead."""

    def manifest(root, shapes, seed, *_):
        content = json.dumps(synthetic._header(shapes, seed))
        (root / "manifest.json").write_text(content)

    def interrupted(root, *_):
        (root / "half.h5").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_all", manifest)
    return lambda: monkeypatch.setattr(synthetic, "_write_all", interrupted)


def test_the_command_packs_the_rendered_shapes(root, tmp_path, monkeypatch):
    def copy_all(partial, *_):
        for path in root.iterdir():
            (partial / path.name).symlink_to(path)

    monkeypatch.setattr(synthetic, "_write_all", copy_all)
    synthetic.main(["--out", str(tmp_path / "data"), "--shapes", "2"])
    packed = ShapeNetRender(tmp_path / "data")
    single = ShapeNetRender(tmp_path / "data", packed=False)
    assert packed.packed and packed.shapes == single.shapes


def test_same_data_is_kept_and_other_data_needs_overwrite(tmp_path, quick, capsys):
    out = tmp_path / "data"
    run("--out", out, "--shapes", 16)
    (out / "old").touch()
    assert f"16 shapes of seed 0 written to {out}\n" == capsys.readouterr().out
    run("--out", out, "--shapes", 16)
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "--overwrite writes them again" in output
    run("--out", out, "--shapes", 17, status=2)
    message = capsys.readouterr().err
    assert str(out) in message and "--overwrite" in message
    assert (out / "old").exists()
    run("--out", out, "--shapes", 17, "--overwrite")
    assert [p.name for p in tmp_path.rglob("*")] == ["data", "manifest.json"]
    assert json.loads((out / "manifest.json").read_text())["shapes"] == 17


@pytest.mark.parametrize("manifest", [None, "{}", "not json", '{"generator": "mine"}'])
def test_foreign_folder_is_never_touched(tmp_path, quick, capsys, manifest):
    (tmp_path / "mine.h5").write_text("precious")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    run("--out", tmp_path, "--overwrite", status=2)
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / "mine.h5").read_text() == "precious"


def test_interruption_keeps_the_old_data_and_leaves_no_new(tmp_path, quick):
    run("--out", tmp_path / "data")
    quick()
    run("--out", tmp_path / "data", "--overwrite", status=130)
    run("--out", tmp_path / "other", status=130)
    assert [p.name for p in tmp_path.rglob("*")] == ["data", "manifest.json"]


def test_bad_arguments(tmp_path):
    run(status=2)
    for bad in ("--shapes 0", "--seed -1", "--workers 0"):
        run("--out", tmp_path / "data", *bad.split(), status=2)
    assert not (tmp_path / "data").exists()


def test_preview_alone(tmp_path):
    run("--preview", tmp_path / "sheet.png")
    sheet = np.array(Image.open(tmp_path / "sheet.png").convert("L"))
    assert sheet.shape[0] == 16 * 137
    for row in sheet.reshape(16, 137, -1):
        assert (row[:, 100:] < 200).mean() > 0.02
        assert (row[:, :100] < 100).any()  # the category's name
