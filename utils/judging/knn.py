"""Nearest neighbours of features, and classification by them: nothing to fit."""

import numpy as np
import torch
import torch.nn.functional as F

NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO's evaluation
_BLOCK = 1024  # queries per matrix of cosines


def nearest(
    queries: np.ndarray, candidates: np.ndarray, top: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar features, by cosine similarity, in float64.

    Args:
        queries: (Q, F).
        candidates: (M, F).
        top: neighbours of each query; M of them if that is fewer.

    Returns:
        Rows of ``candidates`` and their cosines, (Q, top) each, the nearest first.
    """
    unit, others = (
        F.normalize(torch.from_numpy(x).double(), dim=1) for x in (queries, candidates)
    )
    top = min(top, len(others))
    blocks = [(block @ others.T).topk(top) for block in unit.split(_BLOCK)]
    cosines, rows = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
    return rows, cosines


def knn_predict(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int = NEIGHBOURS
) -> np.ndarray:
    """Classify each test row by a weighted vote of its nearest training rows.

    A neighbour votes with ``exp(cosine / TEMPERATURE)`` for its own class (DINO, Caron
    et al., ICCV 2021).

    Args:
        train, test: features (M, F) and (T, F), finite.
        labels: (M,) of the training rows, integers >= 0.
        k: neighbours that vote; all M if there are fewer.

    Returns:
        (T,) labels: the class with most votes; ties go to the first.

    Raises:
        ValueError: if the features are not finite.
    """
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise ValueError("features are not finite: the encoder has diverged")
    rows, cosines = nearest(test, train, k)
    votes = np.zeros((len(test), labels.max() + 1))
    places = np.arange(len(test))[:, None], labels[rows]
    np.add.at(votes, places, np.exp(cosines / TEMPERATURE))
    return votes.argmax(axis=1)
