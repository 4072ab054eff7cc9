"""A mesh's cloud and images, with the cameras of 3D-R2N2's and of DISN's renderings.

Both look at the centre of the bounding box, whose diagonal is 1, through a lens of
35 mm on a sensor of 32 mm, from 1.75 times the distance that `rendering_metadata.txt`
gives (Choy et al., ECCV 2016; Xu et al., NeurIPS 2019).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from datasets.files import DataError
from datasets.prepare.meshes import GREY, load_parts, sample_points
from datasets.prepare.render import Surface, render
from datasets.shapenet_files import rendering
from utils.parallel.seed import SHAPE, generator

CAMERAS = {"r2n2": 24, "disn": 36}  # and how many views they are published with
FOCAL = 35 / 16
FIELD_OF_VIEW = 2 * np.degrees(np.arctan(1 / FOCAL))
FARTHEST = 1.75
METADATA = "rendering_metadata.txt"


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
    vertices = np.concatenate([part.vertices for part in parts])
    if up == "z":
        vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / np.linalg.norm(high - low)
    colours, uvs, textures = [], [], []
    images: list[np.ndarray] = []
    for part in parts:
        visual: Any = part.visual
        faces = np.asarray(part.faces)
        colour = np.full((len(faces), 3, 3), np.array(GREY) / 255)
        uv, texture = np.zeros((len(faces), 3, 2)), -1
        if visual.kind == "vertex":
            colour = visual.vertex_colors[faces][..., :3] / 255
        elif visual.kind == "face":
            colour[:] = visual.face_colors[:, None, :3] / 255
        elif visual.kind == "texture":
            material = visual.material
            colour[:] = material.diffuse[:3] / 255
            if material.image is not None:
                uv, texture = np.nan_to_num(visual.uv)[faces], len(images)
                images.append(np.asarray(material.image))
        colours.append(colour)
        uvs.append(uv)
        textures.append(np.full(len(faces), texture))
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    moved = [part.faces + start for part, start in zip(parts, first, strict=False)]
    return Surface(
        vertices,
        np.concatenate(moved),
        np.concatenate(colours),
        np.concatenate(uvs),
        np.concatenate(textures),
        tuple(images),
    )


def write_views(folder: Path, surface: Surface, cameras: np.ndarray, size: int) -> None:
    """Write the images, of size x size pixels, and their metadata.

    The surface is one of `surface_of`, the cameras (views, 3) of `draw_cameras`.
    """
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


def digest(shape: str) -> int:
    """A number in [0, 2**63) for a shape's name."""
    return int.from_bytes(hashlib.sha256(shape.encode()).digest()[:8], "little") >> 1


def make_shape(
    path: Path, shape: str, data_root: Path, settings: Settings
) -> np.ndarray | str:
    """Write a shape's images; this is what a worker process runs.

    Args:
        path: the mesh.
        shape: "<class>/<name>"; the cloud and the cameras are functions of the seed and
            of it alone.
        data_root: where `ShapeNetRendering` is.
        settings: of all shapes.

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
    key = settings.seed, digest(shape)
    points = sample_points(mesh, settings.num_points, generator(SHAPE, *key, 0))
    rng = generator(SHAPE, *key, 1)
    cameras = draw_cameras(settings.camera, settings.views, rng)
    folder = Path(rendering(data_root, shape))
    write_views(folder, surface, cameras, settings.image_size)
    return points
