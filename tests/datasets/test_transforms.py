"""Augmentations: order, ranges, purity; images in batches against Pillow's."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import functional as F

from datasets import transforms as T


def rng(seed=0):
    return np.random.default_rng(seed)


def cloud(n=200, seed=0):
    """A lopsided cloud, off the origin, unlike on every axis."""
    points = rng(seed).normal(size=(n, 3)) * (1.0, 2.0, 0.3) + (5.0, -3.0, 1.0)
    return points.astype(np.float32)


def shuffled(points, random):
    return T.shuffle_points(points, np.zeros(len(points)), random)[0]


STEPS = [T.random_scale, T.random_rotate_y, T.random_translate, T.jitter]
STEPS += [T.random_dropout, T.augment_points, shuffled]


@pytest.mark.parametrize("transform", STEPS)
def test_point_transforms_are_pure(transform):
    points = cloud()
    before = points.copy()
    first, second = transform(points, rng(1)), transform(points, rng(1))
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32 and first.shape == points.shape
    assert not np.shares_memory(first, points)
    assert not np.array_equal(first, transform(points, rng(2)))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_cloud_of_one_point_is_no_division_by_zero(value):
    points = np.full((1000, 3), value, dtype=np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(T.center_and_scale(points), np.zeros_like(points))
    out = T.augment_points(points, rng())
    # Zeros, not blown up or moved: the extent is zero, so only the jitter is left.
    assert np.isfinite(out).all() and np.abs(out).max() <= 0.05


def test_jitter_is_normal_and_clipped():
    out = T.jitter(np.zeros((200_000, 3), np.float32), rng(), sigma=0.05)
    assert out.max() == np.float32(0.05) and out.min() == np.float32(-0.05)
    clipped = (np.abs(out) == np.float32(0.05)).mean()
    np.testing.assert_allclose(clipped, 0.317, atol=0.01)


def test_augment_points_is_the_six_steps_in_order():
    for seed in range(5):
        points = cloud(seed=seed)
        draw = rng(seed)
        expected = points.astype(np.float64)
        expected = expected - expected.mean(0)
        expected = expected / np.linalg.norm(expected, axis=1).max()
        expected = expected * draw.uniform(0.5, 2.0)
        angle = draw.uniform(0, 2 * np.pi)
        x, y, z = expected.T
        cos, sin = np.cos(angle), np.sin(angle)
        expected = np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=1)
        extent = expected.max(0) - expected.min(0)
        expected = expected + draw.uniform(-0.5, 0.5, 3) * extent
        noise = 0.01 * draw.standard_normal(expected.shape)
        expected = expected + np.clip(noise, -0.05, 0.05)
        dropped = draw.uniform(0, 0.875) > draw.random(len(points))
        expected[dropped] = expected[0]
        out = T.augment_points(points, rng(seed))
        np.testing.assert_allclose(out, expected, atol=1e-5)
        assert (out[dropped] == out[0]).all()  # exact copies


def test_shuffle_points_keeps_points_and_parts_together():
    points, parts = cloud(), np.arange(200)
    moved, ids = T.shuffle_points(points, parts, rng(1))
    np.testing.assert_array_equal(moved, points[ids])
    assert sorted(ids) == parts.tolist() == [*range(200)] != ids.tolist()


def picture(width=50, height=30, seed=0):
    pixels = rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row(order, factors, flip):
    return torch.tensor([*order, *factors, flip], dtype=torch.float32)


def reference(image, jitter, size):
    """The augmentation of one image by Pillow and torchvision, with a given jitter."""
    image = F.resize(image, [size, size])
    for kind in jitter[:3].int().tolist():
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)[kind]
        image = adjust(image, float(jitter[3 + kind]))
    if jitter[6]:
        image = F.hflip(image)
    return F.normalize(F.to_tensor(image), T.IMAGENET_MEAN, T.IMAGENET_STD)


def jittered(image, jitter, size):
    """The same by the code under test."""
    pixels = T.augment_image(image, rng(), size).pixels
    return T.jitter_images(T.RawImage(pixels[None], jitter[None]))[0]


def test_augment_image_resizes_and_draws_an_order_three_factors_and_a_coin():
    image, draw, random = picture(), rng(3), rng(3)
    before = image.tobytes()
    raw = T.augment_image(image, random)
    order, factors = draw.permutation(3), draw.uniform(0.6, 1.4, 3)
    assert torch.equal(raw.jitter, row(order, factors, draw.random() < 0.5))
    assert random.random() == draw.random()  # nothing else was drawn
    assert image.tobytes() == before and image.size == (50, 30)
    assert raw.pixels.shape == (3, 224, 224) and raw.pixels.dtype == torch.uint8


def test_an_image_without_jitter_is_resized_and_normalised():
    image = picture(37, 37)
    pixels = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR)) / 255
    pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    actual = jittered(image, row((0, 1, 2), (1, 1, 1), False), 24)
    np.testing.assert_allclose(actual, pixels.transpose(2, 0, 1), atol=1e-5, rtol=0)


# With 1 itself, its neighbours in float32, and factors on which Pillow has to clip.
FACTORS = [
    *np.linspace(0.6, 1.4, 41),
    *rng(0).uniform(0.6, 1.4, 40),
    *(0.0, 1.0, np.nextafter(np.float32(1), 0), np.nextafter(np.float32(1), 2)),
    *(-0.5, 2.5),
]


def test_blend_is_pillow_s_for_all_pairs_of_bytes():
    start = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(256, 256)
    pair = [Image.fromarray(x) for x in (start, np.ascontiguousarray(start.T))]
    tensors = [torch.tensor(np.asarray(x)).float() for x in pair]
    for factor in FACTORS:
        expected = torch.tensor(np.asarray(Image.blend(*pair, float(factor)))).float()
        out = T.blend(*tensors, torch.tensor(factor).float())
        assert torch.equal(out, expected), factor


def test_luma_is_pillow_s_for_all_colours():
    green, blue = np.mgrid[:256, :256].astype(np.uint8)
    for red in range(256):
        pixels = np.stack([np.full_like(green, red), green, blue], axis=-1)
        expected = np.asarray(Image.fromarray(pixels).convert("L"))
        out = T.luma(torch.tensor(pixels).permute(2, 0, 1)[None].float())
        assert torch.equal(out[0, 0], torch.tensor(expected).float()), red


def some_images(count, size):
    """Noise, a ramp, half black and half white, and one colour, in turn."""
    ramp = np.broadcast_to(np.linspace(0, 255, size)[:, None], (size, size, 3))
    halves = np.where(np.arange(size)[:, None, None] < size // 2, 0, 255) + 0 * ramp
    kinds = (ramp, halves, np.full((size, size, 3), (200, 30, 90)))
    result = []
    for number in range(count):
        noise = rng(number).integers(0, 256, (size, size, 3))
        pixels = (noise, *kinds)[number // 2 % 4]
        result.append(Image.fromarray(pixels.astype(np.uint8)))
    return result


@pytest.mark.parametrize("size", [1, 7, 224])
def test_a_batch_is_jittered_as_pillow_jitters_each_image(size):
    """All orders, both flips, all factors, mixed in a batch: bit for bit."""
    orders = list(permutations(range(3)))
    rows, draw = [], rng(size)
    for number in range(48):
        choices = [0.6, 1.0, 1.4] if number % 4 == 0 else FACTORS[:-2]
        factors = draw.choice(choices, 3)
        rows.append(row(orders[number % 6], factors, number // 6 % 2 == 1))
    images = some_images(len(rows), size)
    pixels = torch.stack([F.pil_to_tensor(image) for image in images])
    batch = T.RawImage(pixels, torch.stack(rows))
    before = [part.clone() for part in batch]
    out = T.jitter_images(batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
    assert out.shape == (48, 3, size, size) and out.dtype == torch.float32
    assert out.is_contiguous()
    for image, jitter, got in zip(images, rows, out, strict=True):
        assert torch.equal(got, reference(image, jitter, size)), jitter
    # float64 has the values of float32.
    double = batch._replace(jitter=batch.jitter.double())
    for exact in (T.jitter_images(batch, torch.float64), T.jitter_images(double)):
        assert exact.dtype == torch.float64 and torch.equal(exact, out.double())


def test_the_mean_grey_of_contrast_rounds_halves_up():
    for low in range(255):
        pixels = np.array([[[low] * 3, [low + 1] * 3]], np.uint8)  # mean: low + 0.5
        image = Image.fromarray(pixels).resize((2, 2), Image.Resampling.NEAREST)
        jitter = row((1, 0, 2), (1.0, 0.6, 1.0), False)
        assert torch.equal(jittered(image, jitter, 2), reference(image, jitter, 2)), low


def test_jitter_images_asks_the_device_for_no_number():
    """Tensors on ``meta`` have none: whatever would wait for a GPU fails there."""
    pixels, rows = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 7)
    out = T.jitter_images(T.RawImage(pixels.to("meta"), rows.to("meta")))
    assert out.device.type == "meta" and out.shape == pixels.shape
    assert T.jitter_images(out) is out  # a finished image stays as it is


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_jitters_bit_for_bit_and_without_waiting():
    batch = default_collate([T.augment_image(x, rng()) for x in some_images(24, 90)])
    there = T.RawImage(*(part.cuda() for part in batch))
    T.jitter_images(there)  # the first call on a device copies constants to it
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = T.jitter_images(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), T.jitter_images(batch))


def test_jitter_images_refuses_other_shapes():
    pixels, rows = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 7)
    for wrong in (pixels[0], pixels[:, :1], pixels.float()):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\) uint8"):
            T.jitter_images(T.RawImage(wrong, rows))
