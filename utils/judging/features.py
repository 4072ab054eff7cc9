"""Features of a frozen encoder, computed over all ranks, no sample twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from utils.parallel import distributed
from utils.run.logger import progress


@torch.no_grad()
def extract_features(
    encoder: nn.Module,
    points: np.ndarray,
    batch_size: int,
    device: torch.device,
    name: str = "features",
) -> np.ndarray:
    """Features of this rank's clouds, gathered from all ranks in order of rank.

    The encoder is put into eval mode for the time of the call, so that a sample's
    feature does not depend on the samples beside it.

    Args:
        encoder: a module with ``features(points (B, 3, N)) -> (B, F)``.
        points: (m, N, 3) float32, this rank's part of the data set; m may be 0.
        batch_size: clouds a step over all ranks.
        name: label of the progress bar.

    Returns:
        (M, F) float32 with M the sum of m over the ranks, the same on every rank.
    """
    was_training = encoder.training
    encoder.eval()
    dtype = next(encoder.parameters()).dtype
    own = max(1, batch_size // distributed.world_size())
    described: Any = encoder  # more than every module has
    parts = [np.empty((0, described.feature_dim), np.float32)]
    bar = progress(total=len(points), desc=name, unit="cloud")
    for first in range(0, len(points), own):
        batch = torch.from_numpy(points[first : first + own]).transpose(1, 2)
        feature = described.features(batch.to(device, dtype))
        parts.append(feature.float().cpu().numpy())
        bar.update(len(batch))
    bar.close()
    encoder.train(was_training)
    return distributed.gather_array(np.concatenate(parts))
