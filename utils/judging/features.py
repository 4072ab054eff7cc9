"""Features of a frozen encoder, computed over all ranks, no sample twice."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from utils.parallel import distributed
from utils.run.training import evaluation_batches


class Clouds(Protocol):
    """A split of a labelled data set, or this rank's share of it."""

    points: np.ndarray  # (M, N, 3), y up
    labels: np.ndarray  # (M,) indices into class_names
    class_names: list[str]


@torch.no_grad()
def in_batches(
    network: nn.Module,
    call: Callable[[Tensor], Tensor],
    points: np.ndarray,
    batches: Iterable[slice],
) -> list[Tensor]:
    """``call`` of batches (B, 3, N) of clouds (M, N, 3), on the CPU.

    The network is in eval mode meanwhile, so that no result depends on the samples
    beside it; batches come to its device and dtype.
    """
    was_training, example = network.training, next(network.parameters())
    network.eval()
    results = []
    for rows in batches:
        batch = torch.from_numpy(points[rows]).transpose(1, 2)
        results.append(call(batch.to(example.device, example.dtype)).cpu())
    network.train(was_training)
    return results


def extract_features(
    encoder: nn.Module, points: np.ndarray, batch_size: int, name: str = "features"
) -> np.ndarray:
    """Features of this rank's clouds, gathered from all ranks in order of rank.

    Args:
        encoder: a module with ``features(points (B, 3, N)) -> (B, F)``.
        points: (m, N, 3) float32, this rank's part of the data set; m may be 0.
        batch_size: clouds per step over all ranks.

    Returns:
        (M, F) in the encoder's dtype, the same on every rank; M is the sum of m.
    """
    network: Any = encoder  # feature_dim and features are not nn.Module's
    dtype = next(encoder.parameters()).dtype
    batches = evaluation_batches(len(points), batch_size, name)
    parts = in_batches(encoder, network.features, points, batches)
    features = torch.cat([torch.empty(0, network.feature_dim, dtype=dtype), *parts])
    return distributed.gather_array(features.to(dtype).numpy())


class FeatureSet(Dataset):
    """Features (M, F) with labels (M,), to train a linear probe on."""

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, num_classes: int
    ) -> None:
        self.features, self.labels = features, labels
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        """(feature (F,), label) of an index or an (epoch, index)."""
        index = key[1] if isinstance(key, tuple) else key
        return torch.from_numpy(self.features[index]), int(self.labels[index])
