"""The 16 ShapeNetPart categories as procedural shapes with true part labels.

The vertical axis is y, and all shapes of a category have the same orientation. As in
ShapeNet, a shape is centred and its bounding box has a diagonal of 1.

Of ``furniture``, ``handheld`` and ``vehicles`` each function draws one random shape.
Its parts are numbered in the order in which the function's first line names them.
"""

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.random import Generator

from datasets.shapenet_part import FIRST_PART, PARTS_PER_CATEGORY
from datasets.synthetic import furniture, handheld, vehicles
from datasets.synthetic.primitives import Builder

# Of each category: the WordNet synset that names its ShapeNet folder, and its model.
_MODELS = (
    ("02691156", vehicles.airplane),
    ("02773838", handheld.bag),
    ("02954340", handheld.cap),
    ("02958343", vehicles.car),
    ("03001627", furniture.chair),
    ("03261776", handheld.earphone),
    ("03467517", handheld.guitar),
    ("03624134", handheld.knife),
    ("03636649", furniture.lamp),
    ("03642806", furniture.laptop),
    ("03790512", vehicles.motorbike),
    ("03797390", handheld.mug),
    ("03948459", handheld.pistol),
    ("04099429", vehicles.rocket),
    ("04225987", vehicles.skateboard),
    ("04379243", furniture.table),
)
SYNSETS = tuple(synset for synset, _ in _MODELS)


@dataclass(frozen=True)
class Shape:
    """A triangle mesh with a colour and a part label on each face."""

    category: int  # 0..15, an index of CATEGORIES
    vertices: np.ndarray  # (V,3) f8
    faces: np.ndarray  # (F,3) vertex indices
    face_part: np.ndarray  # (F,) global part ids, 0..49
    face_colour: np.ndarray  # (F,3) RGB in [0,1]

    def in_unit_sphere(self) -> np.ndarray:
        """The vertices (V,3) centred on the bounding box and scaled to radius 1."""
        centred = self.vertices - (self.vertices.max(0) + self.vertices.min(0)) / 2
        return centred / np.sqrt((centred**2).sum(axis=1)).max()

    def sample(self, count: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points uniform by area, (count,3) f8, and the part (count,) of each."""
        mesh = trimesh.Trimesh(self.vertices, self.faces, process=False, validate=False)
        points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
        return np.asarray(points), self.face_part[face]


def make_shape(category: int, rng: Generator) -> Shape:
    """Draw one shape of a category from ``rng``."""
    builder = Builder(rng, PARTS_PER_CATEGORY[category])
    _MODELS[category][1](builder)
    # Anisotropic scaling: no single ratio of extents may give the category away.
    vertices, faces, part, colour = builder.finish()
    vertices = vertices * rng.uniform(0.88, 1.12, 3)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / np.sqrt(((high - low) ** 2).sum())
    return Shape(category, vertices, faces, part + FIRST_PART[category], colour)
