from __future__ import annotations

import os

import numpy as np
import pytest
import trimesh

from datasets.files import DataError
from datasets.prepare.meshes import SUFFIXES, load_mesh, load_parts, sample_points
from utils.parallel.seed import SHAPE, generator

CORNERS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
FAR = "v 1e6 0 0\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format(tmp_path, suffix):
    box = trimesh.creation.box((1, 2, 3))
    box.apply_translation((5, 0, 0))
    box.export(tmp_path / f"box{suffix}")
    mesh = load_mesh(tmp_path / f"box{suffix}")
    assert len(mesh.faces) == 12 and mesh.area == pytest.approx(22)
    np.testing.assert_allclose(mesh.bounds, [[4.5, -1, -1.5], [5.5, 1, 1.5]], atol=1e-6)


def test_a_scene_is_flattened_where_its_parts_are(tmp_path):
    scene, moved = trimesh.Scene(), trimesh.transformations
    box = trimesh.creation.box((1, 1, 1))
    scene.add_geometry(box, transform=moved.translation_matrix((4, 0, 0)))
    turn = moved.rotation_matrix(np.pi / 4, (0, 0, 1))
    scene.add_geometry(trimesh.creation.box((2, 2, 2)), transform=turn)
    scene.export(tmp_path / "scene.glb")
    assert len(load_parts(tmp_path / "scene.glb")) == 2
    mesh, half = load_mesh(tmp_path / "scene.glb"), np.sqrt(2)
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.bounds, [[-half, -half, -1], [4.5, half, 1]], 1e-6)


@pytest.mark.parametrize(
    "faces",
    ["f 1 2 3\nf 1 3 4\n", "f 1 2 3 4\n", "f 1 2 3\nf 1 3 4\nf 1 1 5\nf 5 5 5\n"],
    ids=["triangles", "quad", "degenerate"],
)
def test_stray_vertices_do_not_count(tmp_path, faces):
    (tmp_path / "square.obj").write_text(CORNERS + FAR + faces)
    mesh = load_mesh(tmp_path / "square.obj")
    assert len(mesh.faces) == 2 and mesh.area == pytest.approx(1)
    assert mesh.bounds.tolist() == [[0, 0, 0], [1, 1, 0]] and len(mesh.vertices) == 4


@pytest.mark.parametrize("stem", ["hole", "no_normals"])
def test_open_meshes_are_read(tmp_path, stem):
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.update_faces(ball.triangles_center[:, 1] < 0.8)
    ball.export(tmp_path / f"{stem}.obj", include_normals=stem == "hole")
    assert load_mesh(tmp_path / f"{stem}.obj").area == pytest.approx(ball.area, 1e-4)


PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
PLY += "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
PLY += "end_header\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.obj", "", "the file is empty"),
        ("a.obj", "no mesh at all", "has no faces"),
        ("a.obj", CORNERS, "has no faces"),
        ("a.obj", CORNERS + "l 1 2\n", "has no faces"),
        ("a.obj", CORNERS + "f 1 2 9\n", "not a readable mesh (IndexError"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "has no face with an area"),
        ("a.obj", CORNERS.replace("1 1 0", "1 nan 0") + "f 1 2 3\n", "non-finite"),
        ("a.obj", CORNERS.replace("1 1 0", "1 1e99 0") + "f 1 2 3\n", "non-finite"),
        ("a.ply", "rubbish", "not a readable mesh (ValueError: Not a ply file!)"),
        ("a.ply", PLY + "3 0 1 -2\n", "names a vertex which doesn't exist"),
        ("a.stl", "rubbish", "has no faces"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "not a readable mesh"),
        ("a.glb", "rubbish", "not a readable mesh"),
        ("a.gltf", "rubbish", "not a readable mesh"),
        ("a.gltf", "{}", "has no faces"),
        ("a.xyz", "0 0 0\n1 0 0\n", "has no faces"),
        ("absent.obj", None, "No such file"),
    ],
)
def test_what_is_refused_and_why(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as error:
        load_mesh(tmp_path / name)
    assert problem in error.value.problem
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", sorted({*SUFFIXES} - {".gltf"}))
def test_half_a_file_is_no_crash(tmp_path, suffix):
    path = tmp_path / f"ball{suffix}"
    trimesh.creation.icosphere().export(path)
    os.truncate(path, path.stat().st_size // 2)
    try:
        assert len(load_mesh(path).faces) < 1280  # half a text file may be a mesh
    except DataError as error:
        assert "\n" not in str(error)


def test_points_are_uniform_by_area_and_follow_their_generator():
    big, small = trimesh.creation.box((3, 3, 3)), trimesh.creation.box((1, 1, 1))
    small.apply_translation((10, 0, 0))
    both = trimesh.util.concatenate([big, small])
    points = sample_points(both, 20_000, generator(SHAPE, 1))
    assert points.shape == (20_000, 3) and points.dtype == np.float32
    assert (points[:, 0] > 5).mean() == pytest.approx(0.1, abs=0.01)
    flat = np.abs(points[points[:, 0] < 5]).max(axis=1)
    np.testing.assert_allclose(flat, 1.5, atol=1e-6)  # on the surface
    again = sample_points(both, 20_000, generator(SHAPE, 1))
    assert np.array_equal(points, again)
    assert not np.array_equal(points, sample_points(both, 20_000, generator(SHAPE, 2)))
