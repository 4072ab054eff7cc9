"""Augmentations: order, ranges, purity; pictures in batches against Pillow's."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from datasets import transforms as T


def rng(seed=0):
    return np.random.default_rng(seed)


def cloud(n=200, seed=0):
    """A lopsided cloud, off the origin, unlike on every axis."""
    points = rng(seed).normal(size=(n, 3)) * (1.0, 2.0, 0.3) + (5.0, -3.0, 1.0)
    return points.astype(np.float32)


RANDOM = [
    T.random_scale,
    T.random_rotate_y,
    T.random_translate,
    T.jitter,
    T.random_dropout,
    T.augment_points,
]


@pytest.mark.parametrize("transform", RANDOM)
def test_point_transforms_are_pure(transform):
    points = cloud()
    before = points.copy()
    first, second = transform(points, rng(1)), transform(points, rng(1))
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32 and first.shape == points.shape
    assert not np.shares_memory(first, points)
    assert not np.array_equal(first, transform(points, rng(2)))


def test_center_and_scale():
    points = cloud()
    before = points.copy()
    out = T.center_and_scale(points)
    np.testing.assert_array_equal(points, before)
    exact = points.astype(np.float64)
    exact = exact - exact.mean(0)
    exact = exact / max(np.linalg.norm(p) for p in exact)
    np.testing.assert_allclose(out, exact, atol=1e-6)
    assert out.dtype == np.float32


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, 0.3333333])
def test_a_cloud_of_one_point_is_no_division_by_zero(value):
    points = np.full((1000, 3), value, dtype=np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(T.center_and_scale(points), np.zeros_like(points))
    out = T.augment_points(points, rng())
    # Zeros, not blown up or moved: the extent is zero, so only the jitter is left.
    assert np.isfinite(out).all() and np.abs(out).max() <= 0.05


def test_scale_is_uniform_between_a_half_and_two():
    points = cloud()
    factors = []
    for seed in range(400):
        out = T.random_scale(points, rng(seed))
        factor = rng(seed).uniform(0.5, 2.0)
        np.testing.assert_allclose(out, points * factor, rtol=1e-6)
        factors.append((out / points).mean())
    assert 0.5 <= min(factors) < 0.53 and 1.97 < max(factors) <= 2.0
    assert abs(np.mean(factors) - 1.25) < 0.08


def test_rotation_is_about_y_by_every_angle():
    points = cloud()
    angles = []
    for seed in range(400):
        out = T.random_rotate_y(points, rng(seed))
        np.testing.assert_array_equal(out[:, 1], points[:, 1])
        turned = (out[:, 0] + 1j * out[:, 2]) / (points[:, 0] + 1j * points[:, 2])
        # One and the same turn for all points, without scaling or mirroring.
        np.testing.assert_allclose(np.abs(turned), 1, atol=1e-5)
        np.testing.assert_allclose(turned, turned[0], atol=1e-5)
        angles.append(np.angle(turned[0]) % (2 * np.pi))
    quarters = np.histogram(angles, 4, (0, 2 * np.pi))[0]
    assert quarters.min() > 70 and quarters.max() < 130


def test_translation_is_in_units_of_the_extent():
    points = cloud()
    extent = points.max(0) - points.min(0)
    moves = []
    for seed in range(400):
        offset = T.random_translate(points, rng(seed)) - points
        np.testing.assert_allclose(offset, offset[:1] + 0 * offset, atol=1e-5)
        moves.append(offset[0] / extent)
    moves = np.array(moves)
    assert moves.min() >= -0.5001 and moves.max() <= 0.5001
    assert (moves.min(0) < -0.48).all() and (moves.max(0) > 0.48).all()
    assert np.abs(np.corrcoef(moves.T) - np.eye(3)).max() < 0.15  # one draw an axis


def test_jitter_is_normal_and_clipped():
    points = np.zeros((200_000, 3), np.float32)
    out = T.jitter(points, rng())
    np.testing.assert_allclose(out.std(), 0.01, rtol=0.01)
    assert abs(out.mean()) < 1e-4
    # 5 sigma is rarely met: a wide one shows the clip.
    wide = T.jitter(points, rng(), sigma=0.05)
    assert wide.max() == np.float32(0.05) and wide.min() == np.float32(-0.05)
    np.testing.assert_allclose(
        (np.abs(wide) == np.float32(0.05)).mean(), 0.317, atol=0.01
    )
    clipped_by_default = T.jitter(np.zeros((4_000_000, 3), np.float32), rng(3))
    assert 0.045 < np.abs(clipped_by_default).max() <= np.float32(0.05)


def test_dropout_copies_point_zero_with_a_ratio_below_seven_eighths():
    points = cloud(1000)
    ratios = []
    for seed in range(400):
        out = T.random_dropout(points, rng(seed))
        kept = (out == points).all(axis=1)
        np.testing.assert_array_equal(
            out[~kept], np.repeat(points[:1], (~kept).sum(), 0)
        )
        ratios.append(1 - kept.mean())
    ratios = np.array(ratios)
    assert ratios.max() < 0.93 and ratios.max() > 0.83 and ratios.min() < 0.03
    assert abs(ratios.mean() - 0.4375) < 0.04
    # Uniform: as many ratios in each quarter of the range.
    quarters = np.histogram(ratios, 4, (0, 0.875))[0]
    assert quarters.min() > 70 and quarters.max() < 130
    # Each point is dropped on its own, not the first or last so many.
    assert np.flatnonzero(~kept).max() > 900 and np.flatnonzero(kept[1:]).max() > 900


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
        expected = np.stack(
            [
                np.cos(angle) * x + np.sin(angle) * z,
                y,
                np.cos(angle) * z - np.sin(angle) * x,
            ],
            axis=1,
        )
        extent = expected.max(0) - expected.min(0)
        expected = expected + draw.uniform(-0.5, 0.5, 3) * extent
        noise = 0.01 * draw.standard_normal(expected.shape)
        expected = expected + np.clip(noise, -0.05, 0.05)
        ratio = draw.uniform(0, 0.875)
        expected[draw.random(len(points)) < ratio] = expected[0]
        np.testing.assert_allclose(
            T.augment_points(points, rng(seed)), expected, atol=1e-5
        )


def test_dropped_points_of_a_view_are_exact_copies():
    out = T.augment_points(cloud(2048), rng(4))
    assert (out == out[0]).all(axis=1).sum() > 100


def test_shuffle_points_keeps_points_and_parts_together():
    points, parts = cloud(), np.arange(200)
    before = points.copy(), parts.copy()
    moved, ids = T.shuffle_points(points, parts, rng(1))
    np.testing.assert_array_equal(points, before[0])
    np.testing.assert_array_equal(parts, before[1])
    np.testing.assert_array_equal(moved, points[ids])
    assert sorted(ids) == list(range(200)) and list(ids) != list(range(200))
    np.testing.assert_array_equal(T.shuffle_points(points, parts, rng(1))[1], ids)


def picture(width=50, height=30, seed=0):
    pixels = rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalized(image):
    """The last step, written out: to [0, 1], then ImageNet's mean and deviation."""
    pixels = np.asarray(image, np.float64) / 255
    pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return torch.from_numpy(pixels.transpose(2, 0, 1)).float()


def test_augment_picture_is_pure():
    image = picture()
    before = image.tobytes()
    first, second = T.augment_picture(image, rng(1)), T.augment_picture(image, rng(1))
    assert image.tobytes() == before and image.size == (50, 30)
    assert torch.equal(first, second)
    assert first.shape == (3, 224, 224) and first.dtype == torch.float32
    assert not torch.equal(first, T.augment_picture(image, rng(2)))
    assert T.augment_picture(image, rng(1), size=32).shape == (3, 32, 32)


def test_augment_picture_draws_then_applies():
    image = picture()
    change = T.draw_picture_jitter(rng(3))
    torch.testing.assert_close(
        T.augment_picture(image, rng(3), 40), T.apply_picture_jitter(image, change, 40)
    )


def test_picture_unchanged_but_for_size_and_normalisation():
    image = picture(37, 37)
    still = T.PictureJitter((0, 1, 2), (1.0, 1.0, 1.0), False)
    resized = image.resize((24, 24), Image.Resampling.BILINEAR)
    torch.testing.assert_close(
        T.apply_picture_jitter(image, still, 24), normalized(resized), atol=1e-5, rtol=0
    )
    flipped = still._replace(flip=True)
    torch.testing.assert_close(
        T.apply_picture_jitter(image, flipped, 24),
        T.apply_picture_jitter(image, still, 24).flip(-1),
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_adjustments_are_made_in_the_drawn_order(order):
    image = picture(32, 32)
    factors = (1.3, 0.7, 1.4)
    expected = image
    for i in order:
        step = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)[i]
        expected = step(expected, factors[i])
    out = T.apply_picture_jitter(image, T.PictureJitter(order, factors, False), 32)
    torch.testing.assert_close(out, normalized(expected), atol=1e-5, rtol=0)


def test_jitter_parameters_are_drawn_from_their_ranges():
    draws = [T.draw_picture_jitter(rng(seed)) for seed in range(600)]
    factors = np.array([d.factors for d in draws])
    assert factors.min() >= 0.6 and factors.max() <= 1.4
    assert (factors.min(0) < 0.61).all() and (factors.max(0) > 1.39).all()
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.15
    assert abs(np.mean([d.flip for d in draws]) - 0.5) < 0.07
    orders = [d.order for d in draws]
    assert len(set(orders)) == 6
    assert min(orders.count(order) for order in set(orders)) > 60


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


def bytes_of(*images):
    return torch.stack([F.pil_to_tensor(image) for image in images])


def row(change):
    return torch.tensor([*change.order, *change.factors, change.flip])


def some_pictures(count, size):
    """Noise, one colour, a ramp, half black and half white, and dark noise, in turn."""
    ramp = np.broadcast_to(np.linspace(0, 255, size)[:, None], (size, size, 3))
    halves = np.where(np.arange(size)[:, None, None] < size // 2, 0, 255) + 0 * ramp
    kinds = (ramp, halves, np.full((size, size, 3), (200, 30, 90)))
    found = []
    for number in range(count):
        noise = rng(number).integers(0, (256, 40)[number % 2], (size, size, 3))
        pixels = (noise, *kinds)[number // 2 % 4]
        found.append(Image.fromarray(pixels.astype(np.uint8)))
    return found


@pytest.mark.parametrize("size", [1, 7, 32, 224])
def test_a_batch_is_jittered_as_pillow_jitters_each_picture(size):
    """All orders, both flips, all factors, mixed in a batch: bit for bit."""
    orders = list(permutations(range(3)))
    changes, draw = [], rng(size)
    for number in range(48):
        factors = tuple(float(f) for f in draw.choice(FACTORS[:-2], 3))
        if number % 4 == 0:
            factors = tuple(draw.choice([0.6, 1.0, 1.4], 3).tolist())
        change = T.PictureJitter(orders[number % 6], factors, number // 6 % 2 == 1)
        changes.append(change)
    images = some_pictures(len(changes), size)
    pictures, rows = bytes_of(*images), torch.stack([row(c) for c in changes])
    before = pictures.clone(), rows.clone()
    out = T.jitter_pictures(pictures, rows)
    assert torch.equal(pictures, before[0]) and torch.equal(rows, before[1])
    assert out.shape == (48, 3, size, size) and out.dtype == torch.float32
    assert out.is_contiguous()
    for image, change, got in zip(images, changes, out, strict=True):
        assert torch.equal(got, T.apply_picture_jitter(image, change, size)), change
    # float64 has the values of float32, which is what the loader gives otherwise.
    exact = T.jitter_pictures(pictures, rows.double())
    assert exact.dtype == torch.float64 and torch.equal(exact, out.double())
    assert torch.equal(T.jitter_pictures(pictures[:1], rows[:1]), out[:1])


def test_the_mean_grey_of_contrast_rounds_halves_up():
    for low in range(255):
        pixels = np.array([[[low] * 3, [low + 1] * 3]], np.uint8)  # mean: low + 0.5
        image = Image.fromarray(pixels).resize((2, 2), Image.Resampling.NEAREST)
        change = T.PictureJitter((1, 0, 2), (1.0, 0.6, 1.0), False)
        out = T.jitter_pictures(bytes_of(image), row(change)[None])[0]
        assert torch.equal(out, T.apply_picture_jitter(image, change, 2)), low


def test_draw_picture_and_a_batch_are_augment_picture():
    images = [picture(50, 30 + seed, seed) for seed in range(12)]
    drawn = [T.draw_picture(image, rng(i), 40) for i, image in enumerate(images)]
    assert all(p.dtype == torch.uint8 and p.is_contiguous() for p, _ in drawn)
    out = T.jitter_pictures(*(torch.stack(part) for part in zip(*drawn, strict=True)))
    for i, image in enumerate(images):
        random = rng(i)
        assert torch.equal(out[i], T.augment_picture(image, random, 40))
        again = rng(i)
        T.draw_picture(image, again, 40)
        assert random.random() == again.random()  # as many numbers were drawn


def test_jitter_pictures_asks_the_device_for_no_number():
    """Tensors on ``meta`` have none: whatever would wait for a GPU fails there."""
    pictures, rows = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 7)
    out = T.jitter_pictures(pictures.to("meta"), rows.to("meta"))
    assert out.device.type == "meta" and out.shape == pictures.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_jitters_bit_for_bit_and_without_waiting():
    drawn = [
        T.draw_picture(image, rng(i)) for i, image in enumerate(some_pictures(24, 90))
    ]
    batch = [torch.stack(part) for part in zip(*drawn, strict=True)]
    there = [part.cuda() for part in batch]
    T.jitter_pictures(*there)  # the first call on a device copies constants to it
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = T.jitter_pictures(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), T.jitter_pictures(*batch))


def test_jitter_pictures_refuses_other_shapes():
    pictures, rows = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 7)
    for wrong in (pictures[0], pictures[:, :1], pictures.float()):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\) uint8"):
            T.jitter_pictures(wrong, rows)
    for wrong in (rows[:1], rows[:, :6]):
        with pytest.raises(ValueError, match="2 pictures have changes"):
            T.jitter_pictures(pictures, wrong)


def test_pictures_are_jittered_where_there_is_time():
    assert T.picture_transform(torch.device("cuda", 0)) is T.draw_picture
    assert T.picture_transform(torch.device("cpu")) is T.augment_picture
