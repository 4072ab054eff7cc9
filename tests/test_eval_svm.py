"""The SVM evaluation: numbers and files against scikit-learn, honest choice of C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from datasets import SCANOBJECTNN_VARIANTS, labelled
from datasets.corruptions import KINDS, corrupted
from datasets.labelled import ModelNet40
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.conftest import UNEVEN_CLASSES
from tests.helpers.runs import judge_svm
from utils.judging.features import extract_features
from utils.judging.judges import judge_clouds
from utils.judging.svm import fit_linear_svm, held_out_split
from utils.run import cli
from utils.run.checkpoint import save_weights
from utils.run.run_folder import read_metrics


def judge(folder: Path, data: Path, *words: str) -> Path:
    """Run the script, with an untrained encoder unless told otherwise."""
    return judge_svm(folder, data, "--model_path", "none", *words)


@pytest.mark.parametrize("seed", [1, 2])
def test_C_is_chosen_without_test_data_and_files_agree(
    seed: int, tmp_path: Path, even_root: Path
) -> None:
    torch.manual_seed(3)
    encoder = DGCNN(k=5, emb_dims=16)
    save_weights(encoder, tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--C", "100", "1", "10")
    words = (*words, "--seed", str(seed), "--save_features", str(tmp_path / "f.npz"))
    run = judge(tmp_path, even_root, *words)
    (line,) = read_metrics(run)
    saved = np.load(tmp_path / "f.npz")
    train, test = saved["train"].astype(float), saved["test"].astype(float)
    labels, truth = saved["train_labels"], saved["test_labels"]
    assert (train.shape, test.shape) == ((30, 32), (20, 32))
    assert [row["C"] for row in line["table"]] == [1, 10, 100]
    kept, held = held_out_split(labels, seed)
    accuracy, predicted = {}, {}
    for row in line["table"]:
        C = row["C"]
        svm = SVC(kernel="linear", C=C).fit(train[kept], labels[kept])
        accuracy[C] = svm.score(train[held], labels[held])
        predicted[C] = SVC(kernel="linear", C=C).fit(train, labels).predict(test)
        assert row["held_out"] == accuracy[C]
        assert row["test"] == np.mean(predicted[C] == truth)
    chosen = max(accuracy, key=lambda C: (accuracy[C], -C))
    assert line["C"] == chosen
    assert line["accuracy"] == np.mean(predicted[chosen] == truth)

    counts = np.zeros((5, 5), int)  # true classes down
    np.add.at(counts, (truth, predicted[chosen]), 1)
    assert (counts != counts.T).any()
    text = (run / "confusion_modelnet40.csv").read_text()
    assert [line.split(",") for line in text.splitlines()] == [
        ["true\\predicted", *UNEVEN_CLASSES],
        *([name, *map(str, n)] for name, n in zip(UNEVEN_CLASSES, counts, strict=True)),
    ]
    log = (run / "run.log").read_text()
    assert "<- chosen on held-out data" in log
    assert "best of the table, chosen on test data" in log
    assert f"{len(encoder.state_dict())} entries loaded" in log


def test_all_judges_classify_clean_and_corrupted_clouds(
    tmp_path: Path, even_root: Path
) -> None:
    words = "--C 10 --knn 3 --labels_per_class 1 4 --draws 3 --corrupt 2 --seed 5"
    saved = tmp_path / "f.npz"
    run = judge(tmp_path, even_root, *words.split(), "--save_features", str(saved))
    (line,) = read_metrics(run)
    arrays = np.load(saved)
    train = arrays["train"], arrays["train_labels"]
    torch.manual_seed(5)
    encoder, clouds = DGCNN(k=5, emb_dims=16), ModelNet40(even_root, "test", 64)
    tests = {"clean": arrays["test"]}
    for kind in KINDS:
        points = corrupted(clouds.points, kind, 2, 5, 0)
        tests[kind] = extract_features(encoder, points, 32)
    svm = fit_linear_svm(*train, 10.0)
    expected = judge_clouds(svm, train, tests, clouds.labels, 3, (1, 4), 3, 5)
    clean = expected.pop("clean")
    assert {name: line[name] for name in clean} == clean
    assert line["corrupted"] == expected
    assert "one-sided" in (run / "run.log").read_text()


def test_more_labels_than_a_class_has_are_refused(
    tmp_path: Path, uneven_root: Path
) -> None:
    with pytest.raises(cli.UsageError, match="--labels_per_class 2: class 'cross' has"):
        judge(tmp_path, uneven_root, "--labels_per_class", "1", "2")
    assert not (tmp_path / "checkpoints").exists()


def features(folder: Path, data: Path, *words: str) -> np.ndarray:
    """Of the training split."""
    path = folder / "f.npz"
    judge(folder, data, "--save_features", str(path), *words)
    return np.load(path)["train"]


def test_the_segmentation_encoder_and_the_variants_of_scanobjectnn(
    tmp_path: Path, synthetic_root: Path
) -> None:
    save_weights(DGCNNPartSeg(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--model", "dgcnn_seg", "--model_path", str(tmp_path / "w.pth"))
    words = (*words, "--dataset", "scanobjectnn", "--variant")
    one, other = (
        features(tmp_path, synthetic_root, *words, variant)
        for variant in ("obj_only", "pb_t50_rs")
    )
    assert one.shape == other.shape == (24, 16)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("f.npz", "modelnet40 scanobjectnn", "takes one --dataset at a time"),
        ("no/f.npz", "modelnet40", "not NAME.npz in a folder"),
        ("file/f.npz", "modelnet40", "not NAME.npz in a folder"),
        ("f", "modelnet40", "not NAME.npz in a folder"),
    ],
)
def test_features_that_cannot_be_saved_are_refused_at_once(
    name: str, dataset: str, message: str, tmp_path: Path, even_root: Path
) -> None:
    (tmp_path / "file").touch()
    words = ("--save_features", str(tmp_path / name), "--dataset", *dataset.split())
    with pytest.raises(cli.UsageError, match=rf"--save_features .*{message}"):
        judge(tmp_path, even_root, *words)
    assert not (tmp_path / "checkpoints").exists()


def test_names_known_without_pytorch_are_those_of_the_readers() -> None:
    assert tuple(labelled.VARIANTS) == SCANOBJECTNN_VARIANTS
