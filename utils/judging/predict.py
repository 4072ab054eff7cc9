"""Use a network on any clouds: features, neighbours, classes, parts.

What predict.py and the notebook call. Clouds are (M, N, 3) arrays, as the attribute
``points`` of `datasets.own_files.Cloud` stacked; every function takes the network as an
argument, restores its mode, and runs on its device in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import PARTS_PER_CATEGORY
from utils.judging.knn import nearest as nearest  # one of the functions of this file


def features(
    encoder: nn.Module, clouds: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """Features (M, F) float32 of clouds (M, N, 3), the input of an SVM or a search.

    Args:
        encoder: has ``features(points (B, 3, N)) -> (B, F)``; a classifier and a part
            segmentation network do, too.
        clouds: as above.
        batch_size: clouds per step; does not change the result.
    """
    network: Any = encoder
    return _in_batches(encoder, network.features, clouds, batch_size)


def classify(
    network: nn.Module, clouds: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """Probabilities (M, classes) float32 of clouds (M, N, 3).

    Args:
        network: gives logits (B, classes) for points (B, 3, N).
        clouds, batch_size: as of :func:`features`.
    """
    return _in_batches(network, lambda x: network(x).softmax(1), clouds, batch_size)


def segment(
    network: nn.Module, clouds: np.ndarray, category: int, batch_size: int = 32
) -> np.ndarray:
    """The part of every point, (M, N) int64, numbered 0 to 49 over all categories.

    Args:
        network: gives logits (B, 50, N) for points (B, 3, N) and categories (B, 16).
        clouds, batch_size: as of :func:`features`.
        category: of all the clouds, 0 to 15. As in the evaluation, a point may be given
            a part of another category.
    """

    def parts(points: Tensor) -> Tensor:
        numbers = torch.full((len(points),), category, device=points.device)
        one_hot = F.one_hot(numbers, len(PARTS_PER_CATEGORY))
        return network(points, one_hot).argmax(dim=1)

    return _in_batches(network, parts, clouds, batch_size)


def spread(values: np.ndarray, sampled: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The value (P,) of each point, taken from the nearest sampled point.

    Args:
        values: (N,), such as parts.
        sampled, points: (N, 3) and (P, 3), in the same coordinates.
    """
    from sklearn.neighbors import KDTree  # slow to import

    return values[KDTree(sampled).query(points, return_distance=False)[:, 0]]


@torch.no_grad()
def _in_batches(
    network: nn.Module,
    call: Callable[[Tensor], Tensor],
    clouds: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """``call`` of batches (B, 3, N), the network in eval mode, one array of all."""
    was_training, example = network.training, next(network.parameters())
    network.eval()
    results = []
    for first in range(0, len(clouds), batch_size):
        batch = torch.from_numpy(clouds[first : first + batch_size]).transpose(1, 2)
        result = call(batch.to(example.device, example.dtype)).cpu()
        results.append(result.float() if result.is_floating_point() else result)
    network.train(was_training)
    return torch.cat(results).numpy()
