"""Augmentations of clouds and images, each a pure function of its random generator.

Points are (N, 3) float32 arrays in and out. No function changes what it is given, and
none draws from any generator but the one that is passed.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_DROPOUT = 0.875


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
    """Scale all axes by the same factor ~ U(low, high)."""
    return points * np.float32(rng.uniform(low, high))


def random_rotate_y(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate about the y axis by an angle ~ U(0, 2π)."""
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
    points: np.ndarray, rng: np.random.Generator, max_ratio: float = MAX_DROPOUT
) -> np.ndarray:
    """Replace each point by the first with probability r, where r ~ U(0, max_ratio).

    The number of points stays; replaced points are exact copies of point 0.
    """
    ratio = rng.uniform(0.0, max_ratio)
    dropped = rng.random(len(points)) < ratio
    return np.where(dropped[:, None], points[:1], points)


def distinct_after_dropout(
    clouds: int, points: int, max_ratio: float = MAX_DROPOUT
) -> int:
    """Rows to reserve for the distinct points that :func:`random_dropout` leaves.

    A cloud keeps a share 1 - r of its points, r ~ U(0, max_ratio). The rows are four
    standard deviations above the mean: about one batch in 30,000 has more.
    """
    deviation = max_ratio / math.sqrt(12 * clouds)
    share = 1 - max_ratio / 2 + 4 * deviation
    return min(clouds * points, math.ceil(clouds * points * share))


def augment_points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pre-training view of the paper's augmentations.

    Dropout comes last: the fused encoder merges the exact copies of point 0 it makes.
    """
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


def as_channels(points: np.ndarray) -> torch.Tensor:
    """(N, 3) points as a (3, N) tensor that shares no memory with them."""
    return torch.from_numpy(points.T.copy())


class RawImage(NamedTuple):
    """An image before its colour jitter, which :func:`jitter_images` applies.

    PyTorch's collate function makes a `RawImage` of batches from a list of them.

    Attributes:
        pixels: (3, S, S) uint8, RGB, already resized; (V, 3, S, S) for V images.
        jitter: (7,) float32, see :func:`draw_jitter`; (V, 7) for V images.
    """

    pixels: torch.Tensor
    jitter: torch.Tensor


def draw_jitter(rng: np.random.Generator, strength: float = 0.4) -> torch.Tensor:
    """Draw the random part of an image's augmentation.

    Returns:
        (7,) float32: the order in which brightness (0), contrast (1) and saturation (2)
        are adjusted; the factor of each, from U(1 - strength, 1 + strength); 1 for a
        horizontal flip, else 0.
    """
    order = rng.permutation(3)
    factors = rng.uniform(1 - strength, 1 + strength, 3)
    flip = rng.random() < 0.5
    return torch.tensor([*order, *factors, flip], dtype=torch.float32)


def augment_image(
    image: Image.Image,
    rng: np.random.Generator,
    size: int = 224,
    strength: float = 0.4,
) -> RawImage:
    """Resize an RGB image to size x size pixels and draw its jitter.

    The jitter itself is applied to the whole batch, on the device of the model: see
    :func:`jitter_images`.
    """
    jitter = draw_jitter(rng, strength)
    pixels = F.pil_to_tensor(F.resize(image, [size, size])).contiguous()
    return RawImage(pixels, jitter)


def jitter_images(
    images: RawImage | torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Adjust the colours of a batch of images, flip, and normalise as for ImageNet.

    The result equals torchvision's adjustments of each PIL image bit for bit: pixels
    are rounded to bytes between the adjustments, as Pillow does. The host does not
    wait for the device.

    Args:
        images: a batch of `RawImage`: pixels (B, 3, H, W) uint8 and jitter (B, 7), or
            with V images each (B, V, 3, H, W) and (B, V, 7). A tensor, as another
            `image_transform` may give, is returned as it is.
        dtype: of the result; None for that of the jitter, which ``to_device`` has made
            that of the model.

    Returns:
        Shape as the pixels; computed in float32.

    Raises:
        ValueError: if the pixels have another shape or dtype.
    """
    if isinstance(images, torch.Tensor):
        return images
    shape = tuple(images.pixels.shape)
    if images.pixels.dtype != torch.uint8 or len(shape) not in (4, 5) or shape[-3] != 3:
        raise ValueError(
            f"expected pixels (B, 3, H, W) uint8, got {shape} {images.pixels.dtype}"
        )
    jitter = images.jitter.flatten(0, -2)  # (B V, 7)
    orders, factors, flips = jitter.float().split([3, 3, 1], dim=1)
    pixels = images.pixels.flatten(0, -4).float()  # (B V, 3, H, W)
    for kind in orders.long().split(1, dim=1):  # (B V, 1): first, second, third
        factor = factors.gather(1, kind)[..., None, None]  # (B V, 1, 1, 1)
        kind = kind[..., None, None]
        # Each adjustment blends the image with another one: brightness with black,
        # contrast with the mean grey, saturation with each pixel's own grey.
        grey = luma(pixels)  # (B V, 1, H, W)
        start = torch.where(kind == 1, _rounded_mean(grey), grey)
        pixels = blend(start.masked_fill_(kind == 0, 0), pixels, factor)
    pixels = torch.where(flips[..., None, None] > 0, pixels.flip(-1), pixels)
    offset = 256 * torch.arange(3, device=pixels.device)[:, None, None]
    rows = (pixels + offset).int().flatten()
    normalized = _normalized_bytes(pixels.device).index_select(0, rows)
    return normalized.view(shape).to(dtype or jitter.dtype)


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


def _rounded_mean(grey: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1): the mean of every (1, H, W), halves rounded up."""
    count = grey[0].numel()
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    # In whole numbers: a GPU may divide floats by multiplying with the reciprocal.
    return ((2 * total + count) // (2 * count)).float()


@cache  # copied once: another copy would wait for the device
def _normalized_bytes(device: torch.device) -> torch.Tensor:
    """(3 * 256,): every byte of every channel, normalised.

    Computed on the CPU: other devices have its numbers, not their own rounding.
    """
    values = torch.arange(256, dtype=torch.float32).div(255).expand(3, 1, 256)
    return F.normalize(values, IMAGENET_MEAN, IMAGENET_STD).flatten().to(device)


def image_bytes(images: torch.Tensor) -> torch.Tensor:
    """The pixels (..., 3, H, W) uint8 of normalised images, to look at."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean).mul(255).round().clamp(0, 255).byte()
