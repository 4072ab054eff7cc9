"""Meshes: reading them, and where and in which colours their images show them."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from datasets.files import DataError
from datasets.prepare.meshes import GREY, load_mesh, load_parts
from datasets.prepare.render import Surface, render
from datasets.prepare.views import (
    CAMERAS,
    FOCAL,
    METADATA,
    Settings,
    camera_axes,
    draw_cameras,
    make_shape,
    surface_of,
)

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


TRIANGLE = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
)
TRIANGLE += "property float z\nelement face 1\nproperty list uchar int vertex_indices\n"
TRIANGLE += "end_header\n0 0 0\n1 0 0\n0 1 0\n"


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
        ("a.ply", TRIANGLE + "3 0 1 -2\n", "a vertex index that is out of range"),
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


# Images

RED, GREEN, BLUE = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)
SIZE = 137


def look(surface: Surface, azimuth=90.0, elevation=0.0, distance=1.4) -> np.ndarray:
    """An image, as floats; azimuth 90 looks from +z with +x on the right."""
    axes = camera_axes(azimuth, elevation)
    return render(surface, axes, distance, FOCAL, SIZE) / 255


def square(colours=None, uv=None, textures=(), flip=False) -> Surface:
    """Two triangles in the plane z = 0, corners from the lower left anticlockwise."""
    corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * 0.3
    faces = np.array([(0, 1, 2), (0, 2, 3)])
    if flip:
        faces = faces[:, ::-1]
    colours = np.ones((4, 3)) if colours is None else np.array(colours, float)
    uv = np.zeros((4, 2)) if uv is None else np.array(uv, float)
    which = np.full(2, 0 if textures else -1)
    return Surface(corners, faces, colours[faces], uv[faces], which, textures)


# Cameras


def r2n2_pixel(point, azimuth, elevation, distance, field_of_view) -> np.ndarray:
    """Where 3D-R2N2's camera sees a point, from its matrices: pixel x, pixel y."""
    a, e = np.radians([-azimuth, -elevation])
    (ca, sa), (ce, se) = (np.cos(a), np.sin(a)), (np.cos(e), np.sin(e))
    world_to_object = np.array([(ca * ce, -sa, ca * se), (sa * ce, ca, sa * se)])
    world_to_object = np.array([*world_to_object, (-se, 0, ce)]).T
    blender = np.array([point[0], -point[2], point[1]])  # there, z is up
    depth, right, up = world_to_object @ blender - (1.75 * distance, 0, 0)
    focal = SIZE / 2 / np.tan(np.radians(field_of_view / 2))
    return SIZE / 2 + focal * np.array([right, -up]) / -depth


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_known_point_is_where_the_named_camera_sees_it(tmp_path, camera):
    """A red speck among grey ones that fix the bounding box, read back from files."""
    spots = np.array([(1, -1, -1), (-1, 1, 1), (0.7, 0.4, -0.9)])
    specks = [trimesh.creation.icosphere(radius=0.03) for _ in spots]
    for speck, spot, colour in zip(specks, spots, (GREY, GREY, RED), strict=True):
        speck.apply_translation(spot)
        speck.visual.face_colors = colour
    trimesh.util.concatenate(specks).export(tmp_path / "specks.ply")
    settings = Settings(0, 6, SIZE, 16, camera, "y")
    make_shape(tmp_path / "specks.ply", "a/b", tmp_path, settings)
    folder = tmp_path / "ShapeNetRendering/a/b/rendering"
    rows = np.loadtxt(folder / METADATA)
    assert rows.shape == (6, 5) and (rows[:, 2] == 0).all()
    assert rows[:, 4] == pytest.approx(2 * np.degrees(np.arctan(16 / 35)))
    diagonal = np.linalg.norm(np.full(3, 2.06))
    for view, (azimuth, elevation, _, distance, field) in enumerate(rows):
        image = np.array(Image.open(folder / f"{view:02}.png")).astype(int)
        y, x = np.nonzero(image[..., 0] > image[..., 1] + 60)
        expected = r2n2_pixel(spots[2] / diagonal, azimuth, elevation, distance, field)
        assert np.allclose((x.mean() + 0.5, y.mean() + 0.5), expected, atol=0.5)


def test_cameras_are_drawn_from_the_published_ranges():
    rng = np.random.default_rng(0)
    azimuth, elevation, distance = draw_cameras("r2n2", 4000, rng).T
    ranges = ((azimuth, 0, 360), (elevation, 25, 30), (distance, 0.65, 0.95))
    for values, low, high in ranges:
        assert low <= values.min() and values.max() < high
        assert np.ptp(values) > 0.99 * (high - low)
    azimuth, elevation, distance = draw_cameras("disn", 36, rng).T
    steps = (azimuth - 10 * np.arange(36) + 180) % 360 - 180
    assert np.abs(steps).max() <= 5 and np.ptp(steps) > 8
    assert elevation.min() >= 20 and elevation.max() < 30
    assert distance.min() >= 0.65 and distance.max() < 1


# Coverage and colours


@pytest.mark.parametrize("distance", [1.2, 1.6])
def test_a_ball_covers_the_disc_that_it_should(distance):
    ball = trimesh.creation.icosphere(subdivisions=4)
    image = look(surface_of([ball], "y"), 30, 27, distance)
    radius = 1 / np.sqrt(12)  # of a ball in a box whose diagonal is 1
    disc = np.pi * (FOCAL / 2 * radius) ** 2 / (distance**2 - radius**2)
    assert image[..., 3].mean() == pytest.approx(disc, rel=0.01)
    assert set(np.unique(image[..., 3])) <= {0, *(np.array([64, 128, 191, 255]) / 255)}
    assert (image[image[..., 3] == 0] == 0).all()  # black where there is nothing
    rim = image[(image[..., 3] > 0) & (image[..., 3] < 1)]
    assert rim[:, :3].min() > 0.3  # not darkened: colours are of the covered part


def test_a_hole_is_seen_through_and_its_inside_is_lit():
    box = trimesh.creation.box()
    box.update_faces(~(box.face_normals[:, 2] > 0.9))  # without its front
    image = look(surface_of([box], "y"))
    assert image[68, 68, 3] == 1 and image[68, 68, 0] > 0.5  # the back, from inside
    box.update_faces(~(box.face_normals[:, 2] < -0.9))
    assert look(surface_of([box], "y"))[68, 68, 3] == 0


def test_winding_changes_nothing():
    assert np.array_equal(look(square()), look(square(flip=True)))
    assert look(square())[68, 68, 0] > 0.7


def test_the_nearer_face_hides_the_other():
    one = square()
    corners = np.concatenate([one.vertices - (0, 0, z) for z in (-0.2, 0.2)])
    faces = np.concatenate([one.faces, one.faces + 4])
    colours = np.repeat([RED, GREEN], 2, axis=0)
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        image = look(Surface.plain(corners, faces[order], colours[order]))
        assert image[68, 68, 0] > 0.5 and image[68, 68, 1] == 0


def test_textures_lie_as_their_coordinates_say():
    texture = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]])
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    image = look(square(uv=corners, textures=(texture.astype(np.uint8),)))
    # Rows from the top: red and green above blue and white.
    seen = [image[y, x, :3] > 0.4 for y, x in ((50, 50), (50, 90), (90, 50), (90, 90))]
    assert np.array_equal(seen, texture.reshape(4, 3) > 0)
    repeated = np.array(corners) * 2 - 7
    image = look(square(uv=repeated, textures=(texture.astype(np.uint8),)))
    assert [(image[90, x, 0] > 0.4) for x in (37, 55, 75, 95)] == [False, True] * 2


def test_colours_are_interpolated_in_space_not_on_the_screen():
    flat = square([(0, 1, 0), (1, 0, 0), (1, 0, 0), (0, 1, 0)])
    for share in (0.25, 0.5, 0.75):
        point = np.array([0.6 * share - 0.3, 0, 0])
        axes = camera_axes(145, 0)
        x, _, z = axes @ point
        column = int(SIZE / 2 * (1 + FOCAL * x / (1.4 - z)))
        red, green, *_ = render(flat, axes, 1.4, FOCAL, SIZE)[68, column].astype(float)
        assert red / (red + green) == pytest.approx(share, abs=0.03)


def hue(path, azimuth=90.0) -> str:
    """The colour seen in the middle: which channels are bright."""
    pixel = look(surface_of(load_parts(path), "y"), azimuth)[68, 68]
    assert pixel[3] == 1
    return "".join(c for c, v in zip("RGB", pixel, strict=False) if v > 0.35)


def test_colours_of_every_kind_of_file(tmp_path):
    board = trimesh.creation.box((1, 1, 0.1))
    board.visual.vertex_colors = (0, 255, 0, 255)
    for suffix in (".ply", ".obj", ".glb"):
        board.export(tmp_path / f"vertex{suffix}")
        assert hue(tmp_path / f"vertex{suffix}") == "G"
    board.visual.face_colors = (0, 0, 255, 255)
    board.export(tmp_path / "face.ply")
    assert hue(tmp_path / "face.ply") == "B"
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=(255, 0, 0, 255))
    board.visual = trimesh.visual.TextureVisuals(material=material)
    board.export(tmp_path / "factor.glb")
    assert hue(tmp_path / "factor.glb") == "R"
    for suffix in (".stl", ".off"):
        board.export(tmp_path / f"grey{suffix}")
        assert hue(tmp_path / f"grey{suffix}") == "RGB"


QUAD = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0.5 0.5\n"
TEXTURED = "mtllib a.mtl\n" + QUAD + "usemtl m\nf 1/1 2/1 3/1\nf 1/1 3/1 4/1\n"
PLAIN = TEXTURED.replace("/1", "")


@pytest.mark.parametrize(
    ("mesh", "material", "colour"),
    [
        (PLAIN, "Kd 1 0 0", "R"),
        (TEXTURED, "Kd 0 0 0\nmap_Kd yellow.png", "RG"),  # the texture alone counts
        (TEXTURED, "Kd 0 0 1\nmap_Kd missing.png", "B"),
        (TEXTURED, "Kd 0 0 1\nmap_Kd broken.png", "B"),
        (PLAIN, "Kd 0 0 1\nmap_Kd yellow.png", "B"),  # no texture coordinates
        (TEXTURED, None, "RGB"),
        (PLAIN, None, "RGB"),
    ],
)
def test_materials_and_textures_of_obj(tmp_path, mesh, material, colour):
    (tmp_path / "a.obj").write_text(mesh)
    Image.new("RGB", (1200, 40), (255, 255, 0)).save(tmp_path / "yellow.png")
    content = (tmp_path / "yellow.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(content[: len(content) // 2])
    if material is not None:
        (tmp_path / "a.mtl").write_text(f"newmtl m\n{material}\n")
    assert hue(tmp_path / "a.obj") == colour


PLY = "ply\nformat ascii 1.0\ncomment TextureFile board.png\nelement vertex 4\n"
PLY += "".join(f"property float {name}\n" for name in ("x", "y", "z", "s", "t"))
PLY += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
PLY += "-1 -1 0 0 0\n1 -1 0 1 0\n1 1 0 1 1\n-1 1 0 0 1\n3 0 1 2\n3 0 2 3\n"


@pytest.mark.parametrize("suffix", [".ply", ".glb", ".gltf"])
def test_textures_of_other_formats(tmp_path, suffix):
    texture = Image.fromarray(np.array([[RED, GREEN]], np.uint8) * 255)
    texture.save(tmp_path / "board.png")
    (tmp_path / "board.ply").write_text(PLY)
    if suffix != ".ply":
        board = trimesh.Trimesh(square().vertices, square().faces, process=False)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=texture)
        corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
        board.visual = trimesh.visual.TextureVisuals(uv=corners, material=material)
        board.export(tmp_path / f"board{suffix}")
    image = look(surface_of(load_parts(tmp_path / f"board{suffix}"), "y"))
    assert image[68, 50, 0] > 0.5 > image[68, 50, 1]
    assert image[68, 90, 1] > 0.5 > image[68, 90, 0]


def test_up_is_y_afterwards():
    tall = trimesh.creation.box((1, 2, 8))
    for up, axis in (("z", 1), ("y", 2)):
        surface = surface_of([tall], up)
        extent = np.ptp(surface.vertices, axis=0)
        assert extent.argmax() == axis
        assert np.linalg.norm(extent) == pytest.approx(1)
    # Turned, not mirrored: x stays, the old z is up, the old y points backwards.
    axes = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    faces = [(0, 1, 2), (0, 2, 3)]
    marked = trimesh.Trimesh(axes, faces, process=False)
    origin, *turned = surface_of([marked], "z").vertices * np.sqrt(3)
    assert np.allclose(turned - origin, [(1, 0, 0), (0, 0, -1), (0, 1, 0)])
