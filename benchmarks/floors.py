"""The least work of a case: matrix products and memory traffic.

Counted on the measured input, without what a form computes twice or in vain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Work
from datasets.transforms import augment_points
from models.edgeconv import PlainClouds
from models.image import ImageEncoder
from models.knn import knn
from models.partseg import DGCNNPartSeg
from utils.judging.fewshot import PUBLISHED_SETTINGS
from utils.parallel.seed import POINTS, generator

Sizes = tuple[str, int, int, int, bool]  # network, k, batch, points, augmented


def clouds(batch: int, points: int, augmented: bool = False) -> Tensor:
    """(B, 3, N): standard normal, or as pre-training would see them."""
    random = np.random.default_rng(0)
    found = []
    for index in range(batch):
        cloud = random.normal(size=(points, 3)).astype(np.float32)
        if augmented:
            cloud = augment_points(cloud, generator(POINTS, 0, 0, index))
        found.append(torch.as_tensor(np.ascontiguousarray(cloud.T)))
    return torch.stack(found)


def distinct_points(x: Tensor) -> list[int]:
    """Of each cloud (B, 3, N), the number of points without duplicates."""
    return (1 + (x != x[:, :, :1]).any(dim=1).sum(dim=1)).tolist()


class _CountedClouds(PlainClouds):
    """Counts the distinct edges of every EdgeConv of two layers."""

    def __init__(self, points: Tensor, k: int) -> None:
        super().__init__(points, k)
        self.copies = (points == points[:, :, :1]).all(dim=1)  # (B, N), the first too
        self.edges: list[int] = []

    def edge_conv(self, x: Tensor, *layers: nn.Sequential) -> Tensor:
        if len(layers) == 2:
            idx = knn(x, self.k)  # (B, N, K)
            batch = torch.arange(len(idx))[:, None, None]
            copies = self.copies[batch, idx]
            of_point = (~copies).sum(dim=2) + copies.any(dim=2)  # (B, N)
            own = ~self.copies
            own[:, 0] = True
            self.edges.append(int(of_point[own].sum()))
        return super().edge_conv(x, *layers)


@torch.no_grad()
def distinct_edges(points: Tensor, k: int) -> list[int]:
    """Of clouds (B, 3, N), the edges in each EdgeConv of two layers of an untrained
    part-segmentation network, duplicate points merged at either end."""
    torch.manual_seed(0)
    model = DGCNNPartSeg(k=k).train()
    counted = _CountedClouds(points, k)
    aligned = counted.transform(model.transform_net(counted))
    local = counted.edge_conv(aligned, model.conv1, model.conv2)
    counted.edge_conv(local, model.conv3, model.conv4)
    return counted.edges


def encoder_work(
    network: str, rows: Sequence[int], edges: Sequence[int], passes: int
) -> Work:
    """Products and traffic of an encoder's features in the fused form.

    Convolutions on N points instead of N K edges, except second layers on edges; one
    product for the distances of every graph; each layer's output written and read once.
    The backward pass doubles the products.

    Args:
        network: ``dgcnn`` or ``dgcnn_seg``.
        rows: points of each cloud without duplicates.
        edges: of all clouds in each EdgeConv of two layers, without duplicates.
        passes: 3 for a training step, 1 for features alone.
    """
    # (in, out) of first layers on edges, which are two products on points, of layers on
    # points and of second layers on edges; channels of the graphs.
    second: list[tuple[int, int]] = []
    if network == "dgcnn":
        split = [(3, 64), (64, 64), (64, 128), (128, 256)]
        points = [(512, 1024)]
        compared = (3, 64, 64, 128)
    else:
        split = [(3, 64), (3, 64), (64, 64), (64, 64)]
        points = [(128, 1024), (192, 1024)]
        second = [(64, 128), (64, 64), (64, 64)]
        compared = (3, 3, 64, 64)
    each = sum(2 * 2 * a * b for a, b in split) + sum(2 * a * b for a, b in points)
    products = sum(rows) * each
    products += sum(2 * n * a * b for n, (a, b) in zip(edges, second, strict=True))
    outputs = sum(b for _, b in (*split, *points, *second))
    distances = sum(2 * c for c in compared) * sum(n * n for n in rows)
    traffic = 2 * (2 if passes > 1 else 1) * 4 * outputs
    return Work(products * passes + distances, sum(rows) * traffic)


def cloud_work(sizes: Sizes, passes: int = 3) -> Work:
    """:func:`encoder_work` for the clouds of :func:`clouds`."""
    network, k, batch, points, augmented = sizes
    x = clouds(batch, points, augmented)
    edges: list[int] = []
    if network == "dgcnn_seg":
        edges = distinct_edges(x, k) if augmented else [batch * points * k] * 3
    return encoder_work(network, distinct_points(x), edges, passes)


def few_shot_work(episodes: int, features: int = 2048, queries: int = 20) -> Work:
    """Products of the support with itself and with the queries, in float64.

    Args:
        episodes: of each published setting.
        features: of a cloud.
        queries: of each class.
    """
    operations = 0.0
    for ways, shots in PUBLISHED_SETTINGS:
        support, query = ways * shots, ways * queries
        operations += features * (support * support + 2 * support * query)
    return Work(episodes * operations, double=True)


def loader_work(shapes: int, points: int, size: int) -> Work:
    """A cloud read, and written for each view; an image read and written."""
    return Work(moved=shapes * (3 * 4 * points * 3 + 2 * 3 * size * size))


def svm_work(train: int, test: int, classes: int) -> Work:
    """The training set's Gram matrix, and the decisions for the test set."""
    pairs = classes * (classes - 1) // 2
    return Work(2048.0 * train * train + 2.0 * test * 2048 * pairs, double=True)


def image_work(images: int, backbone: str = "resnet50", size: int = 224) -> Work:
    """Products of a step of the image encoder, and the traffic of its update.

    Counted on the meta device: each convolution's output is written and read once
    forward and backward; Adam reads four numbers of each parameter (value, gradient,
    two moments) and writes three.
    """
    with torch.device("meta"):
        model, batch = ImageEncoder(backbone), torch.zeros(images, 3, size, size)
    outputs = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *a: outputs.append(a[2].numel()))
    with FlopCounterMode(display=False) as counted:
        model(batch).sum().backward()
    parameters = sum(p.numel() for p in model.parameters())
    moved = 4 * (4 * sum(outputs) + 7 * parameters)
    return Work(counted.get_total_flops(), moved)


def pretraining_work(pairs: int, points: int = 2048, k: int = 15) -> Work:
    """Both encoders' work, duplicate points merged."""
    rows = distinct_points(clouds(2 * pairs, points, augmented=True))
    return encoder_work("dgcnn", rows, (), 3) + image_work(pairs)
