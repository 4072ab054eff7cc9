"""What the benchmarks count as the least work, against counts by hand."""

from __future__ import annotations

import math

from benchmarks import roofline
from models.image import ImageEncoder


def test_work_is_counted_on_distinct_points() -> None:
    sizes = roofline.Sizes("dgcnn", 3, 64, 15, augmented=True)
    points = roofline.clouds(3, 64, augmented=True)
    rows = [len(cloud.unique(dim=1).T) for cloud in points]
    assert min(rows) < 64
    assert roofline.cloud_work(sizes) == roofline.encoder_work("dgcnn", rows, 15, 3)
    # One cloud of n points: the terms in n and in n² of the products, by hand.
    convolutions = 4 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 256) + 2 * 512 * 1024
    distances = 2 * (3 + 64 + 64 + 128)
    work = roofline.encoder_work("dgcnn", [10, 20], 15, 3)
    assert work.operations == 3 * 30 * convolutions + distances * (100 + 400)


def test_work_of_images_is_that_of_the_published_network() -> None:
    # 4.09 G multiplications an image, three times in a step but for the first layer's.
    work = roofline.image_work(2)
    assert math.isclose(work.operations, 2 * 3 * 2 * 4.09e9, rel_tol=0.02)
    parameters = sum(p.numel() for p in ImageEncoder().parameters())
    assert work.moved > 28 * parameters


def test_work_of_the_part_segmentation_network() -> None:
    # One cloud of n points: three blocks of two layers, by hand.
    convolutions = 4 * (2 * 3 * 64 + 2 * 64 * 64) + 2 * 1024 * (128 + 192)
    second = 2 * 10 * 5 * (64 * 128 + 64 * 64 + 64 * 64)
    distances = 2 * (3 + 3 + 64 + 64)
    work = roofline.encoder_work("dgcnn_seg", [10], 5, 1)
    assert work.operations == 10 * convolutions + second + 100 * distances
    random, augmented = (
        roofline.cloud_work(roofline.Sizes("dgcnn_seg", 2, 64, 4, augmented))
        for augmented in (False, True)
    )
    assert augmented.operations < random.operations
