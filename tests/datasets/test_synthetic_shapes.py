"""Procedural shapes, their scans and the renderer."""

import numpy as np
import pytest
import trimesh

from datasets import PARTS_PER_CATEGORY
from datasets.labelled import VARIANTS
from datasets.shapenet_part import CATEGORIES, FIRST_PART
from datasets.synthetic.render import camera, project, render, scan, unproject
from datasets.synthetic.shapes import Shape, make_shape

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
