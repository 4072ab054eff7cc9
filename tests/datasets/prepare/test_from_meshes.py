"""The command: names, files, interruptions, splits, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import trimesh
from PIL import Image

from datasets import from_meshes as command
from datasets import verify
from datasets.files import DataError
from datasets.labelled import ModelNet40
from datasets.prepare import from_meshes
from datasets.prepare.from_meshes import find_meshes, split_by_name
from datasets.shapenet_files import list_clouds
from datasets.shapenet_render import ShapeNetRender
from tests.datasets.helpers import exit_status, files

SMALL = ("--views", "3", "--image_size", "24", "--num_points", "100", "--workers", "1")
SHAPES = [f"{kind}/{kind}{n}" for kind in ("ball", "rod") for n in range(5)]


def write_meshes(root: Path) -> Path:
    """Two classes of five shapes in five formats, and what is to be left out."""
    for number, suffix in enumerate((".obj", ".ply", ".stl", ".off", ".glb")):
        ball = trimesh.creation.icosphere(radius=1 + number, subdivisions=2)
        rod = trimesh.creation.box((1, 6 + number, 1))
        for kind, mesh in (("ball", ball), ("rod", rod)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            mesh.visual.face_colors = (200, 40, 40, 255)
            mesh.export(root / kind / f"{kind}{number}{suffix}")
    (root / "rod" / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    (root / "rod" / "notes.txt").write_text("no mesh")
    (root / "ball" / "broken.ply").write_text("rubbish")
    (root / "ball" / ".hidden.ply").write_text("rubbish")
    return root


def run(meshes: Path, out: Path, *words: str, status: int = 0) -> None:
    flags = ("--meshes", meshes, "--out", out, *SMALL, *words)
    assert exit_status(command.main, *flags) == status


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meshes(tmp_path_factory.mktemp("meshes"))


@pytest.fixture(scope="module")
def made(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of them, with labels."""
    out = tmp_path_factory.mktemp("made") / "data"
    run(meshes, out, "--labels")
    return out


@pytest.fixture
def make_shape(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Notes which shapes are made during a test, in order."""
    noted = Mock(wraps=from_meshes.make_shape)
    monkeypatch.setattr(from_meshes, "make_shape", noted)
    return noted


# What is written


def test_the_layout_is_that_of_shapenet_render(made):
    assert list_clouds(made) == SHAPES
    for shape in SHAPES:
        folder = made / "ShapeNetRendering" / shape / "rendering"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["00.png", "01.png", "02.png", "rendering_metadata.txt"]
        image = Image.open(folder / "00.png")
        assert image.size == (24, 24) and image.mode == "RGBA"
    assert sorted(p.name for p in made.iterdir()) == [
        *("ShapeNet", "ShapeNetRendering", "from_meshes.json"),
        *("modelnet40_ply_hdf5_2048", "preview.png", "skipped.tsv"),
    ]


def test_training_reads_it_and_verify_finds_it_in_order(made, capsys):
    data = ShapeNetRender(made, num_points=100)
    assert len(data) == 10
    for index in range(len(data)):
        cloud = data.source.cloud(index)
        assert cloud.shape == (100, 3) and cloud.dtype == np.float32
        assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)
        assert np.abs(cloud.mean(axis=0)).max() < 1e-6
    assert data[0, 3][0].shape == (3, 100)
    words = ("--data_root", made, "--any_size", "--workers", "1")
    assert exit_status(verify.main, *words) == 0, capsys.readouterr().out


def test_what_is_left_out_is_listed_with_its_reason(made):
    head, broken, flat = (made / "skipped.tsv").read_text().splitlines()
    assert head == "mesh\treason" and flat == "rod/flat.obj\thas no face with an area"
    assert re.fullmatch(r"ball/broken\.ply\t[^\t]*Not a ply file[^\t]*", broken)


def test_the_contact_sheet_shows_every_class(made):
    sheet = np.array(Image.open(made / "preview.png").convert("RGB")).astype(int)
    reddish = sheet[..., 0] > sheet[..., 2] + 40
    assert 0.02 < reddish.mean() < 0.5


def test_the_last_line_is_the_next_command(meshes, made, tmp_path, capsys):
    out = shutil.copytree(made, tmp_path / "my data")
    run(meshes, out)
    output = capsys.readouterr().out.splitlines()
    assert "10 shapes in 2 classes, 30 images" in output[0]
    assert "left out: 2 meshes" in output[1] and "skipped.tsv" in output[1]
    words = f"--data_root '{out}' --num_points 100 --batch_size 10"
    assert output[-1] == f"next: python train_crosspoint.py {words}"


def test_labels_are_read_as_modelnet40(made):
    train, test = ModelNet40(made, "train"), ModelNet40(made, "test")
    assert train.class_names == test.class_names == ["ball", "rod"]
    assert np.bincount(train.labels).tolist() == [3, 3]
    assert np.bincount(test.labels).tolist() == [2, 2]
    clouds = {cloud.tobytes() for cloud in (*train.points, *test.points)}
    source = ShapeNetRender(made).source
    assert clouds == {source.cloud(i).tobytes() for i in range(10)}
    rods = test.points[test.labels == 1]
    assert (np.ptp(rods[..., 1], axis=1) > 3 * np.ptp(rods[..., 0], axis=1)).all()


def test_the_split_depends_on_names_alone():
    many = [f"a/{n}" for n in range(50)] + [f"b/{n}" for n in range(7)]
    split = split_by_name(many, 0.2, 0)
    assert sorted(split["train"] + split["test"]) == sorted(many)
    assert [sum(s[0] == c for s in split["test"]) for c in "ab"] == [10, 2]
    alone = split_by_name(many[:50], 0.2, 0)
    assert alone["test"] == [shape for shape in split["test"] if shape[0] == "a"]
    assert split_by_name(many, 0.2, 1) != split
    assert len(split_by_name(many, 0.99, 0)["train"]) == 4


# The same bytes


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(meshes, made, tmp_path):
    run(meshes, tmp_path / "data", "--labels", "--workers", "2")
    assert files(tmp_path / "data") == files(made)


KILLED = """
import os, sys
from datasets.prepare import from_meshes

replace, clouds = os.replace, []
def replace_or_die(source, target):
    clouds.append(target) if str(target).endswith(".ply") else None
    os.kill(os.getpid(), 9) if len(clouds) == 4 else replace(source, target)
os.replace = replace_or_die
from_meshes.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(meshes, made, tmp_path, make_shape):
    out = tmp_path / "data"
    words = ("--meshes", str(meshes), "--out", str(out), *SMALL, "--labels")
    # Returns when all who write to the pipes have ended: workers too.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--workers", "2"],
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -9, killed.stderr
    assert len(list_clouds(out)) == 3 and not (out / "preview.png").exists()
    with pytest.raises(DataError, match=r"has not finished writing it; rerun"):
        ShapeNetRender(out)
    run(meshes, out, "--labels")
    assert make_shape.call_count == 9  # of twelve, two of which can't be read
    assert files(out) == files(made)


def test_points_and_cameras_are_functions_of_seed_and_name(meshes, made, tmp_path):
    (tmp_path / "meshes/rod").mkdir(parents=True)
    for name in ("rod1.ply", "rod2.stl"):
        shutil.copy(meshes / "rod" / name, tmp_path / "meshes/rod" / name)
    shutil.copy(meshes / "rod/rod2.stl", tmp_path / "meshes/rod/twin.stl")
    for words in ((), ("--views", "2"), ("--seed", "1")):
        run(tmp_path / "meshes", tmp_path / "data", *words, "--overwrite")
        rod, twin = (tmp_path / f"data/ShapeNet/rod/{n}.ply" for n in ("rod2", "twin"))
        assert rod.read_bytes() != twin.read_bytes()
        old, new = files(made), files(tmp_path / "data")
        for name in ("/rod/rod1.ply", "Rendering/rod/rod2/rendering/01.png"):
            same = old[f"ShapeNet{name}"] == new[f"ShapeNet{name}"]
            assert same == ("--seed" not in words)


def test_only_what_changed_is_made_again(meshes, made, tmp_path, make_shape):
    shutil.copytree(meshes, tmp_path / "meshes")
    shutil.copytree(made, tmp_path / "data")
    (tmp_path / "meshes/rod/rod0.obj").unlink()
    trimesh.creation.box((1, 9, 2)).export(tmp_path / "meshes/rod/rod1.ply")
    trimesh.creation.box((1, 9, 3)).export(tmp_path / "meshes/rod/rod9.ply")
    run(tmp_path / "meshes", tmp_path / "data")
    shapes = [call.args[1] for call in make_shape.call_args_list]
    assert shapes == ["ball/broken", "rod/flat", "rod/rod1", "rod/rod9"]
    run(tmp_path / "meshes", tmp_path / "anew")
    assert files(tmp_path / "data") == files(tmp_path / "anew")


def test_nothing_is_left_to_do(tmp_path, capsys):
    """Of one mesh and a dangling link, which is left out."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/gone.obj").symlink_to("nowhere.obj")
    trimesh.creation.box().export(tmp_path / "in/box.ply")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.from_meshes.json.partial").touch()  # killed at its start
    run(tmp_path / "in", tmp_path / "data")
    assert "gone.obj\t" in (tmp_path / "data/skipped.tsv").read_text()
    first = capsys.readouterr().out
    assert "a single shape cannot be trained on" in first
    run(tmp_path / "in", tmp_path / "data", "--workers", "2")
    assert capsys.readouterr().out == first


# Names


def write_rubbish(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("rubbish")


def test_class_and_name_are_the_path(tmp_path):
    names = ["top.obj", "chair/a.obj", "chair/old/b.STL", "chair/c.obj", "chair/c.ply"]
    write_rubbish(tmp_path / "some", *names, "a b/line\nbreak.ply", ".git/x.obj")
    actual = find_meshes(tmp_path / "some")
    assert list(actual) == [
        *("a b/line_break", "chair/a", "chair/c_obj", "chair/c_ply"),
        *("chair/old__b", "some/top"),
    ]
    assert actual["chair/old__b"] == tmp_path / "some/chair/old/b.STL"


def test_two_files_of_one_name_are_refused(tmp_path):
    write_rubbish(tmp_path, "c/a/b.obj", "c/a__b.obj")
    with pytest.raises(DataError, match=r" and .* both be named c/a__b_obj; rename"):
        find_meshes(tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--views", "0"), "--views"),
        (("--image_size", "0"), "--image_size"),
        (("--num_points", "1"), "--num_points"),
        (("--workers", "0"), "--workers"),
        (("--seed", "-1"), "--seed"),
        (("--test_fraction", "1"), "--test_fraction"),
        (("--meshes", "absent"), "--meshes absent: no such folder"),
        (("--meshes", "empty"), "empty: holds no mesh (.obj, .ply"),
        (("--meshes", "bad"), "none of its 1 meshes can be used, for example bad.ply"),
        (("--out", "bad/data"), "--out bad/data is inside --meshes"),
        (("--out", "full"), "full: holds something that this command did not write"),
        (("--out", "full", "--overwrite"), "which it never replaces; choose another"),
        (("--labels", "--meshes", "few"), "at least 4 shapes a class"),
        (("--labels", "--meshes", "few"), ": a has 3, b has 1; add some"),
        (("--labels", "--meshes", "one"), "at least two classes, found only one"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    few = ["few/a/1.obj", "few/a/2.obj", "few/a/3.obj", "few/b/1.obj"]
    one = [f"one/{n}.obj" for n in range(4)]
    write_rubbish(tmp_path, "bad/bad.ply", "full/mine.txt", *few, *one)
    run(Path("bad"), Path("out"), *words, status=2)
    assert text in capsys.readouterr().err
    assert Path("full/mine.txt").read_text() == "rubbish"


def test_classes_too_small_after_reading_are_named(meshes, tmp_path, capsys):
    shutil.copytree(meshes, tmp_path / "meshes")
    for name in ("rod0.obj", "rod3.off"):
        (tmp_path / "meshes/rod" / name).unlink()
    run(tmp_path / "meshes", tmp_path / "data", "--labels", status=2)
    assert "rod has 3; add some" in capsys.readouterr().err
    assert len(list_clouds(tmp_path / "data")) == 8


def test_other_settings_need_overwrite(meshes, made, tmp_path, capsys):
    out = shutil.copytree(made, tmp_path / "data")
    run(meshes, out, "--seed", "1", status=2)
    message = capsys.readouterr().err
    assert "was written with seed 0, not 1" in message and "--overwrite" in message
    assert files(out) == files(made)
    run(meshes, out, "--views", "2", "--overwrite")
    assert json.loads((out / "from_meshes.json").read_text())["views"] == 2
    assert ShapeNetRender(out).source.image_counts.tolist() == [2] * 10
    assert not (out / "modelnet40_ply_hdf5_2048").exists()


def test_an_interruption_says_how_to_go_on(meshes, tmp_path, monkeypatch, capsys):
    interrupted = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(from_meshes, "make_shape", interrupted)
    run(meshes, tmp_path / "data", status=130)
    assert "the same command resumes" in capsys.readouterr().err
