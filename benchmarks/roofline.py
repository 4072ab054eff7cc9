"""The inputs of the cases, and the least work on them: products and memory traffic.

Work is counted on the measured input, duplicate points once, and without what a form
computes twice or in vain.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Work
from datasets.transforms import augment_points
from models.fused.batch import distinct_points
from models.image import ImageEncoder
from utils.judging.fewshot import PUBLISHED_SETTINGS
from utils.parallel.seed import POINTS, generator


class Sizes(NamedTuple):
    """A point encoder and its input."""

    network: str  # dgcnn, dgcnn_seg or pointnet
    batch: int
    points: int
    k: int  # 0 for pointnet
    augmented: bool = False


def clouds(batch: int, points: int, augmented: bool = False) -> Tensor:
    """(B, 3, N): standard normal, or such clouds augmented as in pre-training."""
    random = np.random.default_rng(0)
    made = random.normal(size=(batch, points, 3)).astype(np.float32)
    for index in range(batch if augmented else 0):
        made[index] = augment_points(made[index], generator(POINTS, 0, 0, index))
    return torch.from_numpy(made).transpose(1, 2).contiguous()


def encoder_work(network: str, rows: list[int], k: int, passes: int) -> Work:
    """Products and traffic of an encoder's features in the fused form.

    Convolutions on N points instead of N K edges, except second layers on edges; one
    product for the distances of every graph; each layer's output written and read once.
    The backward pass doubles the products: 3 passes are a training step, 1 features
    alone. ``rows`` are the distinct points of each cloud; that some of the K edges of a
    point of an augmented cloud coincide is not counted, below 1 % of the work.
    """
    # (in, out) of first layers on edges, which are two products on points, of layers on
    # points and of second layers on edges; channels of the graphs.
    if network == "dgcnn":
        first = [(3, 64), (64, 64), (64, 128), (128, 256)]
        points, second = [(512, 1024)], list[tuple[int, int]]()
        graphs: tuple[int, ...] = (3, 64, 64, 128)
    elif network == "pointnet":
        first, second, graphs = [], [], ()
        points = [(3, 64), (64, 64), (64, 64), (64, 128), (128, 1024)]
    else:
        first = [(3, 64), (3, 64), (64, 64), (64, 64)]
        points, second = [(128, 1024), (192, 1024)], [(64, 128), (64, 64), (64, 64)]
        graphs = (3, 3, 64, 64)
    # Multiplications and outputs of one point; with its addition each counts twice.
    per_point = sum(2 * a * b for a, b in first) + sum(a * b for a, b in points)
    per_point += k * sum(a * b for a, b in second)
    outputs = sum(b for _, b in (*first, *points, *second))
    distances = sum(graphs) * sum(n * n for n in rows)
    traffic = 2 * (2 if passes > 1 else 1) * 4 * outputs
    return Work(2.0 * (passes * sum(rows) * per_point + distances), sum(rows) * traffic)


def cloud_work(sizes: Sizes, passes: int = 3) -> Work:
    """:func:`encoder_work` for the clouds of :func:`clouds`."""
    points = clouds(sizes.batch, sizes.points, sizes.augmented)
    rows = distinct_points(points).offsets.diff().tolist()
    return encoder_work(sizes.network, rows, sizes.k, passes)


def image_work(images: int) -> Work:
    """Products of a step of ResNet-50 at 224, and the traffic of its update.

    Counted on the meta device: each convolution's output is written and read once
    forward and backward; Adam reads four numbers of each parameter (value, gradient,
    two moments) and writes three.
    """
    with torch.device("meta"):
        model, batch = ImageEncoder(), torch.zeros(images, 3, 224, 224)
    outputs = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *a: outputs.append(a[2].numel()))
    with FlopCounterMode(display=False) as counted:
        model(batch).sum().backward()
    parameters = sum(p.numel() for p in model.parameters())
    moved = 4 * (4 * sum(outputs) + 7 * parameters)
    return Work(counted.get_total_flops(), moved)


def pretraining_work(pairs: int, views: int = 1) -> Work:
    """Both encoders' work in a pre-training step, by the number of images per shape."""
    sizes = Sizes("dgcnn", 2 * pairs, 2048, 15, augmented=True)
    clouds, images = cloud_work(sizes), image_work(views * pairs)
    return Work(clouds.operations + images.operations, clouds.moved + images.moved)


def few_shot_work(episodes: int, features: int = 2048) -> Work:
    """Products of the support with itself and with 20 queries a class, in float64.

    Args:
        episodes: of each published setting.
        features: numbers per cloud.
    """
    operations = 0.0
    for ways, shots in PUBLISHED_SETTINGS:
        support, query = ways * shots, ways * 20
        operations += features * (support * support + 2 * support * query)
    return Work(episodes * operations, double=True)
