"""Augmentations of clouds and pictures, each a pure function of its random generator.

Points are (N, 3) float32 arrays in and out. No function changes what it is given, and
none draws from any generator but the one that is passed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ADJUSTMENTS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


def center_and_scale(points: np.ndarray) -> np.ndarray:
    """Move the mean to the origin and the farthest point to distance 1.

    A cloud of one repeated point comes out as zeros.
    """
    centered = points - points.mean(axis=0, dtype=np.float64)
    radius = np.sqrt((centered**2).sum(axis=1).max())
    if radius == 0:  # exactly so for a repeated point: float64 sums float32 exactly
        return np.zeros_like(points)
    return (centered / radius).astype(np.float32)


def random_scale(
    points: np.ndarray, rng: np.random.Generator, low: float = 0.5, high: float = 2.0
) -> np.ndarray:
    """Scale all axes by one factor of U(low, high)."""
    return points * np.float32(rng.uniform(low, high))


def random_rotate_y(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate about the y axis by an angle of U(0, 2π)."""
    angle = rng.uniform(0.0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y, z = points.T
    # Written out: a matrix product may sum differently on another number of threads.
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=1)


def random_translate(
    points: np.ndarray, rng: np.random.Generator, limit: float = 0.5
) -> np.ndarray:
    """Move each axis by U(-limit, limit) times the cloud's extent along it."""
    extent = points.max(axis=0) - points.min(axis=0)
    return points + (rng.uniform(-limit, limit, 3) * extent).astype(np.float32)


def jitter(
    points: np.ndarray,
    rng: np.random.Generator,
    sigma: float = 0.01,
    clip: float = 0.05,
) -> np.ndarray:
    """Add N(0, sigma) clipped at ±clip to every coordinate."""
    noise = np.clip(sigma * rng.standard_normal(points.shape), -clip, clip)
    return points + noise.astype(np.float32)


def random_dropout(
    points: np.ndarray, rng: np.random.Generator, max_ratio: float = 0.875
) -> np.ndarray:
    """Replace each point by the first with probability r, itself of U(0, max_ratio).

    The number of points stays, and what was replaced is an exact copy of point 0.
    """
    ratio = rng.uniform(0.0, max_ratio)
    dropped = rng.random(len(points)) < ratio
    return np.where(dropped[:, None], points[:1], points)


def augment_points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pre-training view: everything above, in the order above."""
    points = center_and_scale(points)
    points = random_scale(points, rng)
    points = random_rotate_y(points, rng)
    points = random_translate(points, rng)
    points = jitter(points, rng)
    return random_dropout(points, rng)


def shuffle_points(
    points: np.ndarray, parts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Put points (N, 3) and their part labels (N,) in one random order."""
    order = rng.permutation(len(points))
    return points[order], parts[order]


class PictureJitter(NamedTuple):
    """The random part of a picture's augmentation.

    Attributes:
        order: in which the `ADJUSTMENTS` brightness (0), contrast (1) and saturation
            (2) are made.
        factors: of brightness, contrast and saturation; 1 changes nothing.
        flip: whether left and right are swapped.
    """

    order: tuple[int, int, int]
    factors: tuple[float, float, float]
    flip: bool


def draw_picture_jitter(
    rng: np.random.Generator, strength: float = 0.4
) -> PictureJitter:
    """Factors of U(1 - strength, 1 + strength), an order, and a coin flip."""
    order = tuple(int(i) for i in rng.permutation(3))
    factors = tuple(float(f) for f in rng.uniform(1 - strength, 1 + strength, 3))
    return PictureJitter(order, factors, bool(rng.random() < 0.5))


def apply_picture_jitter(
    image: Image.Image, change: PictureJitter, size: int = 224
) -> torch.Tensor:
    """Resize, adjust colours, flip, and normalise by ImageNet's mean and deviation.

    Args:
        image: RGB, of any size.
        change: what `draw_picture_jitter` drew.
        size: pixels of a side of the result; the aspect ratio is not kept.

    Returns:
        (3, size, size) float32.
    """
    image = F.resize(image, [size, size])
    for i in change.order:
        image = ADJUSTMENTS[i](image, change.factors[i])
    if change.flip:
        image = F.hflip(image)
    return F.normalize(F.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)


def augment_picture(
    image: Image.Image, rng: np.random.Generator, size: int = 224
) -> torch.Tensor:
    """An RGB picture as the image encoder sees it, (3, size, size) float32."""
    return apply_picture_jitter(image, draw_picture_jitter(rng), size)
