"""A mesh's cloud and images, and a contact sheet of the images of many meshes.

Cameras are those of 3D-R2N2's and of DISN's renderings.

Both look at the centre of the bounding box, whose diagonal is 1, through a lens of
35 mm on a sensor of 32 mm, from 1.75 times the distance that `rendering_metadata.txt`
gives (Choy et al., ECCV 2016; Xu et al., NeurIPS 2019).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image, ImageDraw, ImageFont

from datasets.files import DataError
from datasets.prepare.meshes import GREY, join, load_parts, sample_points
from datasets.prepare.render import Surface, render
from datasets.shapenet_files import list_images, rendering
from utils.parallel.seed import SHAPE, generator

CAMERAS = {"r2n2": 24, "disn": 36}  # and how many views they are published with
FOCAL = 35 / 16
FIELD_OF_VIEW = 2 * np.degrees(np.arctan(1 / FOCAL))
FARTHEST = 1.75
METADATA = "rendering_metadata.txt"
SHAPES, VIEWS, CELL, CAPTION = 12, 6, 137, 18  # of the contact sheet


def draw_cameras(kind: str, views: int, rng: np.random.Generator) -> np.ndarray:
    """Azimuth and elevation in degrees, distance: (views, 3), of six decimals.

    ``r2n2``: azimuth U[0, 360), elevation U[25, 30), distance U[0.65, 0.95). ``disn``:
    azimuth in steps of 360 / views, plus or minus half a step, elevation U[20, 30),
    distance U[0.65, 1).
    """
    random = rng.random((views, 3))
    if kind == "r2n2":
        azimuth, low, high = 360 * random[:, 0], (25, 0.65), (30, 0.95)
    else:
        steps = np.arange(views) + random[:, 0] - 0.5
        azimuth, low, high = 360 / views * steps % 360, (20, 0.65), (30, 1.0)
    rest = np.array(low) + (np.array(high) - low) * random[:, 1:]
    return np.round(np.column_stack([azimuth, rest]), 6)


def camera_axes(azimuth: float, elevation: float) -> np.ndarray:
    """Rotation (3, 3) from the shape's axes to the camera's (right, up, backwards).

    y is up. Azimuth 0 looks from +x, azimuth 90 from +z, as 3D-R2N2 does.
    """
    a, e = np.radians([azimuth, elevation])
    right = np.array([np.sin(a), 0, -np.cos(a)])
    backwards = np.array([np.cos(e) * np.cos(a), np.sin(e), np.cos(e) * np.sin(a)])
    return np.stack([right, np.cross(backwards, right), backwards])


def surface_of(parts: Sequence[trimesh.Trimesh], up: str) -> Surface:
    """The parts of a shape as one, their bounding box centred, with a diagonal of 1.

    A textured part has its texture, times glTF's factor if there is one; others have
    the colours of their vertices, faces or material. Transparency is ignored. `up` is
    their vertical axis, "y" or "z"; afterwards it is y.
    """
    vertices, faces = join(parts)
    if up == "z":
        vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / np.linalg.norm(high - low)
    corners = []  # of each part: colours, texture coordinates, which texture
    images: list[np.ndarray] = []
    for part in parts:
        visual: Any = part.visual
        count = len(part.faces)
        colour = np.full((count, 3, 3), np.array(GREY) / 255)
        uv, texture = np.zeros((count, 3, 2)), -1
        if visual.kind == "vertex":
            colour = visual.vertex_colors[part.faces][..., :3] / 255
        elif visual.kind == "face":
            colour[:] = visual.face_colors[:, None, :3] / 255
        elif visual.kind == "texture":
            material = visual.material
            colour[:] = material.diffuse[:3] / 255
            if material.image is not None:
                uv, texture = np.nan_to_num(visual.uv)[part.faces], len(images)
                images.append(np.asarray(material.image))
        corners.append((colour, uv, np.full(count, texture)))
    colours, uvs, textures = map(np.concatenate, zip(*corners, strict=True))
    return Surface(vertices, faces, colours, uvs, textures, tuple(images))


def write_views(folder: Path, surface: Surface, cameras: np.ndarray, size: int) -> None:
    """Write metadata, and an image for each of the cameras (views, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(len(str(len(cameras) - 1)), 2)
    lines = ""
    for view, (azimuth, elevation, distance) in enumerate(cameras):
        axes = camera_axes(azimuth, elevation)
        image = render(surface, axes, FARTHEST * distance, FOCAL, size)
        Image.fromarray(image).save(folder / f"{view:0{digits}}.png", compress_level=3)
        lines += f"{azimuth:.6f} {elevation:.6f} 0 {distance:.6f} {FIELD_OF_VIEW:.6f}\n"
    (folder / METADATA).write_text(lines)


@dataclass(frozen=True)
class Settings:
    """What a shape's files depend on besides its mesh and name."""

    seed: int
    views: int
    image_size: int
    num_points: int
    camera: str
    up: str


def make_shape(
    path: Path, shape: str, data_root: Path, settings: Settings
) -> np.ndarray | str:
    """Write the images of the mesh in `path`; this is what a worker process runs.

    The cloud and the cameras are functions of the seed and of `shape`, which is
    "<class>/<name>", alone.

    Returns:
        The cloud (num_points, 3) float32, not yet normalised; or why it has none.
    """
    try:
        surface = surface_of(load_parts(path), settings.up)
    except DataError as error:
        return error.problem
    except Exception as error:  # colours or textures that do not fit the mesh
        return f"not a usable mesh ({type(error).__name__}: {error})"
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    digest = hashlib.sha256(shape.encode()).digest()[:8]
    key = settings.seed, int.from_bytes(digest, "little") >> 1  # below 2**63
    points = sample_points(mesh, settings.num_points, generator(SHAPE, *key, 0))
    rng = generator(SHAPE, *key, 1)
    cameras = draw_cameras(settings.camera, settings.views, rng)
    write_views(rendering(data_root, shape), surface, cameras, settings.image_size)
    return points


def contact_sheet(path: Path, data_root: Path, shapes: Sequence[str]) -> None:
    """Write a PNG: some of the shapes, two in a row, with their first views."""
    classes: dict[str, list[str]] = {}
    for shape in shapes:
        classes.setdefault(shape.split("/")[0], []).append(shape)
    # The first shape of every class, then the second, and so on.
    turns = [s for row in zip_longest(*classes.values()) for s in row if s is not None]
    chosen = sorted(turns[:SHAPES])
    width, height = VIEWS * CELL, CELL + CAPTION
    rows = (len(chosen) + 1) // 2
    sheet = Image.new("RGB", (2 * width + 8, rows * height), (246, 246, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, shape in enumerate(chosen):
        left, top = number % 2 * (width + 8), number // 2 * height
        draw.text((left + 4, top + 1), shape[:100], fill=(20, 20, 20), font=font)
        for view, name in enumerate(list_images(data_root, shape)[:VIEWS]):
            image = Image.open(rendering(data_root, shape) / name).convert("RGBA")
            cell = image.resize((CELL, CELL))
            sheet.paste(cell, (left + view * CELL, top + CAPTION), cell)
    sheet.save(path)
