"""Augmentations of clouds and pictures, each a pure function of its random generator.

Points are (N, 3) float32 arrays in and out. No function changes what it is given, and
none draws from any generator but the one that is passed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
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
    first, second, third = rng.permutation(3).tolist()
    a, b, c = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    flip = bool(rng.random() < 0.5)
    return PictureJitter((first, second, third), (a, b, c), flip)


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


def draw_picture(
    image: Image.Image, rng: np.random.Generator, size: int = 224
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of `augment_picture` before colours: `jitter_pictures` does the rest.

    Returns:
        the resized picture, (3, size, size) uint8, and what `draw_picture_jitter` drew,
        (7,) float32: order, factors and flip.
    """
    change = draw_picture_jitter(rng)
    pixels = F.pil_to_tensor(F.resize(image, [size, size])).contiguous()
    return pixels, torch.tensor([*change.order, *change.factors, float(change.flip)])


def blend(start: torch.Tensor, end: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``start + factor * (end - start)`` of bytes, made bytes again by truncation.

    All are float32 of shapes that broadcast; a factor of 0 gives ``start``, of 1
    ``end``. The numbers are those of Pillow's ``Image.blend``.
    """
    # One operation after the other: a fused one rounds once where Pillow rounds twice.
    return (end - start).mul_(factor).add_(start).clamp_(0, 255).floor_()


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) bytes as float32 -> (B, 1, H, W): Pillow's conversion to grey."""
    red, green, blue = pixels.split(1, dim=1)
    # Whole numbers below 2**24, and then a power of two: float32 has them exactly.
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor_()


def jitter_pictures(pictures: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """What `apply_picture_jitter` makes of resized pictures, of all of them at once.

    Bit for bit: Pillow keeps bytes between the adjustments, and so does this. The host
    does not wait for the device.

    Args:
        pictures: (B, 3, H, W) uint8 on any device.
        changes: (B, 7) on the same, a row of `draw_picture` for each picture.

    Returns:
        (B, 3, H, W), numbers of float32 in the dtype of ``changes``.

    Raises:
        ValueError: if a shape or the pictures' dtype is another.
    """
    shape = tuple(pictures.shape)
    if pictures.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"pictures are (B, 3, H, W) uint8: {shape} {pictures.dtype}")
    if changes.shape != (len(pictures), 7):
        raise ValueError(f"{shape[0]} pictures have changes {tuple(changes.shape)}")
    orders, factors, flips = changes.float().split([3, 3, 1], dim=1)
    pixels = pictures.float()
    for kind in orders.long().split(1, dim=1):  # (B, 1): first, second and third ones
        factor = factors.gather(1, kind)[..., None, None]  # (B, 1, 1, 1)
        kind = kind[..., None, None]
        # Brightness is a blend of black with the picture, contrast one of its mean
        # grey, saturation one of each pixel's own grey.
        grey = luma(pixels)  # (B, 1, H, W)
        start = torch.where(kind == 1, _rounded_mean(grey), grey)
        pixels = blend(start.masked_fill_(kind == 0, 0), pixels, factor)
    pixels = torch.where(flips[..., None, None] > 0, pixels.flip(-1), pixels)
    channel = torch.arange(3, device=pixels.device)[:, None, None]
    return _normalized_bytes(pixels.device)[channel, pixels.long()].to(changes.dtype)


def _rounded_mean(grey: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1): the mean of every (1, H, W), halves rounded up."""
    count = grey[0].numel()
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    # In whole numbers: a GPU may divide floats by multiplying with the reciprocal.
    return ((2 * total + count) // (2 * count)).float()


@cache  # copied once: another copy would wait for the device
def _normalized_bytes(device: torch.device) -> torch.Tensor:
    """(3, 256): what normalisation makes of every byte of every channel.

    Computed on the CPU: other devices have its numbers, not their own rounding.
    """
    every = torch.arange(256, dtype=torch.float32).div(255).expand(3, 1, 256)
    return F.normalize(every, IMAGENET_MEAN, IMAGENET_STD)[:, 0].to(device)


def picture_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """The pixels (..., 3, H, W) uint8 that were normalised, to look at."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pictures * std + mean).mul(255).round().clamp(0, 255).byte()


def picture_transform(
    device: torch.device,
) -> Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
    """What the loader does to pictures for training on a device.

    For a GPU `draw_picture`, which leaves workers time for more pictures: the training
    loop jitters them in batches, where the model is. For a CPU `augment_picture`: there
    the jitter would take its time from the training step.
    """
    return draw_picture if device.type == "cuda" else augment_picture
