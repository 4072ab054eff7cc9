"""Meshes in files: reading them with trimesh, and points on their surface.

Scenes are flattened: every part is moved to where the scene places it. The vertical
axis and the units are the file's.
"""

import logging
import os
from collections.abc import Sequence

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import SimpleMaterial, color_image

from datasets.files import DataError, refuse

SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
GREY = (204, 204, 204)  # of what has no colour
LARGEST_TEXTURE = 512  # pixels along a side: more would only alias

# It logs a traceback for every missing texture; the mesh is read without it.
logging.getLogger("trimesh").setLevel(logging.CRITICAL)


def _texture(image: Image.Image | None) -> Image.Image | None:
    """As RGB and not too large; None if there is none or it is damaged."""
    try:
        image = image and image.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # Pillow's
        return None
    if image is not None:
        image.thumbnail((LARGEST_TEXTURE, LARGEST_TEXTURE))
    return image


def _simplify_material(visual: trimesh.visual.TextureVisuals) -> None:
    """Keep a colour, and a texture whose texels are multiplied by it.

    With a texture the colour is glTF's factor, and white for other formats: files of
    textured meshes have black or any colour there.
    """
    material = visual.material
    texture = getattr(material, "baseColorTexture", None)
    texture = texture or getattr(material, "image", None)
    image, colour = _texture(texture), material.main_color
    if texture == color_image():  # trimesh has it where the material is missing
        image, colour = None, GREY
    elif image is not None and visual.uv is not None:
        factor = getattr(material, "baseColorFactor", None)
        colour = (255, 255, 255) if factor is None else factor
    else:
        image = None
    visual.material = SimpleMaterial(image=image, diffuse=colour)


def load_parts(path: str | os.PathLike) -> list[trimesh.Trimesh]:
    """The meshes in a file, with their colours and textures.

    ``part.visual`` has `vertex_colors`, `face_colors`, or a `material` with a colour,
    ``diffuse``, and perhaps a texture, ``image``, that is multiplied by it.

    Faces without area are left out, and so are vertices that no other face uses: a
    stray vertex far away does not count for the size of the shape.

    Raises:
        DataError: if the file is missing, empty or damaged, if a vertex is not finite,
            or if no face has an area.
    """
    try:
        if os.path.getsize(path) == 0:
            refuse(path, "the file is empty")
        # process=False: it would remove vertices that are not finite.
        scene = trimesh.load_scene(os.fspath(path), process=False)
        for geometry in scene.geometry.values():
            if isinstance(visual := geometry.visual, trimesh.visual.TextureVisuals):
                _simplify_material(visual)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    except DataError:
        raise
    except Exception as error:  # the loaders raise whatever the damage leads to
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        refuse(path, f"not a readable mesh ({' '.join(reason.split())})")
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        refuse(path, "has no faces")
    for part in parts:
        with np.errstate(over="ignore"):  # clouds are float32
            finite = np.isfinite(part.vertices.astype(np.float32)).all()
        if not finite:
            refuse(path, "has a vertex with a non-finite coordinate")
        if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
            refuse(path, "has a face with a vertex index that is out of range")
        part.update_faces(part.area_faces > 0)
        part.remove_unreferenced_vertices()
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        refuse(path, "has no face with an area")
    return parts


def join(parts: Sequence[trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3) of all parts."""
    vertices, faces = [part.vertices for part in parts], [part.faces for part in parts]
    return trimesh.util.append_faces(vertices, faces)


def load_mesh(path: str | os.PathLike) -> trimesh.Trimesh:
    """All parts of a file as one mesh, vertices and faces alone.

    Raises:
        DataError: as `load_parts`.
    """
    return trimesh.Trimesh(*join(load_parts(path)), process=False)


def sample_points(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Points uniform by area on a mesh: (count, 3) float32, in the mesh's units.

    One far from the origin should be centred first, as float32 has seven digits.
    """
    points, _ = trimesh.sample.sample_surface(mesh, count, seed=rng)
    return np.asarray(points, np.float32)
