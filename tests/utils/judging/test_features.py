"""Features: every cloud once, in order, whatever the batches and ranks."""

from __future__ import annotations

import numpy as np
import torch

from models.dgcnn import DGCNN
from utils.judging.features import extract_features
from utils.parallel import distributed

CLOUDS = np.random.default_rng(0).normal(size=(7, 16, 3)).astype(np.float32)


def encoder() -> DGCNN:
    torch.manual_seed(0)
    return DGCNN(k=4, emb_dims=8).double()


def test_features_are_those_of_the_encoder_in_eval_mode() -> None:
    model = encoder().train()
    with torch.no_grad():
        model(torch.from_numpy(CLOUDS).double().transpose(1, 2))  # running statistics
    actual = extract_features(model, CLOUDS, 3)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = [
            model(torch.from_numpy(cloud.T.copy()).double()[None])[1][0].numpy()
            for cloud in CLOUDS
        ]
    assert actual.shape == (7, model.feature_dim)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-12)


def shard_features(first: int) -> np.ndarray:
    ends = [0, first, len(CLOUDS)]
    rank = distributed.rank()
    return extract_features(encoder(), CLOUDS[ends[rank] : ends[rank + 1]], 4)


def test_two_ranks_gather_the_features_of_one(two_ranks) -> None:
    expected = extract_features(encoder(), CLOUDS, 7)
    for first in (3, 0):  # uneven shares, and a rank without any cloud
        for actual in two_ranks.run(shard_features, first):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)
