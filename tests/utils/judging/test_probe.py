"""The probe of pre-training: both classifiers on the same features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datasets.labelled import ModelNet40
from models.dgcnn import DGCNN
from utils.judging.features import extract_features
from utils.judging.knn import knn_predict
from utils.judging.probe import run_probe
from utils.judging.svm import fit_linear_svm


def test_both_classifiers_see_the_features_of_both_splits(even_root: Path) -> None:
    torch.manual_seed(0)
    encoder = DGCNN(k=5, emb_dims=16)
    splits = [ModelNet40(even_root, split, 64) for split in ("train", "test")]
    probed = run_probe(encoder, *splits, C=10.0, batch_size=8)
    (train, labels), (test, truth) = (
        (extract_features(encoder, s.points, 8), s.labels) for s in splits
    )
    assert (probed.features == test).all() and (probed.labels == truth).all()
    predicted = fit_linear_svm(train, labels, 10.0).predict(test)
    assert (probed.predicted == predicted).all()
    assert probed.accuracy == np.mean(predicted == truth)
    voted = knn_predict(train, labels, test, k=20)
    assert probed.knn_accuracy == np.mean(voted == truth) != probed.accuracy
