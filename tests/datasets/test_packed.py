"""The packed ShapeNetRender: the same items, interruptions, and damage."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets import packed
from datasets.files import PACKED as FOLDER
from datasets.files import DataError
from datasets.packed import PackedShapes
from datasets.prepare import pack as packing
from datasets.prepare.pack import pack
from datasets.shapenet_files import ShapeFiles
from datasets.shapenet_render import ShapeNetRender
from tests.datasets.helpers import exit_status
from tests.datasets.test_shapenet_render import equal


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the raw shapes, to be packed beside them."""
    for name in ("ShapeNet", "ShapeNetRendering"):
        shutil.copytree(synthetic_root / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("pictures", packed.KINDS)
def test_items_are_those_of_single_files(pictures: str, root: Path) -> None:
    folder = pack(root, pictures)
    names = {packed.POINTS, packed.IMAGES, packed.INDEX, packed.MANIFEST}
    assert {path.name for path in folder.iterdir()} == names
    raw = ShapeNetRender(root, 128, 32, seed=4, packed=False)
    mapped = ShapeNetRender(root, 128, 32, seed=4)
    assert not raw.packed and mapped.packed
    again = pickle.loads(pickle.dumps(mapped))  # as a loader process gets it
    assert len(pickle.dumps(mapped)) < 100_000  # without what is mapped
    assert raw.shapes == mapped.shapes == again.shapes
    for key in ((0, 0), (0, len(raw) - 1), (3, 5)):
        assert all(equal(raw[key], mapped[key]))
        assert all(equal(raw[key], again[key]))
    PackedShapes(folder).check_sums()
    shapes, files = PackedShapes(folder), ShapeFiles(root)
    assert shapes.image_counts.tolist() == files.image_counts.tolist()
    for index, views in enumerate(files.image_counts):
        assert np.array_equal(shapes.cloud(index), files.cloud(index))
        for view in range(views):
            one, other = (x.image(index, view) for x in (shapes, files))
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_packing_goes_on_where_it_was(root: Path, monkeypatch) -> None:
    whole = pack(root).rename(root / "whole")
    monkeypatch.setattr(packing, "AT_ONCE", 5)
    read, calls = ShapeFiles.cloud, []

    def interrupted(self: ShapeFiles, index: int) -> np.ndarray:
        calls.append(index)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(ShapeFiles, "cloud", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(root)
    # Half a data set is not read.
    assert not ShapeNetRender(root, None).packed
    with pytest.raises(DataError, match="packing did not finish"):
        ShapeNetRender(root, None, packed=True)
    with pytest.raises(DataError, match="different shapes or --pictures"):
        pack(root, "decoded")
    pack(root)
    assert len(calls) == 13 + 24 - 10  # ten were noted
    for name in (packed.POINTS, packed.IMAGES):
        assert (root / FOLDER / name).read_bytes() == (whole / name).read_bytes()
    PackedShapes(root / FOLDER).check_sums()
    with pytest.raises(DataError, match="is complete; --overwrite"):
        pack(root, "decoded")
    (root / FOLDER / packing.PROGRESS).write_text("{}")  # of an older interruption
    pack(root, "decoded", overwrite=True)
    assert PackedShapes(root / FOLDER).manifest["pictures"] == "decoded"


def test_damage_is_found(root: Path) -> None:
    folder = pack(root)

    def check(folder: Path) -> None:
        PackedShapes(folder).check_sums()

    def refused(name: str, content: bytes, said: str, call=ShapeNetRender) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: .*{said}"):
            call(root if call is ShapeNetRender else folder)
        (folder / name).write_bytes(whole)

    points, index = ((folder / x).read_bytes() for x in (packed.POINTS, packed.INDEX))
    damaged = "is damaged: SHA-256 mismatch"
    refused(packed.POINTS, points[:-1] + bytes([points[-1] ^ 1]), damaged, check)
    refused(packed.POINTS, points[:-4], r"has \d+ bytes instead of")
    for at in range(0, len(index), 499):
        flipped = index[:at] + bytes([index[at] ^ 1]) + index[at + 1 :]
        refused(packed.INDEX, flipped, damaged)
    for text in (b"{", b"[]", b"{}"):
        refused(packed.MANIFEST, text, "not a readable manifest")
    refused(packed.MANIFEST, b'{"version": 9}', "is of version 9")
    ShapeNetRender(root)
    for bad, message in (
        (np.full(3, np.nan, "f4").tobytes() + points[12:], "a non-finite"),
        (bytes(len(points)), "equal points only"),
    ):
        (folder / packed.POINTS).write_bytes(bad)
        with pytest.raises(DataError, match=rf"points\.f4: .* has {message}"):
            ShapeNetRender(root)[0]
    (folder / packed.POINTS).unlink()
    with pytest.raises(DataError, match=r"points\.f4: file not found"):
        ShapeNetRender(root)


def test_a_pack_of_other_shapes_is_refused(root: Path) -> None:
    command = f"python -m datasets.packed --data_root {root}"
    assert command in ShapeNetRender(root, None).hint
    pack(root)
    assert ShapeNetRender(root, None).hint == ""
    shapes = ShapeNetRender(root, None).shapes
    cloud = root / "ShapeNet" / f"{shapes[2]}.ply"
    views = root / "ShapeNetRendering" / shapes[5] / "rendering"

    def refused(*texts: str) -> None:
        with pytest.raises(DataError) as error:
            ShapeNetRender(root, None)
        message = str(error.value)
        again = f"python -m datasets.packed --data_root {root} --overwrite"
        for text in (str(root / FOLDER), again, "--no-packed", *texts):
            assert text in message, message

    new = cloud.rename(cloud.with_name("renamed.ply"))
    refused(f"1 added ({shapes[2][:9]}renamed)", f"1 removed ({shapes[2]})")
    new.rename(cloud)
    ShapeNetRender(root, None)
    (views / "00.png").rename(views / "99.png.part")
    refused(f"1 with another number of images ({shapes[5]})")
    assert not ShapeNetRender(root, None, packed=False).packed
    pack(root, overwrite=True)
    ShapeNetRender(root, None)
    # Single files may be deleted to save space.
    shutil.rmtree(root / "ShapeNetRendering")
    ShapeNetRender(root, None)
    shutil.rmtree(root / "ShapeNet")
    assert ShapeNetRender(root, None).shapes == shapes


def test_a_damaged_raw_file_stops_packing_with_its_name(root: Path) -> None:
    path = next(root.glob("ShapeNetRendering/*/*/rendering/*.png"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=path.name):
        pack(root)
    assert not (root / FOLDER / packed.MANIFEST).exists()


def test_the_command(root: Path, capsys: pytest.CaptureFixture) -> None:
    for words, status, message in (
        (["--check"], 2, "packing did not finish"),
        ([], 0, "24 shapes, 576 pictures (files)"),
        (["--check"], 0, "all checksums match"),
        ([], 2, "is complete"),
        (["--overwrite", "--pictures", "decoded"], 0, "576 pictures (decoded)"),
    ):
        actual = exit_status(packing.main, "--data_root", root, *words)
        text = "".join(capsys.readouterr())
        assert actual == status and message in text, text
