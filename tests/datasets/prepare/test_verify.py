"""`python -m datasets.verify`: each kind of damage is found, named, and explained."""

import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from datasets import shapenet_files
from datasets.files import GENERATE, PACKED, DataError
from datasets.files import MODELNET40 as MODELNET
from datasets.files import SHAPENETPART as PART
from datasets.packed import POINTS
from datasets.prepare import verify
from datasets.prepare.pack import pack
from datasets.shapenet_render import ShapeNetRender
from tests.datasets.helpers import exit_status, ply


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic data, to be damaged."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "data"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    """Run the command: its exit status and what it printed."""

    def run(root: Path, words: str = "", workers: int = 1) -> tuple[int, str]:
        flags = ("--data_root", root, "--workers", workers, *words.split())
        return exit_status(verify.main, *flags), capsys.readouterr().out

    return run


def line(text: str, title: str) -> list[str]:
    """The columns of a line of the table."""
    (result,) = re.findall(rf"^{title}  +(.*)$", text, re.MULTILINE)
    return re.split(r"  +", result)


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change(path: Path, key: str, row: int, value: object) -> None:
    with h5py.File(path, "a") as file:
        file[key][row] = value


def test_whole_data(run, synthetic_root):
    status, text = run(synthetic_root)
    assert status == 0 and text.endswith("\nall checks passed\n")
    for title, count in {
        "ShapeNetRender clouds": "24",
        "ShapeNetRender pictures": "576",
        "ShapeNetPart val": "16",
        "ScanObjectNN pb_t50_rs test": "24",
    }.items():
        assert line(text, title) == [count, f"{count} generated", "0", "ok"]


def test_sizes_that_differ_are_told_from_damage(run, root):
    """All published sizes are those of data/README.md."""
    next(root.glob("ShapeNet/*/*.ply")).unlink()
    status, text = run(root, "--dataset shapenet")
    assert status == 1 and line(text, "ShapeNetRender clouds")[-1] == "size differs"
    assert f"synthetic data: {GENERATE} --overwrite\n" in text  # else it stays
    (root / "manifest.json").unlink()
    status, text = run(root)
    assert status == 1 and "a subset, or your own data" in text
    assert line(text, "ShapeNetRender clouds")[2:] == ["0", "size differs"]
    published = {
        "ShapeNetRender": "categories 13 clouds 43,783 pictures 1,050,792",
        "ModelNet40": "train 9,840 test 2,468",
        "ScanObjectNN obj_bg": "train 2,309 test 581",
        "ScanObjectNN obj_only": "train 2,309 test 581",
        "ScanObjectNN pb_t50_rs": "train 11,416 test 2,882",
        "ShapeNetPart": "train 12,137 val 1,870 test 2,874",
    }
    for name, sizes in published.items():
        for part, size in re.findall(r"(\w+) (\S+)", sizes):
            assert line(text, f"{name} {part}")[1] == f"{size} published"
    assert run(root, "--any_size")[0] == 0


def damage(root: Path) -> dict[Path, str]:
    """Damage many files, each in another way; what has to be said of each."""
    clouds = sorted(root.glob("ShapeNet/*/*.ply"))
    images = sorted(root.glob("ShapeNetRendering/*/*/rendering/*.png"))[::24]
    messages = {}

    def rewrite(path: Path, content: bytes, problem: str) -> None:
        path.write_bytes(content)
        messages[path] = problem

    rewrite(clouds[0], clouds[0].read_bytes()[:-2000], "not a readable PLY file")
    rewrite(clouds[1], b"", "the file is empty")
    two = ply(2, "1 2 3\n1 2 4\n").encode()
    rewrite(clouds[2], two, "stores 2 points a shape, fewer")
    rewrite(images[0], images[0].read_bytes()[:-300], "not a readable image")
    flip(images[2], images[2].stat().st_size // 2)
    messages[images[2]] = "not a readable image"
    bare = images[10].parent
    shutil.rmtree(bare)
    messages[bare] = "no image (*.png)"
    path = root / MODELNET / "ply_data_train0.h5"
    change(path, "label", 7, 99)
    messages[path] = "key `label`, row 7 has a value that is not an integer in 0 .. 15"
    path = root / MODELNET / "ply_data_test0.h5"
    rewrite(path, path.read_bytes()[:5000], "not a readable HDF5 file")
    path = root / PART / "ply_data_test0.h5"
    change(path, "pid", 2, 49)
    messages[path] = "row 2 has a part that does not belong to its category"
    return messages


@pytest.mark.slow
def test_every_damage_is_found_and_said(run, root):
    messages = damage(root)
    status, text = run(root, "--num_points 2048")
    assert status == 1
    for path, problem in messages.items():
        assert f"  {path}: " in text and problem in text, (path, problem)
    assert line(text, "ShapeNetRender clouds")[2:] == ["3", "damaged"]
    # The folder without images is damage, and its 24 are missing.
    images = ["552", "576 generated or 1,050,792 published", "3"]
    assert line(text, "ShapeNetRender pictures")[:3] == images
    for title in ("ModelNet40 train", "ModelNet40 test", "ShapeNetPart test"):
        assert line(text, title)[2:] == ["1", "damaged, size differs"]
    assert line(text, "ShapeNetPart train")[2:] == ["0", "ok"]
    assert "bash data/download_data.sh --only shapenetpart" in text
    assert "--only scanobjectnn" not in text
    # Whoever does the work, the table is the same.
    assert run(root, "--num_points 2048", workers=2) == (status, text)
    _, text = run(root, "--dataset shapenet --num_points 2048 --show 1")
    assert text.count("not a readable PLY") == 1 and "... 2 more: --show 0" in text
    _, text = run(root, "--dataset shapenet --num_points 2048 --show 0")
    assert "... " not in text


def test_absent_data_sets(run, root, tmp_path):
    shutil.rmtree(root / PART)
    shutil.rmtree(root / "ScanObjectNN/h5_files/main_split_nobg")
    status, text = run(root, "--dataset shapenetpart")
    assert status == 1 and line(text, "ShapeNetPart") == ["absent"]
    assert "ShapeNetPart: bash data/download_data.sh --only shapenetpart" in text
    (root / "manifest.json").unlink()
    status, text = run(root, "--any_size")
    assert status == 0
    for title in ("ShapeNetPart", "ScanObjectNN obj_only"):
        assert line(text, title) == ["absent"]
    assert run(root, "--any_size --dataset scanobjectnn modelnet40")[0] == 0
    (tmp_path / "empty").mkdir()
    status, text = run(tmp_path / "empty")
    assert status == 1 and text.count("absent") >= 6
    assert f"synthetic data: {GENERATE}\n" in text
    assert run(tmp_path / "nowhere")[0] == 1


def test_half_a_data_set_is_not_absent(run, root):
    folder = root / "ShapeNetRendering"
    shutil.rmtree(folder)
    clouds = root / MODELNET / "ply_data_test0.h5"
    scans = root / "ScanObjectNN/h5_files/main_split/test_objectdataset.h5"
    clouds.unlink()
    scans.unlink()
    status, text = run(root)
    assert status == 1 and f"{folder}: folder not found" in text
    assert f"{clouds}: file not found" in text and str(scans) in text


def test_damaged_images_are_set_aside_and_training_goes_on(run, root):
    pack(root)
    folders = sorted(root.glob("ShapeNetRendering/*/*/rendering"))
    for name in ("05.png", "17.png"):
        path = folders[0] / name
        path.write_bytes(path.read_bytes()[:-300])
    (folders[3] / "00.png").write_bytes(b"")
    whole = {path: path.read_bytes() for path in folders[0].glob("*.png")}
    lost = sorted(folders[7].glob("*.png"))
    for path in lost:
        path.write_bytes(b"")
    data = ShapeNetRender(root, packed=False)
    remedy = f"`python -m datasets.verify --data_root {root} --set_aside`"
    with pytest.raises(DataError, match=re.escape(remedy)):
        data.source.image(0, 5)

    flags = "--dataset shapenet --any_size"
    status, text = run(root, f"{flags} --set_aside")
    assert status == 1  # for the shape that would be left without images
    pattern = r"^  (\S+): not a readable image.*moved to (\S+), 22 others stay$"
    moved = re.findall(pattern, text, re.M)
    names = [folders[0] / name for name in ("05.png", "17.png")]
    assert [Path(path) for path, _ in moved] == names
    for path, aside in moved:
        assert Path(aside).parents[1] == root / "ShapeNetRendering.damaged"
        assert (Path(aside) / Path(path).name).read_bytes() == whole.pop(Path(path))
    assert len(whole) == 22
    assert all(path.read_bytes() == content for path, content in whole.items())
    assert "00.png: the file is empty; moved to" in text and "23 others stay" in text
    assert "  3 moved\n" in text
    assert f"  {folders[7]}: kept, since none of its images is intact" in text
    assert sorted(folders[7].glob("*.png")) == lost
    # The packed data have more images now.
    assert f"python -m datasets.packed --data_root {root} --overwrite" in text
    assert line(text, "ShapeNetRender pictures")[0] == "573"
    assert line(text, "ShapeNetRender pictures")[2] == "24"

    for path in lost:  # as if they had been whole
        shutil.copy(folders[1] / "00.png", path)
    shutil.rmtree(root / PACKED)
    status, text = run(root, "--dataset shapenet")
    assert status == 0  # what was set aside is not missing
    assert "573  576 generated" in text and text.count("3 set aside") == 1

    shutil.rmtree(folders[7].parent)
    next(root.glob(f"ShapeNet/*/{folders[7].parent.name}.ply")).unlink()
    status, text = run(root, f"{flags} --set_aside")
    assert status == 0 and "set aside:\n  none\n" in text
    data = ShapeNetRender(root)
    for index, count in enumerate(data.source.image_counts):
        for number in range(count):
            data.source.image(index, number)


def test_a_damaged_manifest(run, root):
    for content in ("{", "[]", '{"generator": "datasets.synthetic"}'):
        (root / "manifest.json").write_text(content)
        status, text = run(root, "--any_size --quick --dataset modelnet40")
        assert status == 1
        assert f"{root / 'manifest.json'}: not a readable manifest" in text
    (root / "manifest.json").write_text('{"generator": "mine"}')
    assert run(root, "--any_size --quick --dataset modelnet40")[0] == 0


def test_packed_shapes(run, root):
    folder = pack(root)
    path = folder / POINTS
    image = next(root.glob("ShapeNetRendering/*/*/rendering/00.png"))
    image.rename(image.with_suffix(".part"))
    status, text = run(root, "--dataset shapenet --any_size")
    assert status == 1 and line(text, "ShapeNetPacked clouds")[-1] == "damaged"
    assert f"{root / PACKED}: shapes have changed since they were packed" in text
    shutil.rmtree(root / "ShapeNet")
    shutil.rmtree(root / "ShapeNetRendering")
    status, text = run(root)
    assert status == 0
    assert line(text, "ShapeNetPacked clouds")[:2] == ["24", "24 generated"]
    assert line(text, "ShapeNetPacked pictures")[:2] == ["576", "576 generated"]
    _, text = run(root, "--num_points 2049 --show 0 --dataset shapenet")
    assert text.count("stores 2048 points a shape, fewer") == 24
    flip(path, 1000)
    status, text = run(root)
    assert status == 1 and "points.f4: is damaged: SHA-256 mismatch" in text
    assert run(root, "--quick")[0] == 0
    content = bytearray(path.read_bytes())
    content[12 * 2048 : 12 * 2052] = np.full(12, np.nan, "f4").tobytes()
    path.write_bytes(content)
    status, text = run(root, "--quick")
    assert status == 1 and "has a non-finite coordinate" in text
    path.unlink()
    status, text = run(root)
    assert status == 1 and f"{path}: file not found" in text


def test_quick_reads_one_image_a_shape(run, root, monkeypatch):
    reader = Mock(wraps=shapenet_files.read_image)
    monkeypatch.setattr(shapenet_files, "read_image", reader)
    run(root, "--dataset shapenet --quick")
    names = {os.path.basename(call.args[0]) for call in reader.call_args_list}
    assert reader.call_count == len(names) == 24
    run(root, "--dataset shapenet")
    assert reader.call_count == 24 + 576


def test_wrong_arguments():
    bad = ["--workers 0", "--show -1", "--bad", "--set_aside --quick"]
    for words in (*bad, "--set_aside --dataset modelnet40"):
        assert exit_status(verify.main, *words.split()) == 2, words
