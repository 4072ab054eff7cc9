"""Features: every cloud once, in order, whatever the batches and ranks. The probe of
pre-training: both classifiers on the same features."""

from pathlib import Path

import numpy as np
import torch

from datasets.labelled import ModelNet40
from models.dgcnn import DGCNN
from utils.judging.features import extract_features
from utils.judging.knn import knn_predict
from utils.judging.probe import run_probe
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed

CLOUDS = np.random.default_rng(0).normal(size=(7, 16, 3)).astype(np.float32)


def encoder() -> DGCNN:
    torch.manual_seed(0)
    return DGCNN(k=4, emb_dims=8).double()


def test_features_are_those_of_the_encoder_in_eval_mode() -> None:
    model = encoder().train()
    clouds = torch.from_numpy(CLOUDS).double().transpose(1, 2)
    with torch.no_grad():
        model(clouds)  # running statistics
    actual = extract_features(model, CLOUDS, 3)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(cloud[None])[1] for cloud in clouds]).numpy()
    assert actual.shape == (7, model.feature_dim)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def shard_features(first: int) -> np.ndarray:
    ends = [0, first, len(CLOUDS)]
    rank = distributed.rank()
    return extract_features(encoder(), CLOUDS[ends[rank] : ends[rank + 1]], 4)


def test_two_ranks_gather_the_features_of_one(two_ranks) -> None:
    expected = extract_features(encoder(), CLOUDS, 7)
    for first in (3, 0):  # uneven shares, and a rank without any cloud
        for actual in two_ranks.run(shard_features, first):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


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
