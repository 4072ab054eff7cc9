"""Fine-tuning for classification: the same numbers on any world size; its weights."""

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
    evaluated,
    finetune,
    interrupted,
    metrics,
    same_run,
    weights,
)
from utils.run import checkpoint

NUM_CLASSES = 5  # of the fixture `uneven_root`, one without a cloud


def stored(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The clouds (M, 64, 3) and labels (M,) that a run reads."""
    path = root / "modelnet40_ply_hdf5_2048" / f"ply_data_{split}0.h5"
    with h5py.File(path) as file:
        return file["data"][:, :64], file["label"][:, 0].astype(int)


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
    same_run(one, two, rel=1e-8)
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


def test_a_linear_probe_encodes_each_cloud_once_and_resumes(
    tmp_path: Path, uneven_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = DGCNN.features
    monkeypatch.setattr(
        DGCNN, "features", lambda net, x: encoded.append(len(x)) or encode(net, x)
    )
    checkpoint.save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--freeze_encoder")
    words += ("--epochs", "3", "--checkpoint_steps", "1")
    whole = finetune(tmp_path / "whole", uneven_root, *words)
    assert sum(encoded) == 21 + 13  # the training and the test clouds
    parts = tmp_path / "parts"
    interrupted(4, finetune, parts, uneven_root, *words)
    same_run(whole, finetune(parts, uneven_root, *words, "--resume"))


def test_the_metrics_against_a_loop(tuned: Path, uneven_root: Path) -> None:
    clouds, labels = stored(uneven_root, "test")
    for line in metrics(tuned)[1]:
        right = line["train_accuracy"] * 3 * 8  # of the last batch's repeats, too
        assert math.isclose(right, round(right), abs_tol=1e-9)
        model = DGCNN(5, 16, NUM_CLASSES).eval()
        path = tuned / "models" / f"ckpt_epoch_{line['epoch'] + 1}.pth"
        checkpoint.load_pretrained(model, path)
        losses, right = [], []
        for cloud, label in zip(clouds, labels, strict=True):
            with torch.no_grad():
                logits = model(torch.from_numpy(cloud.T[None].copy()))
            losses.append(-F.log_softmax(logits, dim=1)[0, label].item())
            right.append(int(logits.argmax()) == label)
        assert math.isclose(line["test_loss"], np.mean(losses), rel_tol=1e-5)
        assert line["test_accuracy"] == np.mean(right)
        rates = [np.mean(np.array(right)[labels == c]) for c in np.unique(labels)]
        assert math.isclose(line["test_class_accuracy"], np.mean(rates))


def test_a_label_fraction_trains_on_those_clouds_alone(
    tmp_path: Path, uneven_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    loader = finetune_cls.data_loader
    monkeypatch.setattr(
        finetune_cls, "data_loader", lambda d, *rest: seen.append(d) or loader(d, *rest)
    )
    words = "--from_scratch --epochs 1 --label_fraction 0.34 --seed 2".split()
    run = finetune(tmp_path, uneven_root, *words)
    (train,) = seen
    points, labels = stored(uneven_root, "train")
    kept = labelled_share(labels, 0.34, seed=2)
    assert np.bincount(train.labels).tolist() == [3, 2, 2, 1]
    assert np.array_equal(train.points, points[kept])
    assert np.array_equal(train.labels, labels[kept])
    assert "8 of 21 training and 13 test clouds" in (run / "run.log").read_text()
    assert len(metrics(run)[0]) == 1


def test_the_variants_of_scanobjectnn(tmp_path: Path, synthetic_root: Path) -> None:
    words = ("--dataset", "scanobjectnn", "--overwrite", "--variant")
    start = ("--from_scratch", "--epochs", "1", "--exp_name", "")
    trained, evaluations = [], []
    for variant in ("obj_only", "pb_t50_rs"):
        run = finetune(tmp_path, synthetic_root, *words, variant, *start)
        assert run.name == "finetune_scanobjectnn"
        trained.append(metrics(run))
        assert "scanobjectnn, 24 of 24 training" in (run / "run.log").read_text()
    (other_steps, _), (steps, epochs) = trained
    assert other_steps[0]["loss"] != steps[0]["loss"]
    path = str(run / "models" / "best_model.pth")
    for variant in ("obj_only", "pb_t50_rs"):
        flags = (variant, "--eval", "--model_path", path)
        again = finetune(tmp_path, synthetic_root, *words, *flags)
        evaluations.append(evaluated(again)["test_loss"])
    assert evaluations[0] != evaluations[1] == epochs[0]["test_loss"]
