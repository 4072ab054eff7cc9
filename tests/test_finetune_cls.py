"""Fine-tuning for classification: the same numbers on any world size; its weights."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import finetune_cls
from datasets.labelled import labelled_share
from models.dgcnn import DGCNN
from tests.helpers.runs import (
    agree,
    evaluated,
    finetune,
    interrupted,
    metrics,
    same_records,
    same_weights,
    weights,
)
from utils.run import checkpoint

TEST_KEYS = ("test_loss", "test_accuracy", "test_class_accuracy")
NUM_CLASSES = 5  # of the fixture `uneven_root`, one without a cloud


def test_two_processes_train_a_linear_probe_as_one_does(
    tmp_path: Path, uneven_root: Path, two_ranks
) -> None:
    torch.manual_seed(3)
    encoder = DGCNN(k=5, emb_dims=16).double()
    with torch.no_grad():
        for value in (*encoder.parameters(), encoder.bn1.running_var):
            value *= 1.1  # numbers that float32 does not have
    checkpoint.save_weights(encoder, tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--freeze_encoder")
    words += ("--precision", "fp64", "--epochs", "2", "--weight_decay", "0.1")
    one = finetune(tmp_path / "one", uneven_root, *words)
    two = two_ranks.run(finetune, tmp_path / "two", uneven_root, *words)[0]
    agree(one, two)
    torch.manual_seed(1)
    initial = DGCNN(5, 16, NUM_CLASSES, linear_head=True).state_dict()
    given = encoder.state_dict()
    for run in (one, two):
        actual = weights(run)
        assert set(actual) == set(initial)
        for name, value in actual.items():
            if name.split(".")[0] == "linear":
                assert not torch.equal(value, initial[name].to(value.dtype)), name
            else:
                assert torch.equal(value, given[name]), name


def test_a_linear_probe_encodes_each_cloud_once(
    tmp_path: Path, uneven_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []

    def features(self: DGCNN, points: torch.Tensor) -> torch.Tensor:
        encoded.append(len(points))
        return encode(self, points)

    encode = DGCNN.features
    monkeypatch.setattr(DGCNN, "features", features)
    checkpoint.save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--freeze_encoder")
    finetune(tmp_path, uneven_root, *words, "--epochs", "3")
    assert sum(encoded) == 21 + 13  # the training and the test clouds


def test_a_linear_probe_resumes_with_the_features_of_its_encoder(
    tmp_path: Path, uneven_root: Path
) -> None:
    checkpoint.save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--freeze_encoder")
    words += ("--epochs", "3", "--checkpoint_steps", "1")
    whole = finetune(tmp_path / "whole", uneven_root, *words)
    parts = tmp_path / "parts"
    interrupted(4, finetune, parts, uneven_root, *words)
    resumed = finetune(parts, uneven_root, *words, "--resume")
    same_records(whole, resumed)
    same_weights(whole, resumed)


def test_the_test_metrics_against_a_loop(tuned: Path, uneven_root: Path) -> None:
    folder = uneven_root / "modelnet40_ply_hdf5_2048"
    with h5py.File(folder / "ply_data_test0.h5") as file:
        clouds, labels = file["data"][:, :64], file["label"][:, 0].astype(int)
    for line in metrics(tuned)[1]:
        model = DGCNN(5, 16, NUM_CLASSES).eval()
        path = tuned / "models" / f"ckpt_epoch_{line['epoch'] + 1}.pth"
        checkpoint.load_pretrained(model, path)
        losses, right = [], {}
        for cloud, label in zip(clouds, labels, strict=True):
            with torch.no_grad():
                logits = model(torch.from_numpy(cloud.T[None].copy()))
            losses.append(-F.log_softmax(logits, dim=1)[0, label].item())
            right.setdefault(label, []).append(int(logits.argmax()) == label)
        assert math.isclose(line["test_loss"], np.mean(losses), rel_tol=1e-5)
        assert line["test_accuracy"] == np.mean(
            [hit for hits in right.values() for hit in hits]
        )
        rates = [np.mean(hits) for hits in right.values()]
        assert math.isclose(line["test_class_accuracy"], np.mean(rates))


@pytest.mark.slow
def test_any_world_size_and_test_batch_evaluate_alike(
    tmp_path: Path, tuned: Path, uneven_root: Path, two_ranks, four_ranks
) -> None:
    best = max(metrics(tuned)[1], key=lambda line: line["test_accuracy"])
    path = str(tuned / "models" / "best_model.pth")
    words = (uneven_root, "--eval", "--model_path", path)
    run = finetune(tmp_path / "one", *words, "--exp_name", "")
    assert run.name == "eval_modelnet40_run_best_model"
    one = evaluated(run)
    assert set(one) == {"dataset", "model_path", "test_size", *TEST_KEYS}
    assert {name: one[name] for name in TEST_KEYS} == {n: best[n] for n in TEST_KEYS}
    assert one["test_size"] == 13
    assert one["test_accuracy"] != one["test_class_accuracy"]
    runs = [finetune(tmp_path / "single", *words, "--test_batch_size", "1")]
    runs += [two_ranks.run(finetune, tmp_path / "two", *words)[0]]
    runs += [four_ranks.run(finetune, tmp_path / "four", *words)[0]]
    for run in runs:
        other = evaluated(run)
        assert other["test_accuracy"] == one["test_accuracy"]
        assert other["test_class_accuracy"] == one["test_class_accuracy"]
        assert math.isclose(other["test_loss"], one["test_loss"], rel_tol=1e-6)
    log = (run / "run.log").read_text()
    assert f"test_accuracy {one['test_accuracy']:.4f}" in log
    assert "entries loaded" in log


def test_a_label_fraction_trains_on_those_clouds_alone(
    tmp_path: Path, uneven_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    loader = finetune_cls.data_loader
    monkeypatch.setattr(
        finetune_cls, "data_loader", lambda d, *rest: seen.append(d) or loader(d, *rest)
    )
    words = ("--from_scratch", "--epochs", "1", "--label_fraction", "0.34")
    with h5py.File(
        uneven_root / "modelnet40_ply_hdf5_2048" / "ply_data_train0.h5"
    ) as file:
        points, labels = file["data"][:, :64], file["label"][:, 0].astype(int)
    run = finetune(tmp_path, uneven_root, *words, "--seed", "2")
    (train,) = seen
    kept = labelled_share(labels, 0.34, seed=2)
    assert np.bincount(train.labels).tolist() == [3, 2, 2, 1]
    assert np.array_equal(train.points, points[kept])
    assert np.array_equal(train.labels, labels[kept])
    assert "8 of 21 training and 13 test clouds" in (run / "run.log").read_text()
    assert len(metrics(run)[0]) == 1


def test_a_data_set_smaller_than_a_batch(
    tmp_path: Path, uneven_root: Path, two_ranks
) -> None:
    words = ("--from_scratch", "--epochs", "2", "--batch_size", "50")
    words += ("--precision", "fp64", "--test_batch_size", "1")
    one = finetune(tmp_path / "one", uneven_root, *words)
    two = two_ranks.run(finetune, tmp_path / "two", uneven_root, *words)[0]
    agree(one, two)
    steps, epochs = metrics(one)
    assert len(steps) == 2
    right = epochs[0]["train_accuracy"] * 50
    assert math.isclose(right, round(right), abs_tol=1e-9)


def test_the_variants_of_scanobjectnn(tmp_path: Path, synthetic_root: Path) -> None:
    losses = []
    for variant in ("obj_only", "pb_t50_rs"):
        run = finetune(
            *(tmp_path, synthetic_root, "--dataset", "scanobjectnn", "--overwrite"),
            *("--variant", variant, "--from_scratch", "--epochs", "1"),
            *("--exp_name", ""),
        )
        assert run.name == "finetune_scanobjectnn"
        losses.append(metrics(run)[0][0]["loss"])
        assert "scanobjectnn, 24 of 24 training" in (run / "run.log").read_text()
    assert losses[0] != losses[1]
    words = ("--dataset", "scanobjectnn", "--eval", "--overwrite")
    words += ("--model_path", str(run / "models" / "best_model.pth"))
    actual = []
    for variant in ("obj_only", "pb_t50_rs"):
        again = finetune(tmp_path, synthetic_root, *words, "--variant", variant)
        actual.append(evaluated(again)["test_loss"])
    assert actual[0] != actual[1] == metrics(run)[1][0]["test_loss"]
