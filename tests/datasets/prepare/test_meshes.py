from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datasets.files import DataError
from datasets.prepare.meshes import load_mesh, load_parts

CORNERS = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
FAR = "v 1e6 0 0\n"


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
        ("a.ply", PLY + "3 0 1 -2\n", "a vertex index that is out of range"),
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
