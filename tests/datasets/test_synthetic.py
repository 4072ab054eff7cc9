"""The synthetic generator: its files, its reproducibility, its folders."""

import json
from pathlib import Path

import h5py
import numpy as np
import plyfile
import pytest
from PIL import Image

from datasets import synthetic
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic import write as synthetic_write
from datasets.synthetic.shapes import (
    CATEGORIES,
    FIRST_PART,
    PARTS_PER_CATEGORY,
    SYNSETS,
)

SHAPES, SEED = 18, 1
PARTS, MODELNET = "shapenet_part_seg_hdf5_data", "modelnet40_ply_hdf5_2048"
SCAN_NAMES = {
    "obj_bg": "main_split/{}_objectdataset.h5",
    "obj_only": "main_split_nobg/{}_objectdataset.h5",
    "pb_t50_rs": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "data"
    assert synthetic.generate(out, SHAPES, SEED, workers=1, progress=False)
    return out


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in file}


# What is written


def test_shapenet_has_one_ply_and_24_pictures_a_model(root):
    models = sorted(p.relative_to(root / "ShapeNet") for p in root.glob("ShapeNet/*/*"))
    assert len(models) == SHAPES
    kinds = set()
    for model in models:
        ply = plyfile.PlyData.read(root / "ShapeNet" / model)
        kinds.add((ply.text, ply.byte_order))
        vertex = ply["vertex"]
        assert vertex.count == 2048
        assert all(vertex[axis].dtype == "f4" for axis in "xyz")
        points = np.stack([vertex[axis] for axis in "xyz"], axis=1)
        assert np.isfinite(points).all() and np.ptp(points, axis=0).max() > 0.3
        pictures = root / "ShapeNetRendering" / model.with_suffix("") / "rendering"
        names = sorted(p.name for p in pictures.iterdir())
        assert names == [f"{k:02d}.png" for k in range(24)]
    assert {text for text, _ in kinds} == {True, False}
    assert (False, "<") in kinds
    per_synset = [len(list((root / "ShapeNet" / s).iterdir())) for s in SYNSETS]
    assert sum(per_synset) == SHAPES and max(per_synset) - min(per_synset) <= 1


def test_views_differ_and_show_the_object(root):
    for folder in sorted(root.glob("ShapeNetRendering/*/*/rendering")):
        views = [np.array(Image.open(folder / f"{k:02d}.png")) for k in range(24)]
        assert len({view.tobytes() for view in views}) == 24
        for view in views:
            assert view.shape == (137, 137, 4) and view.dtype == np.uint8
            covered = view[..., 3] > 0
            assert 0.003 < covered.mean() < 0.8
            assert (view[covered][:, 3] < 255).any()  # edges are smoothed
            assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any()
            assert np.ptp(view[covered][:, :3], axis=0).max() > 30  # shaded


@pytest.mark.parametrize(
    ("split", "files", "count"), [("train", 2, SHAPES), ("test", 1, 16)]
)
def test_modelnet_files(root, split, files, count):
    folder = root / MODELNET
    listed = (folder / f"{split}_files.txt").read_text().split()
    assert listed == [f"data/{MODELNET}/ply_data_{split}{k}.h5" for k in range(files)]
    rows = [read(folder / Path(name).name) for name in listed]
    data = np.concatenate([row["data"] for row in rows])
    label = np.concatenate([row["label"] for row in rows])
    assert data.shape == (count, 2048, 3) and data.dtype == np.float32
    assert label.shape == (count, 1) and label.dtype == np.uint8
    assert np.abs(data.mean(axis=1)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(data, axis=2).max(axis=1), 1, atol=1e-5)
    counts = np.bincount(label[:, 0], minlength=16)
    assert counts.max() - counts.min() <= 1
    assert (folder / "shape_names.txt").read_text().split() == list(CATEGORIES)


@pytest.mark.parametrize("variant", SCAN_NAMES)
@pytest.mark.parametrize("split", ["training", "test"])
def test_scanobjectnn_files(root, variant, split):
    path = root / "ScanObjectNN/h5_files" / SCAN_NAMES[variant].format(split)
    arrays = read(path)
    assert arrays["data"].shape == (SHAPES, 2048, 3)
    assert arrays["data"].dtype == np.float32 and np.isfinite(arrays["data"]).all()
    assert arrays["label"].tolist() == [row % 16 for row in range(SHAPES)]
    assert arrays["mask"].shape == (SHAPES, 2048)
    assert (path.parent / "shape_names.txt").read_text().split() == list(CATEGORIES)
    background = (arrays["mask"] == -1).mean(axis=1)
    if variant == "obj_only":
        assert (background == 0).all()
    elif variant == "obj_bg":
        assert ((background >= 0.09) & (background <= 0.41)).all()
    else:
        assert 0 < background.mean() < 0.6
        assert np.abs(arrays["data"].mean(axis=1)).max() > 0.05  # moved, not centred


@pytest.mark.parametrize(
    ("split", "files", "count"), [("train", 2, SHAPES), ("val", 1, 16), ("test", 1, 16)]
)
def test_shapenet_part_files(root, split, files, count):
    rows = [read(root / PARTS / f"ply_data_{split}{k}.h5") for k in range(files)]
    data, label, pid = (
        np.concatenate([row[name] for row in rows]) for name in ("data", "label", "pid")
    )
    assert data.shape == (count, 2048, 3) and data.dtype == np.float32
    assert label.shape == (count, 1) and label.dtype == np.uint8
    assert pid.shape == (count, 2048)
    first = np.array(FIRST_PART)[label]
    assert (pid >= first).all()
    assert (pid < first + np.array(PARTS_PER_CATEGORY)[label]).all()
    counts = np.bincount(label[:, 0], minlength=16)
    assert counts.max() - counts.min() <= 1


def test_no_shape_is_in_two_splits(root):
    files = [p for p in root.rglob("*.h5") if "ScanObjectNN" not in p.parts]
    clouds = np.concatenate([read(path)["data"] for path in files])
    assert len({cloud.tobytes() for cloud in clouds}) == len(clouds)


def test_manifest_names_every_file(root):
    manifest = json.loads((root / "manifest.json").read_text())
    assert (manifest["shapes"], manifest["seed"]) == (SHAPES, SEED)
    assert manifest["version"] == synthetic.VERSION
    trees = manifest["datasets"]
    assert trees["ShapeNetRendering"]["files"][0]["count"] == 24 * SHAPES
    listed = {"manifest.json"}
    for name in (MODELNET, "ScanObjectNN", PARTS):
        for entry in trees[name]["files"]:
            listed.add(entry["path"])
            assert (root / entry["path"]).stat().st_size == entry["bytes"]
    written = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {p for p in written if not p.startswith("ShapeNet")} == listed
    assert trees[PARTS]["counts"] == {"train": SHAPES, "val": 16, "test": 16}


# Reproducibility


def test_two_workers_write_the_same_bytes(root, tmp_path):
    other = tmp_path / "data"
    synthetic.generate(other, SHAPES, SEED, workers=2, progress=False)
    paths = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert paths == sorted(
        p.relative_to(other) for p in other.rglob("*") if p.is_file()
    )
    for path in paths:
        assert (root / path).read_bytes() == (other / path).read_bytes(), path


def test_a_row_depends_on_seed_and_number(root):
    def points(seed, index):
        return synthetic_write.make_row((PARTS, "", seed, 5, index))[1]

    stored = read(root / PARTS / "ply_data_train0.h5")["data"]
    np.testing.assert_array_equal(points(SEED, 4), stored[4])
    assert not np.array_equal(points(SEED + 1, 4), stored[4])
    assert not np.array_equal(points(SEED, 4 + 16), stored[4])


# Shapes and sampling


# Folders that exist already


def run(*arguments) -> None:
    synthetic.main([str(a) for a in arguments] + ["--no-pack"])


def fake_write_all(root, shapes, seed, workers, progress):
    content = {"generator": "datasets.synthetic", "version": synthetic.VERSION}
    content |= {"shapes": shapes, "seed": seed}
    (root / "manifest.json").write_text(json.dumps(content))


def broken_write_all(root, *_):
    (root / "half.h5").write_text("half")
    raise KeyboardInterrupt


def test_the_command_packs_the_rendered_shapes(root, tmp_path, monkeypatch):
    def copy_all(partial, *_):
        for path in root.iterdir():
            (partial / path.name).symlink_to(path)

    monkeypatch.setattr(synthetic, "_write_all", copy_all)
    synthetic.main(["--out", str(tmp_path / "data"), "--shapes", "2"])
    packed = ShapeNetRender(tmp_path / "data")
    single = ShapeNetRender(tmp_path / "data", packed=False)
    assert packed.packed and packed.shapes == single.shapes


def test_same_data_is_left_alone(root, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "_write_all", broken_write_all)
    run("--out", root, "--shapes", SHAPES, "--seed", SEED)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "--overwrite writes them again" in said


def test_other_data_needs_overwrite(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "_write_all", fake_write_all)
    out = tmp_path / "data"
    run("--out", out, "--shapes", 16)
    (out / "old").touch()
    with pytest.raises(SystemExit) as error:
        run("--out", out, "--shapes", 17)
    message = capsys.readouterr().err
    assert error.value.code == 2 and str(out) in message and "--overwrite" in message
    assert (out / "old").exists()
    run("--out", out, "--shapes", 17, "--overwrite")
    assert not (out / "old").exists()
    assert json.loads((out / "manifest.json").read_text())["shapes"] == 17
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("manifest", [None, "{}", "not json", '{"generator": "mine"}'])
def test_foreign_folder_is_never_touched(tmp_path, monkeypatch, capsys, manifest):
    monkeypatch.setattr(synthetic, "_write_all", fake_write_all)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.h5").write_text("precious")
    if manifest is not None:
        (tmp_path / "data" / "manifest.json").write_text(manifest)
    with pytest.raises(SystemExit) as error:
        run("--out", tmp_path / "data", "--overwrite")
    assert error.value.code == 2 and str(tmp_path / "data") in capsys.readouterr().err
    assert (tmp_path / "data" / "mine.h5").read_text() == "precious"


def test_interruption_leaves_nothing_new_and_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_write_all", broken_write_all)
    with pytest.raises(SystemExit) as error:
        run("--out", tmp_path / "data")
    assert error.value.code == 130 and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(synthetic, "_write_all", fake_write_all)
    run("--out", tmp_path / "data")
    monkeypatch.setattr(synthetic, "_write_all", broken_write_all)
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "data", "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["manifest.json"]


def test_a_dying_worker_leaves_nothing(tmp_path, monkeypatch):
    def fail(job):
        raise OSError("disk full")

    monkeypatch.setattr(synthetic_write, "make_row", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic.generate(tmp_path / "data", 4, 0, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [("--shapes", 0), ("--seed", -1), ("--workers", 0)])
def test_bad_numbers_are_refused(tmp_path, bad):
    with pytest.raises(SystemExit) as error:
        run("--out", tmp_path / "data", *bad)
    assert error.value.code == 2 and not (tmp_path / "data").exists()


def test_nothing_asked_for_is_an_error():
    with pytest.raises(SystemExit) as error:
        run()
    assert error.value.code == 2


def test_preview_alone(tmp_path):
    run("--preview", tmp_path / "sheet.png")
    sheet = np.array(Image.open(tmp_path / "sheet.png").convert("L"))
    assert sheet.shape[0] == 16 * 137
    for row in sheet.reshape(16, 137, -1):
        assert (row[:, 100:] < 200).mean() > 0.02
        assert (row[:, :100] < 100).any()  # the category's name
