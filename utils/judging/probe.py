"""The result of the linear SVM probe on one test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
