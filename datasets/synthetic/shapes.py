"""The 16 ShapeNetPart categories as procedural shapes with true part labels.

``make_shape`` draws one shape of a category; proportions are continuous, parts such as
a chair's arms come and go. The vertical axis is y and every shape stands upright in its
category's one canonical orientation. Shapes are scaled as ShapeNet scales them:
centred, with a bounding-box diagonal of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh

from datasets.shapenet_part import CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY
from datasets.synthetic import aircraft, furniture, objects, tools, vehicles
from datasets.synthetic.parts import Builder

__all__ = [
    "CATEGORIES",
    "FIRST_PART",
    "OPTIONAL_PARTS",
    "PARTS_PER_CATEGORY",
    "SYNSETS",
    "Shape",
    "make_shape",
    "sample_surface",
]

# WordNet synset of each category, by which ShapeNet names its folders.
SYNSETS = (
    "02691156",
    "02773838",
    "02954340",
    "02958343",
    "03001627",
    "03261776",
    "03467517",
    "03624134",
    "03636649",
    "03642806",
    "03790512",
    "03797390",
    "03948459",
    "04099429",
    "04225987",
    "04379243",
)

_MAKERS = (
    aircraft.airplane,
    objects.bag,
    objects.cap,
    vehicles.car,
    furniture.chair,
    objects.earphone,
    tools.guitar,
    tools.knife,
    furniture.lamp,
    furniture.laptop,
    vehicles.motorbike,
    objects.mug,
    tools.pistol,
    aircraft.rocket,
    vehicles.skateboard,
    furniture.table,
)

# Parts, counted within the category, that a shape may lack.
OPTIONAL_PARTS = {
    "airplane": {3},
    "chair": {3},
    "earphone": {1, 2},
    "lamp": {0},
    "table": {2},
}


@dataclass(frozen=True)
class Shape:
    """A coloured triangle mesh whose faces know their part.

    Attributes:
        category: 0..15, an index of ``CATEGORIES``.
        vertices: (V,3) f8.
        faces: (F,3) vertex indices.
        face_part: (F,) global part ids, 0..49.
        face_colour: (F,3) RGB in [0,1].
    """

    category: int
    vertices: np.ndarray
    faces: np.ndarray
    face_part: np.ndarray
    face_colour: np.ndarray

    def in_unit_sphere(self) -> np.ndarray:
        """The vertices (V,3) centred on the bounding box and scaled to radius 1."""
        centred = self.vertices - (self.vertices.max(0) + self.vertices.min(0)) / 2
        return centred / np.sqrt((centred**2).sum(axis=1)).max()


def make_shape(category: int, rng: np.random.Generator) -> Shape:
    """Draw one shape of a category; all its randomness comes from ``rng``.

    Raises:
        ValueError: if the category is not 0..15.
    """
    if not 0 <= category < len(CATEGORIES):
        raise ValueError(f"category must be 0..{len(CATEGORIES) - 1}, got {category}")
    builder = Builder(rng, PARTS_PER_CATEGORY[category])
    _MAKERS[category](builder)
    # Unequal scaling along the axes, so that no category is told by one ratio alone.
    vertices, faces, part, colour = builder.finish()
    vertices = vertices * rng.uniform(0.88, 1.12, 3)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / np.sqrt(((high - low) ** 2).sum())
    return Shape(category, vertices, faces, part + FIRST_PART[category], colour)


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points drawn uniformly by area: (count,3) f8 and the face of each, (count,)."""
    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
    return np.asarray(points), np.asarray(face)
