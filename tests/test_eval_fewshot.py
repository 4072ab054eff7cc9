"""The few-shot evaluation: which episodes are drawn, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets import labelled_clouds
from datasets.corruptions import KINDS, corrupted
from datasets.labelled import ModelNet40
from models.dgcnn import DGCNN
from tests.helpers.runs import judge_fewshot
from utils.judging.features import extract_features
from utils.judging.fewshot import evaluate_episodes
from utils.run import cli
from utils.run.checkpoint import save_weights
from utils.run.run_folder import read_metrics


def test_split_and_seed_choose_the_episodes(tmp_path: Path, even_root: Path) -> None:
    torch.manual_seed(0)
    encoder = DGCNN(k=5, emb_dims=16)
    save_weights(encoder, tmp_path / "w.pth")
    actual = []
    for split, seed in (("train", 1), ("test", 1), ("train", 2)):
        words = ("--model_path", str(tmp_path / "w.pth"), "--split", split)
        run = judge_fewshot(tmp_path, even_root, *words, "--seed", str(seed))
        (line,) = read_metrics(run)
        clouds = labelled_clouds("modelnet40", even_root, split, 64)
        features = extract_features(encoder, clouds.points, 32)
        expected = evaluate_episodes(features, clouds.labels, 3, 2, 2, 8, seed)
        assert line["accuracies"] == list(expected.accuracies)
        assert (line["k_way"], line["m_shot"]) == (3, 2)
        assert "3 ways  2 shots" in (run / "run.log").read_text()
        actual.append(line["accuracies"])
    assert actual[0] not in (actual[1], actual[2])


def test_corrupted_queries_of_the_same_episodes(
    tmp_path: Path, even_root: Path
) -> None:
    words = "--model_path none --corrupt 3 --seed 4".split()
    run = judge_fewshot(tmp_path, even_root, *words)
    (line,) = read_metrics(run)
    torch.manual_seed(4)
    encoder, clouds = DGCNN(k=5, emb_dims=16), ModelNet40(even_root, "train", 64)
    features = {
        kind: extract_features(encoder, points, 32)
        for kind, points in (
            ("clean", clouds.points),
            *((kind, corrupted(clouds.points, kind, 3, 4, 0)) for kind in KINDS),
        )
    }
    setting = (clouds.labels, 3, 2, 2, 8, 4)
    clean = features.pop("clean")
    assert line["mean"] == evaluate_episodes(clean, *setting).mean
    for kind, own in features.items():
        expected = evaluate_episodes(clean, *setting, {kind: own}).copies
        assert line["corrupted"][kind] == expected[kind]
    means = [line["corrupted"][kind] for kind in KINDS]
    assert line["corrupted"]["mean"] == pytest.approx(sum(means) / 4)
    assert "corrupted: turned " in (run / "run.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--split test --m_shot 3", r"class .* has 4 samples"),
        ("--k_way 6", "--k_way 6"),
        ("--k_way 1", "--k_way 1 leaves nothing to classify"),
        ("--table", "--table sets --k_way and --m_shot"),
    ],
)
def test_impossible_episodes_are_refused(
    words: str, message: str, tmp_path: Path, even_root: Path
) -> None:
    with pytest.raises(cli.UsageError, match=message):
        judge_fewshot(tmp_path, even_root, "--model_path", "none", *words.split())
    assert not (tmp_path / "checkpoints").exists()
