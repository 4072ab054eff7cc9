"""Corruptions: their geometry at every level, and what they are functions of."""

import itertools

import numpy as np
import pytest

from datasets.corruptions import KINDS, corrupted
from utils.parallel.seed import CORRUPTION, generator

kinds = pytest.mark.parametrize("kind", KINDS)
levels = pytest.mark.parametrize("level", [1, 2, 3, 4, 5])


def clouds(count: int = 6, points: int = 200) -> np.ndarray:
    """Lopsided clouds off the origin; no point occurs twice."""
    random = np.random.default_rng(0).normal(size=(count, points, 3))
    return (random * (1.0, 2.0, 0.3) + (5.0, -3.0, 1.0)).astype(np.float32)


@kinds
def test_a_copy_depends_on_seed_kind_and_row_alone(kind: str) -> None:
    given = clouds()
    before = given.copy()
    whole = corrupted(given, kind, 3, seed=1, start=0)
    assert (given == before).all()
    assert whole.shape == given.shape and whole.dtype == np.float32
    # Any split into ranks: those of 2 and of 4 rows.
    parts = [corrupted(given[:2], kind, 3, 1, 0), corrupted(given[2:], kind, 3, 1, 2)]
    assert (np.concatenate(parts) == whole).all()
    # Rows, seeds and levels differ: of one cloud there are as many copies.
    same = np.repeat(given[:1], 3, axis=0)
    keys = itertools.product((1, 3), (1, 2))
    copies = np.concatenate([corrupted(same, kind, *key, 0) for key in keys])
    assert len(np.unique(copies, axis=0)) == 12


@levels
def test_turned_clouds_are_rotated_about_their_mean(level: int) -> None:
    limit = (30, 60, 90, 135, 180)[level - 1]
    given = clouds(60, 50).astype(float)
    made = corrupted(clouds(60, 50), "turned", level, 1, 0)
    angles, axes = [], []
    for points, turned in zip(given, made, strict=True):
        mean = points.mean(axis=0)
        # Least squares: the matrix R of (x - mean) R = turned - mean.
        R = np.linalg.lstsq(points - mean, turned - mean, rcond=None)[0]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(R) > 0
        np.testing.assert_allclose((points - mean) @ R + mean, turned, atol=1e-5)
        angles.append(np.rad2deg(np.arccos((np.trace(R) - 1) / 2)))
        axes.append(R - R.T)
    assert limit * 0.9 < max(angles) < limit + 0.1
    assert min(angles) < limit * 0.1
    assert np.ptp(np.sign(axes), axis=0).max() == 2  # to all sides


@levels
def test_one_sided_clouds_lack_what_is_beyond_a_plane(level: int) -> None:
    made = corrupted(clouds(), "one-sided", level, 1, 0)
    for row, points in enumerate(clouds()):
        direction = generator(CORRUPTION, 1, 1, row).standard_normal(3)
        nearest = points[np.argsort(points @ direction)[: 200 - 20 * level]]
        rows, counts = np.unique(made[row], axis=0, return_counts=True)
        assert np.array_equal(rows, np.unique(nearest, axis=0))
        assert counts.max() - counts.min() <= 1  # padded evenly


@levels
def test_noise_is_a_share_of_the_radius(level: int) -> None:
    given = clouds(8, 4000)
    noise = corrupted(given, "noisy", level, 1, 0) - given.astype(float)
    for own, points in zip(noise, given.astype(float), strict=True):
        radius = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
        np.testing.assert_allclose(own.std(axis=0), radius * level / 100, rtol=0.05)
        np.testing.assert_allclose(np.corrcoef(own.T), np.eye(3), atol=0.1)
        assert (abs(own.mean(axis=0)) < radius * level / 1000).all()


@levels
def test_sparser_clouds_repeat_a_random_share_of_their_points(level: int) -> None:
    kept = (160, 120, 80, 40, 20)[level - 1]
    seen = set()
    made = corrupted(clouds(), "sparser", level, 1, 0)
    for points, sparse in zip(clouds().tolist(), made, strict=True):
        rows, counts = np.unique(sparse, axis=0, return_counts=True)
        assert len(rows) == kept
        assert counts.max() - counts.min() <= 1
        seen.add(tuple(points.index(row) for row in rows.tolist()))
    assert len(seen) == 6  # other rows of each cloud


@kinds
def test_a_single_point_stays(kind: str) -> None:
    point = np.full((1, 1, 3), 2, np.float32)
    assert np.array_equal(corrupted(point, kind, 5, 1, 0), point)
