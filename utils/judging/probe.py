"""The probe of pre-training: linear SVM and k-NN accuracy of the features so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from utils.errors import usage_errors
from utils.judging.features import Clouds, extract_features
from utils.judging.knn import knn_predict
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed


class Probed(NamedTuple):
    """Features of a test split and what the probe found, equal on all ranks.

    Attributes:
        features: (M, F).
        labels, predicted: (M,) indices into ``class_names``; the SVM's predictions.
        class_names: the names of all classes.
        knn_accuracy: of :func:`utils.judging.knn.knn_predict`.
    """

    features: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    class_names: Sequence[str]
    knn_accuracy: float

    @property
    def accuracy(self) -> float:
        """The share of clouds that the SVM classifies correctly."""
        return float(np.mean(self.predicted == self.labels))


def run_probe(
    encoder: nn.Module,
    train: Clouds,
    test: Clouds,
    C: float,
    batch_size: int,
    device: torch.device,
) -> Probed:
    """Classify the test split by a linear SVM and by k-NN on the encoder's features.

    All ranks compute features, rank 0 classifies.

    Args:
        encoder, batch_size, device: as of :func:`extract_features`.
        train, test: this rank's shares.
        C: of the SVM.
    """
    features, labels = [], []
    for split in (train, test):
        array = extract_features(encoder, split.points, batch_size, device, "probe")
        features.append(array)
        labels.append(distributed.gather_array(split.labels))

    def classify() -> tuple[np.ndarray, float]:
        with usage_errors():
            svm = fit_linear_svm(features[0], labels[0], C)
            voted = knn_predict(features[0], labels[0], features[1])
        return svm.predict(features[1]), float(np.mean(voted == labels[1]))

    predicted, knn_accuracy = distributed.run_on_main(classify)
    return Probed(features[1], labels[1], predicted, test.class_names, knn_accuracy)
