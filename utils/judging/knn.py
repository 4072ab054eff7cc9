"""k-nearest-neighbour classification of features: a judge with nothing to fit."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO's evaluation
_BLOCK = 1024  # test rows per matrix of similarities


def knn_predict(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """The class of each test row by a weighted vote of its nearest training rows.

    A neighbour votes with ``exp(cosine / temperature)`` for its own class (DINO, Caron
    et al., ICCV 2021). Computed in float64.

    Args:
        train, test: features (M, F) and (T, F), finite.
        labels: (M,) of the training rows, integers >= 0.
        k: neighbours that vote; all M if there are fewer.
        temperature: the lower, the more the nearest count.

    Returns:
        (T,) labels: the class with most votes, the first of equal ones.

    Raises:
        ValueError: if the features are not finite.
    """
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise ValueError("features are not finite: the encoder has diverged")
    among, classes = _unit_rows(train), torch.from_numpy(labels)
    predicted = [torch.empty(0, dtype=torch.int64)]
    for rows in _unit_rows(test).split(_BLOCK):
        cosine, nearest = (rows @ among.T).topk(min(k, len(among)))  # (T, k)
        votes = cosine.new_zeros(len(rows), int(classes.max()) + 1)
        votes.scatter_add_(1, classes[nearest], (cosine / temperature).exp())
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted).numpy()


def _unit_rows(features: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(features).double(), dim=1)
