"""The SVM evaluation: same numbers on one and two processes, honest choice of C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn

import eval_svm
from datasets import SCANOBJECTNN_VARIANTS, labelled
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.conftest import UNEVEN_CLASSES
from tests.models.test_state_dicts import (
    DGCNN_PRETRAINING,
    PARTSEG_PRETRAINING,
    UNUSED,
    Shapes,
)
from tests.runs import run_body
from utils.judging.svm import held_out_split
from utils.run import cli
from utils.run.checkpoint import published_weights, save_weights
from utils.run.run_folder import read_metrics

TINY = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --model_path none".split()


def judge(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    body = eval_svm.judge_encoder
    return run_body(eval_svm, body, folder, data, (*TINY, *words))


def test_two_processes_give_the_numbers_of_one(
    tmp_path: Path, synthetic_root: Path, two_ranks
) -> None:
    words = ("--dataset", "modelnet40", "scanobjectnn", "--C", "1", "100")
    one = read_metrics(judge(tmp_path / "one", synthetic_root, *words))
    runs = two_ranks.run(judge, tmp_path / "two", synthetic_root, *words)
    two = read_metrics(runs[0])
    assert [line["dataset"] for line in one] == ["modelnet40", "scanobjectnn"]
    for mine, theirs in zip(one, two, strict=True):
        assert set(mine) == set(theirs)
        for name in set(mine) - {"features_seconds", "svm_seconds"}:
            assert mine[name] == theirs[name], name


def test_C_is_chosen_without_test_data_and_files_agree(
    tmp_path: Path, synthetic_root: Path
) -> None:
    torch.manual_seed(3)
    encoder = DGCNN(k=5, emb_dims=16)
    save_weights(encoder, tmp_path / "w.pth")
    words = ("--model_path", str(tmp_path / "w.pth"), "--C", "100", "1", "0.01")
    features = tmp_path / "f.npz"
    run = judge(tmp_path, synthetic_root, *words, "--save_features", str(features))
    (line,) = read_metrics(run)
    saved = np.load(features)
    assert saved["train"].shape == (24, 32)
    assert saved["test"].shape == (16, 32)
    kept, held = held_out_split(saved["train_labels"], 1)
    accuracy = {}
    for row in line["table"]:
        svm = SVC(kernel="linear", C=row["C"])
        svm.fit(saved["train"][kept].astype(float), saved["train_labels"][kept])
        accuracy[row["C"]] = svm.score(
            saved["train"][held], saved["train_labels"][held]
        )
        assert row["held_out"] == accuracy[row["C"]]
        svm.fit(saved["train"].astype(float), saved["train_labels"])
        assert row["test"] == svm.score(saved["test"], saved["test_labels"])
    assert [row["C"] for row in line["table"]] == [0.01, 1, 100]
    assert line["C"] == max(accuracy, key=lambda C: (accuracy[C], -C))
    chosen = next(row for row in line["table"] if row["C"] == line["C"])
    assert line["accuracy"] == chosen["test"]
    rows = (run / "confusion_modelnet40.csv").read_text().splitlines()
    counts = np.array([[int(x) for x in row.split(",")[1:]] for row in rows[1:]])
    assert counts.shape == (16, 16)
    assert counts.sum() == line["test_size"] == 16
    assert np.trace(counts) / counts.sum() == line["accuracy"]
    log = (run / "run.log").read_text()
    assert "<- chosen on held-out data" in log
    assert "best of the table, chosen on test data" in log
    assert f"{len(encoder.state_dict())} entries loaded" in log


def test_the_confusion_table_has_the_true_classes_down(
    tmp_path: Path, uneven_root: Path
) -> None:
    run = judge(tmp_path, uneven_root, "--save_features", str(tmp_path / "f.npz"))
    saved = np.load(tmp_path / "f.npz")
    svm = SVC(kernel="linear", C=0.1)
    svm.fit(saved["train"].astype(float), saved["train_labels"])
    counts = np.zeros((5, 5), int)
    for truth, guess in zip(
        saved["test_labels"], svm.predict(saved["test"]), strict=True
    ):
        counts[truth, guess] += 1
    assert counts.sum(axis=1).tolist() == [6, 2, 4, 1, 0]
    assert (counts != counts.T).any()
    text = (run / "confusion_modelnet40.csv").read_text()
    assert [line.split(",") for line in text.splitlines()] == [
        ["true\\predicted", *UNEVEN_CLASSES],
        *([name, *map(str, n)] for name, n in zip(UNEVEN_CLASSES, counts, strict=True)),
    ]


def test_the_seed_chooses_the_held_out_rows(tmp_path: Path, even_root: Path) -> None:
    torch.manual_seed(3)
    save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    features = tmp_path / "f.npz"
    words = ("--model_path", str(tmp_path / "w.pth"), "--save_features", str(features))
    found = []
    for seed in (1, 2, 1):
        more = ("--C", "1", "10", "100", "--seed", str(seed), "--overwrite")
        (line,) = read_metrics(judge(tmp_path, even_root, *words, *more))
        saved = np.load(features)
        train, labels = saved["train"].astype(float), saved["train_labels"]
        kept, held = held_out_split(labels, seed)
        for row in line["table"]:
            svm = SVC(kernel="linear", C=row["C"]).fit(train[kept], labels[kept])
            assert row["held_out"] == svm.score(train[held], labels[held])
        found.append([row["held_out"] for row in line["table"]])
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("encoder", "names"),
    [(DGCNN, DGCNN_PRETRAINING), (DGCNNPartSeg, PARTSEG_PRETRAINING | UNUSED)],
)
def test_files_of_the_paper_s_code(
    encoder: type[nn.Module], names: Shapes, tmp_path: Path, uneven_root: Path
) -> None:
    torch.manual_seed(4)
    model = encoder(k=5, emb_dims=16)
    state = published_weights(model)
    assert set(state) == set(names)
    name = "dgcnn" if encoder is DGCNN else "dgcnn_seg"
    lines, features = [], []
    for prefix in ("", "module."):
        torch.save({prefix + n: v for n, v in state.items()}, tmp_path / "w.pth")
        run = judge(
            *(tmp_path, uneven_root, "--model", name, "--overwrite"),
            *("--model_path", str(tmp_path / "w.pth")),
            *("--save_features", str(tmp_path / "f.npz")),
        )
        lines += read_metrics(run)
        features.append(np.load(tmp_path / "f.npz")["test"])
        loaded = f"{len(model.state_dict())} entries loaded"
        assert loaded in (run / "run.log").read_text()
    assert np.array_equal(*features)
    for key in set(lines[0]) - {"features_seconds", "svm_seconds"}:
        assert lines[0][key] == lines[1][key], key


def test_the_defaults_are_the_published_protocol() -> None:
    args = eval_svm.get_args_parser().parse_args(["--model_path", "none"])
    assert (args.num_points, args.k, args.emb_dims) == (1024, 15, 1024)
    assert (args.model, args.C, args.seed) == ("dgcnn", [0.1], 1)
    assert (args.dataset, args.variant) == (["modelnet40"], "obj_bg")


def test_the_weights_that_are_judged_are_not_deleted(
    tmp_path: Path, uneven_root: Path
) -> None:
    path = tmp_path / "checkpoints" / "run" / "w.pth"
    path.parent.mkdir(parents=True)
    save_weights(DGCNN(k=5, emb_dims=16), path)
    for said, *more in (
        ["run is not empty"],
        [r"would delete .*w\.pth", "--overwrite"],
    ):
        with pytest.raises(cli.UsageError, match=said):
            judge(tmp_path, uneven_root, "--model_path", str(path), *more)
        assert path.is_file()


def test_the_segmentation_encoder_and_the_variants_of_scanobjectnn(
    tmp_path: Path, synthetic_root: Path
) -> None:
    save_weights(DGCNNPartSeg(k=5, emb_dims=16), tmp_path / "w.pth")
    sizes = []
    for variant in ("obj_only", "pb_t50_rs"):
        run = judge(
            *(tmp_path, synthetic_root, "--model", "dgcnn_seg", "--overwrite"),
            *("--model_path", str(tmp_path / "w.pth")),
            *("--dataset", "scanobjectnn", "--variant", variant),
            *("--save_features", str(tmp_path / f"{variant}.npz")),
        )
        sizes.append(read_metrics(run)[0]["train_size"])
        assert np.load(tmp_path / f"{variant}.npz")["train"].shape == (24, 16)
    assert sizes == [24, 24]
    features = [
        np.load(tmp_path / f"{v}.npz")["train"] for v in ("obj_only", "pb_t50_rs")
    ]
    assert not np.array_equal(*features)


def test_an_untrained_encoder_is_a_function_of_the_seed(
    tmp_path: Path, synthetic_root: Path
) -> None:
    found = []
    for seed in ("1", "1", "2"):
        words = ("--model_path", "none", "--seed", seed, "--overwrite")
        path = tmp_path / "f.npz"
        run = judge(tmp_path, synthetic_root, *words, "--save_features", str(path))
        found.append(np.load(path)["train"])
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert "an untrained DGCNN (seed 2)" in (run / "run.log").read_text()


def test_bad_requests_stop_before_anything_is_written(
    tmp_path: Path, synthetic_root: Path
) -> None:
    with pytest.raises(cli.UsageError, match="--save_features"):
        judge(
            *(tmp_path, synthetic_root, "--save_features", "f.npz"),
            *("--dataset", "modelnet40", "scanobjectnn"),
        )
    for name, said in (
        *(("no/f.npz", "no such folder"), ("f", "not the name of a .npz file")),
        *((".npz", "not the name"), ("", "")),
    ):
        path = str(tmp_path / name) if name else str(tmp_path)
        with pytest.raises(cli.UsageError, match=rf"--save_features .*{said}"):
            judge(tmp_path, synthetic_root, "--save_features", path)
    with pytest.raises(cli.UsageError, match=r"w\.pth: no such file"):
        judge(tmp_path, synthetic_root, "--model_path", str(tmp_path / "w.pth"))
    with pytest.raises(cli.UsageError, match="--k 65"):
        judge(tmp_path, synthetic_root, "--k", "65")
    assert not (tmp_path / "checkpoints").exists()


def test_names_known_without_pytorch_are_those_of_the_readers() -> None:
    assert tuple(labelled.VARIANTS) == SCANOBJECTNN_VARIANTS
