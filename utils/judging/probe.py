"""The probe of pre-training: linear SVM and k-NN accuracy of the features so far."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from utils.errors import usage_errors
from utils.judging.features import Clouds, extract_features
from utils.judging.knn import knn_predict
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed


class Probed(NamedTuple):
    """Features of a test split and what the probe found, equal on all ranks."""

    features: np.ndarray  # (M, F)
    labels: np.ndarray  # (M,) indices into class_names
    predicted: np.ndarray  # (M,) by the SVM
    class_names: Sequence[str]
    knn_accuracy: float

    @property
    def accuracy(self) -> float:
        """The share of clouds that the SVM classifies correctly."""
        return float(np.mean(self.predicted == self.labels))


def run_probe(
    encoder: nn.Module, train: Clouds, test: Clouds, C: float, batch_size: int
) -> Probed:
    """Classify the test split by a linear SVM and by k-NN on the encoder's features.

    All ranks compute features of their shares, rank 0 classifies.
    """
    features, labels = [], []
    for split in (train, test):
        features.append(extract_features(encoder, split.points, batch_size, "probe"))
        labels.append(distributed.gather_array(split.labels))

    def classify() -> tuple[np.ndarray, float]:
        with usage_errors():
            svm = fit_linear_svm(features[0], labels[0], C)
            voted = knn_predict(features[0], labels[0], features[1])
        return svm.predict(features[1]), float(np.mean(voted == labels[1]))

    predicted, knn_accuracy = distributed.run_on_main(classify)
    return Probed(features[1], labels[1], predicted, test.class_names, knn_accuracy)
