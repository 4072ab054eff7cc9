"""`python -m datasets.verify`: each kind of damage is found, named, and explained."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets import shapenet_files
from datasets.files import GENERATE, PACKED, DataError
from datasets.labelled import ModelNet40, ScanObjectNN
from datasets.packed import POINTS
from datasets.prepare import verify
from datasets.prepare.inventory import PUBLISHED
from datasets.prepare.pack import pack
from datasets.shapenet_part import ShapeNetPart
from datasets.shapenet_render import ShapeNetRender

MODELNET, PART = "modelnet40_ply_hdf5_2048", "shapenet_part_seg_hdf5_data"


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic data, to be damaged."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "data"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    """Run the command: its exit status and what it printed."""

    def run(root: Path, *words: str, workers: int = 1) -> tuple[int, str]:
        flags = ("--data_root", str(root), "--workers", str(workers), *words)
        with pytest.raises(SystemExit) as end:
            verify.main(list(flags))
        return end.value.code, capsys.readouterr().out

    return run


def line(text: str, title: str) -> list[str]:
    """The columns of a line of the table."""
    (found,) = re.findall(rf"^{title}  +(.*)$", text, re.MULTILINE)
    return re.split(r"  +", found)


def test_published_sizes():
    scans = {"obj_bg": (2_309, 581), "obj_only": (2_309, 581)}
    scans["pb_t50_rs"] = (11_416, 2_882)
    for variant, (train, test) in scans.items():
        assert PUBLISHED["scanobjectnn"][f"{variant} train"] == train
        assert PUBLISHED["scanobjectnn"][f"{variant} test"] == test
    assert PUBLISHED["modelnet40"] == {"train": 9_840, "test": 2_468}
    assert PUBLISHED["shapenetpart"] == {"train": 12_137, "val": 1_870, "test": 2_874}
    sizes = {"categories": 13, "clouds": 43_783, "pictures": 1_050_792}
    assert PUBLISHED["shapenet"] == sizes


def test_whole_data(run, synthetic_root):
    status, text = run(synthetic_root)
    assert status == 0, text
    assert line(text, "ShapeNetRender clouds") == ["24", "24 generated", "0", "ok"]
    assert line(text, "ShapeNetRender pictures") == ["576", "576 generated", "0", "ok"]
    assert line(text, "ShapeNetPart val") == ["16", "16 generated", "0", "ok"]
    assert line(text, "ScanObjectNN pb_t50_rs test")[0] == "24"
    assert line(text, "ModelNet40 files") == ["6", "6 generated", "0", "ok"]
    assert text.endswith("\neverything is in order\n")


def change(path: Path, key: str, row: int, value: object) -> None:
    with h5py.File(path, "a") as file:
        file[key][row] = value


def damage(root: Path) -> dict[Path, str]:
    """Damage many files, each in another way; what has to be said of each."""
    clouds = sorted(root.glob("ShapeNet/*/*.ply"))
    pictures = sorted(root.glob("ShapeNetRendering/*/*/rendering/*.png"))[::24]
    said = {}

    def rewrite(path: Path, content: bytes, problem: str) -> None:
        path.write_bytes(content)
        said[path] = problem

    header = b"ply\nformat ascii 1.0\nelement vertex %d\nproperty float x\n"
    header += b"property float y\nproperty float z\nend_header\n"
    rewrite(clouds[0], clouds[0].read_bytes()[:-2000], "not a readable PLY file")
    rewrite(clouds[1], b"", "the file is empty")
    rewrite(clouds[2], header % 2 + b"1 2 3\n1 nan 3\n", "vertex 1 has a non-finite")
    rewrite(clouds[3], header % 2 + b"1 2 3\n1 2 3\n", "all of its 2 points are equal")
    rewrite(clouds[4], header % 2 + b"1 2 3\n1 2 4\n", "stores 2 points a shape, fewer")
    rewrite(pictures[0], pictures[0].read_bytes()[:-300], "not a readable picture")
    rewrite(pictures[1], b"", "the file is empty")
    content = bytearray(pictures[2].read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(pictures[2], bytes(content), "not a readable picture")
    bare = pictures[10].parent
    shutil.rmtree(bare)
    said[bare] = "no picture (*.png)"
    path = root / MODELNET / "ply_data_train0.h5"
    change(path, "data", 3, np.inf)
    change(path, "data", 5, 1.0)
    change(path, "label", 7, 99)
    said[path] = "key `label`, row 7 has a value that is not an integer in 0 .. 15"
    path = root / MODELNET / "ply_data_test0.h5"
    rewrite(path, path.read_bytes()[:5000], "not a readable HDF5 file")
    path = root / PART / "ply_data_test0.h5"
    change(path, "pid", 2, 49)
    said[path] = "row 2 has a part that does not belong to its category"
    path = root / PART / "ply_data_val0.h5"
    rewrite(path, b"", "the file is empty")
    return said


def test_every_damage_is_found_and_said(run, root):
    said = damage(root)
    status, text = run(root, "--num_points", "2048")
    assert status == 1
    for path, problem in said.items():
        assert f"  {path}: " in text and problem in text, (path, problem)
    for row in (3, 5, 7):
        assert f"row {row}" in text
    assert line(text, "ShapeNetRender clouds")[2:] == ["5", "damaged"]
    # The folder without pictures is damage, and its 24 are missing.
    pictures = ["552", "576 generated or 1,050,792 published", "4"]
    assert line(text, "ShapeNetRender pictures")[:3] == pictures
    assert line(text, "ModelNet40 train")[2:] == ["3", "damaged"]
    assert line(text, "ModelNet40 test")[2:] == ["1", "damaged, size differs"]
    assert line(text, "ShapeNetPart test")[2:] == ["1", "damaged"]
    assert line(text, "ShapeNetPart train")[2:] == ["0", "ok"]
    assert line(text, "ScanObjectNN obj_bg train")[2:] == ["0", "ok"]
    assert "bash data/download_data.sh --only shapenetpart" in text
    assert "--only scanobjectnn" not in text
    # Whoever does the work, the table is the same.
    assert run(root, "--num_points", "2048", workers=2) == (status, text)


def test_what_verify_finds_stops_training_with_its_path(root):
    said = damage(root)
    with pytest.raises(DataError) as error:
        ShapeNetRender(root, 2048)
    bare = next(path for path, text in said.items() if "no picture" in text)
    assert str(bare) in str(error.value)
    shutil.copytree(next(root.glob("ShapeNetRendering/*/*/rendering")), bare)
    clouds, stopped = ShapeNetRender(root, 2048, 32), set()
    for index in range(len(clouds)):
        try:
            clouds[index]
        except DataError as failure:
            stopped.add(Path(str(failure).split(": ")[0]))
    assert {path for path in said if path.suffix == ".ply"} <= stopped
    for folder, read in (
        (MODELNET, lambda split: ModelNet40(root, split)),
        (PART, lambda split: ShapeNetPart(root, split)),
    ):
        for path in (path for path in said if folder in str(path)):
            with pytest.raises(DataError, match=str(path)):
                read(path.name.split("_")[-1][:-4])


def test_a_list_of_damage_is_cut_where_asked(run, root):
    for path in root.glob("ShapeNet/*/*.ply"):
        path.write_bytes(b"")
    _, text = run(root, "--dataset", "shapenet", "--show", "3")
    assert text.count("the file is empty") == 3 and "... 21 more: --show 0" in text
    _, text = run(root, "--dataset", "shapenet", "--show", "0")
    assert text.count("the file is empty") == 24


def test_sizes_that_differ_are_told_from_damage(run, root):
    next(root.glob("ShapeNet/*/*.ply")).unlink()
    status, text = run(root, "--dataset", "shapenet")
    assert status == 1 and line(text, "ShapeNetRender clouds")[-1] == "size differs"
    (root / "manifest.json").unlink()
    status, text = run(root)
    assert status == 1
    columns = ["23", "43,783 published", "0", "size differs"]
    assert line(text, "ShapeNetRender clouds") == columns
    assert line(text, "ModelNet40 test")[1] == "2,468 published"
    assert line(text, "ShapeNetRender categories")[:2] == ["15", "13 published"]
    assert "a subset, or data of your own" in text
    assert run(root, "--any_size")[0] == 0


def test_absent_data_sets(run, root, tmp_path):
    shutil.rmtree(root / PART)
    shutil.rmtree(root / "ScanObjectNN/h5_files/main_split_nobg")
    status, text = run(root, "--dataset", "shapenetpart")
    assert status == 1 and line(text, "ShapeNetPart") == ["absent"]
    assert "ShapeNetPart: bash data/download_data.sh --only shapenetpart" in text
    (root / "manifest.json").unlink()
    status, text = run(root, "--any_size")
    assert status == 0
    for title in ("ShapeNetPart", "ScanObjectNN obj_only"):
        assert line(text, title) == ["absent"]
    assert run(root, "--any_size", "--dataset", "scanobjectnn", "modelnet40")[0] == 0
    (tmp_path / "empty").mkdir()
    status, text = run(tmp_path / "empty")
    assert status == 1 and text.count("absent") >= 6
    assert f"synthetic data: {GENERATE}\n" in text
    assert run(tmp_path / "nowhere")[0] == 1


def test_half_a_data_set_is_not_absent(run, root):
    folder, *files = (
        *(root / "ShapeNetRendering", root / MODELNET / "ply_data_test0.h5"),
        root / "ScanObjectNN/h5_files/main_split/test_objectdataset.h5",
    )
    shutil.rmtree(folder)
    for path in files:
        path.unlink()
    status, text = run(root)
    assert status == 1 and f"{folder}: folder not found" in text
    for path in files:
        assert f"{path}: file not found" in text


def test_a_generated_file_with_another_content(run, root):
    path = root / MODELNET / "ply_data_train1.h5"
    change(path, "data", 1, np.random.default_rng(0).normal(size=(2048, 3)))
    status, text = run(root)
    assert status == 1 and f"{path}: another SHA-256" in text
    assert f"synthetic data: {GENERATE} --overwrite\n" in text  # else it stays
    assert run(root, "--quick")[0] == 0
    path.write_bytes(path.read_bytes() + b"\0")
    assert run(root, "--quick")[0] == 1


def test_a_damaged_manifest(run, root):
    for content in ("{", "[]", '{"generator": "datasets.synthetic"}'):
        (root / "manifest.json").write_text(content)
        status, text = run(root, "--any_size")
        assert status == 1
        assert f"{root / 'manifest.json'}: not a readable manifest" in text
    (root / "manifest.json").write_text('{"generator": "mine"}')
    assert run(root, "--any_size")[0] == 0


def test_labels_out_of_range_without_names(run, root):
    (root / MODELNET / "shape_names.txt").unlink()
    change(root / MODELNET / "ply_data_train0.h5", "label", 2, 200)
    status, text = run(root)
    assert status == 1
    assert "key `label`, row 2 has a value that is not an integer in 0 .. 39" in text
    with pytest.raises(DataError, match="label 200"):
        ModelNet40(root, "test")


def test_an_unreadable_file_puts_no_blame_on_another(run, root):
    """Its 16 classes, one more than published, are known from no list of names."""
    path = root / "ScanObjectNN/h5_files/main_split/test_objectdataset.h5"
    path.write_bytes(b"")
    for names in (root / "ScanObjectNN/h5_files").glob("*/shape_names.txt"):
        names.unlink()  # the official release has none
    for variant in ("obj_only", "pb_t50_rs"):
        assert ScanObjectNN(root, "test", variant).num_classes == 16
    _, text = run(root, "--dataset", "scanobjectnn")
    assert line(text, "ScanObjectNN obj_bg train")[-1] == "ok"
    assert text.count(f"{path}: the file is empty") == 1
    assert line(text, "ScanObjectNN obj_bg test")[2:] == ["1", "damaged, size differs"]


def test_packed_shapes(run, root):
    folder = pack(root, progress=False)
    shutil.rmtree(root / "ShapeNet")
    shutil.rmtree(root / "ShapeNetRendering")
    status, text = run(root)
    assert status == 0
    assert line(text, "ShapeNetPacked clouds")[:2] == ["24", "24 generated"]
    assert line(text, "ShapeNetPacked pictures")[:2] == ["576", "576 generated"]
    words = ("--num_points", "2049", "--show", "0", "--dataset", "shapenet")
    status, text = run(root, *words)
    assert status == 1 and text.count("stores 2048 points a shape, fewer") == 24
    content = bytearray((folder / POINTS).read_bytes())
    content[1000] ^= 1
    (folder / POINTS).write_bytes(content)
    status, text = run(root)
    assert status == 1 and "points.f4: is damaged: another SHA-256" in text
    assert run(root, "--quick")[0] == 0
    content[12 * 2048 : 12 * 2052] = np.full(12, np.nan, "f4").tobytes()
    (folder / POINTS).write_bytes(content)
    status, text = run(root, "--quick")
    assert status == 1 and "has a non-finite coordinate" in text
    with pytest.raises(DataError, match=rf"{POINTS}: .* has a non-finite coordinate"):
        ShapeNetRender(root)[1]
    (folder / POINTS).unlink()
    status, text = run(root)
    assert status == 1 and f"{root / PACKED / POINTS}: file not found" in text


def test_packed_shapes_that_are_not_those_of_the_files(run, root):
    pack(root, progress=False)
    assert run(root, "--dataset", "shapenet")[0] == 0
    shapes = sorted((root / "ShapeNetRendering").glob("*/*"))
    (shapes[3] / "rendering" / "00.png").unlink()
    name = "/".join(shapes[3].parts[-2:])
    status, text = run(root, "--dataset", "shapenet", "--any_size")
    assert status == 1 and line(text, "ShapeNetPacked clouds")[-1] == "damaged"
    assert f"{root / PACKED}: shapes have changed since they were packed" in text
    assert f"1 with another number of images ({name})" in text


def test_quick_reads_one_picture_a_shape(run, root, monkeypatch):
    read, original = [], shapenet_files.read_picture

    def noted(path, *rest):
        read.append(path)
        return original(path, *rest)

    monkeypatch.setattr(shapenet_files, "read_picture", noted)
    run(root, "--dataset", "shapenet", "--quick")
    assert len(read) == 24 and len({os.path.basename(path) for path in read}) == 24
    run(root, "--dataset", "shapenet")
    assert len(read) == 24 + 576


@pytest.mark.parametrize("words", [("--workers", "0"), ("--show", "-1"), ("--bad",)])
def test_wrong_arguments(words):
    with pytest.raises(SystemExit) as error:
        verify.main(list(words))
    assert error.value.code == 2
