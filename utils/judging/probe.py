"""The linear SVM probe: how pre-training's features do while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from utils.errors import usage_errors
from utils.judging.features import extract_features
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed


class Split(Protocol):
    """This rank's clouds (m, N, 3) of a split, their labels (m,), and all classes."""

    points: np.ndarray
    labels: np.ndarray
    class_names: list[str]


class Probed(NamedTuple):
    """Features of a test split and the SVM's predictions, equal on all ranks.

    Attributes:
        features: (M, F).
        labels, predicted: (M,) indices into ``class_names``.
        class_names: the names of all classes.
    """

    features: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    class_names: Sequence[str]

    @property
    def accuracy(self) -> float:
        """The share of clouds that were given their label."""
        return float(np.mean(self.predicted == self.labels))


def run_probe(
    encoder: nn.Module,
    train: Split,
    test: Split,
    C: float,
    batch_size: int,
    device: torch.device,
) -> Probed:
    """Classify the test split by a linear SVM on the encoder's features.

    All ranks compute features, rank 0 fits the SVM.

    Args:
        encoder, batch_size, device: as of :func:`extract_features`.
        train, test: this rank's shares.
        C: of the SVM.
    """
    features, labels = [], []
    for split in (train, test):
        found = extract_features(encoder, split.points, batch_size, device, "probe")
        features.append(found)
        labels.append(distributed.gather_array(split.labels))

    def fit() -> list[int]:
        with usage_errors():
            svm = fit_linear_svm(features[0], labels[0], C)
        return svm.predict(features[1]).tolist()

    predicted = np.array(distributed.run_on_main(fit))
    return Probed(features[1], labels[1], predicted, test.class_names)
