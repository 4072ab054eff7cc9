"""Corrupted copies of test clouds, to measure robustness; severity (level) 1 to 5.

turned: rotation; one-sided: occlusion; noisy: Gaussian noise; sparser: subsampling.
Every corruption keeps the number of points, by repeating those that are left, and is a
pure function of its random generator. All levels use the same random numbers.
"""

from collections.abc import Iterator

import numpy as np

from datasets.labelled import LabelledClouds
from utils.parallel.seed import CORRUPTION, generator


def turned(points: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Rotate about a random axis through the mean by up to 30, 60, 90, 135, 180°.

    Rodrigues' formula: ``x cos t + (a × x) sin t + a (a · x) (1 - cos t)`` for a unit
    vector a and an angle t ~ U(0, the level's).
    """
    axis = _direction(rng)
    angle = rng.uniform(0, np.deg2rad((30, 60, 90, 135, 180)[level - 1]))
    cos, sin = np.cos(angle), np.sin(angle)
    mean = points.mean(axis=0, dtype=np.float64)
    x = points - mean
    along = (x * axis).sum(axis=1, keepdims=True) * axis
    x = cos * x + sin * np.cross(axis, x) + (1 - cos) * along
    return (x + mean).astype(np.float32)


def one_sided(points: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Occlude the 10, 20, 30, 40, 50 % of the points farthest in a random direction."""
    depth = (points * _direction(rng)).sum(axis=1)
    remaining = len(points) - round(len(points) * level / 10)
    rows = np.sort(np.argsort(depth, kind="stable")[:remaining])
    return _repeated(points[rows], len(points))


def noisy(points: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Add N(0, σ) to every coordinate, σ being 1, 2, 3, 4, 5 % of the cloud's radius.

    The radius is the distance of the farthest point from the mean.
    """
    mean = points.mean(axis=0, dtype=np.float64)
    radius = np.sqrt(((points - mean) ** 2).sum(axis=1).max())
    noise = rng.standard_normal(points.shape) * radius * level / 100
    return (points + noise).astype(np.float32)


def sparser(points: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Keep a random 80, 60, 40, 20, 10 % of the points, at least one."""
    share = (0.8, 0.6, 0.4, 0.2, 0.1)[level - 1]
    remaining = max(1, round(share * len(points)))
    rows = np.sort(rng.permutation(len(points))[:remaining])
    return _repeated(points[rows], len(points))


KINDS = {"turned": turned, "one-sided": one_sided, "noisy": noisy, "sparser": sparser}


def corrupted(
    clouds: np.ndarray, kind: str, level: int, seed: int, start: int
) -> np.ndarray:
    """Corrupted copies of clouds: a function of (seed, kind, row in the whole split).

    The clouds (m, N, 3) are this rank's rows; row 0 is row `start` of the whole split.
    """
    number = list(KINDS).index(kind)
    made = np.empty_like(clouds)
    for row, points in enumerate(clouds):
        rng = generator(CORRUPTION, seed, number, start + row)
        made[row] = KINDS[kind](points, level, rng)
    return made


def corrupted_copies(
    clouds: LabelledClouds, level: int, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Each kind and this rank's clouds (m, N, 3) corrupted by it; none at level 0."""
    for kind in KINDS if level else ():
        yield kind, corrupted(clouds.points, kind, level, seed, clouds.start)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """(3,): a uniformly distributed unit vector."""
    vector = rng.standard_normal(3)
    return vector / np.sqrt((vector**2).sum())


def _repeated(points: np.ndarray, count: int) -> np.ndarray:
    """(count, 3): the points, in turn, as often as needed."""
    return points[np.resize(np.arange(len(points)), count)]
