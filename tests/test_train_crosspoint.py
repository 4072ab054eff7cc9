"""Pre-training as a whole: the same numbers on one and two processes, and its files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import train_crosspoint
from models.dgcnn import DGCNN
from models.fused.clouds import FusedClouds
from models.image import ImageEncoder
from models.partseg import DGCNNPartSeg
from tests.runs import interrupted, metrics, pretrain, same_records, weights
from utils.run import cli
from utils.run.bookkeeping import DivergenceError
from utils.run.training import cosine

STEP_KEYS = {
    *("step", "epoch", "loss", "imid_loss", "cmid_loss", "lr"),
    *("samples_per_second", "data_wait"),
}


def test_outputs(tmp_path: Path, synthetic_root: Path) -> None:
    run = pretrain(
        tmp_path,
        synthetic_root,
        "--epochs",
        "2",
        "--svm_every",
        "1",
        "--save_freq",
        "1",
    )
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "run.log", "metrics.jsonl"),
        *("models/best_model.pth", "models/img_model_best.pth"),
        *("models/ckpt_epoch_1.pth", "models/ckpt_epoch_2.pth"),
        *("models/checkpoint_last.pth", "models/checkpoint_previous.pth"),
    }
    steps, epochs = metrics(run)
    assert [line["step"] for line in steps] == list(range(6))
    assert all(set(line) == STEP_KEYS for line in steps)
    assert [line["lr"] for line in steps] == [1e-3] * 3 + [cosine(1e-3, 1, 2)] * 3
    assert math.isclose(cosine(1e-3, 1, 2), 0.5e-3)
    for number, line in enumerate(epochs):
        own = [x for x in steps if x["epoch"] == number]
        for name in ("loss", "imid_loss", "cmid_loss"):
            mean = sum(x[name] for x in own) / len(own)
            assert math.isclose(line[f"train_{name}"], mean, rel_tol=1e-9)
            if name == "loss":
                total = line["train_imid_loss"] + line["train_cmid_loss"]
                assert math.isclose(mean, total, rel_tol=1e-6)
        assert 0 <= line["svm_accuracy"] <= 1
        assert line["epoch_end"] is True
    best = max(epochs, key=lambda line: line["svm_accuracy"])["epoch"]
    chosen, kept = weights(run), weights(run, f"ckpt_epoch_{best + 1}.pth")
    assert all(torch.equal(chosen[name], kept[name]) for name in kept)
    DGCNN(k=5, emb_dims=16).load_state_dict(chosen, strict=True)
    pictures = weights(run, "img_model_best.pth")
    ImageEncoder("resnet_small").load_state_dict(pictures, strict=True)
    assert all(value.is_contiguous() for value in pictures.values())
    last = weights(run, "checkpoint_last.pth")  # as the network lies in memory
    weight = last["model"]["image_encoder.resnet.conv1.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert last["optimizer"]["param_groups"][0]["fused"]
    config = json.loads((run / "config.json").read_text())
    assert not set(config["arguments"]) & {flag[2:] for flag in cli.RETIRED}
    assert config["arguments"]["batch_size"] == 8
    assert config["world_size"] == 1
    log = (run / "run.log").read_text()
    for said in ("M parameters", "8 global, 8 a rank on 1 process", "3 an epoch"):
        assert said in log
    for said in ("torch ", "commit", "cpu, backend none, fp32", "24 shapes"):
        assert said in log
    assert "chosen by the SVM probe on ModelNet40's test split" in log


def test_the_probe_fits_once_and_covers_the_test_split(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    class Constant:
        def predict(self, features) -> np.ndarray:
            assert len(features) == 16
            return np.arange(16) % 2

    def fit(features, labels, C) -> Constant:
        fitted.append((features.shape, C))
        return Constant()

    monkeypatch.setattr(train_crosspoint, "fit_linear_svm", fit)
    words = ("--epochs", "3", "--svm_every", "2", "--svm_C", "0.25")
    run = pretrain(tmp_path, synthetic_root, *words)
    assert fitted == [((24, 32), 0.25)] * 2  # after epoch 2, and after the last
    assert ["svm_accuracy" in line for line in metrics(run)[1]] == [False, True, True]


def test_without_modelnet40_the_last_weights_are_the_best(
    tmp_path: Path, synthetic_root: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("ShapeNet", "ShapeNetRendering"):
        (data / name).symlink_to(synthetic_root / name)
    words = ("--epochs", "2", "--svm_every", "1", "--save_freq", "2")
    run = pretrain(tmp_path, data, *words, "--model", "dgcnn_seg")
    assert "models/best_model.pth is of the last epoch" in (run / "run.log").read_text()
    last, best = weights(run, "ckpt_epoch_2.pth"), weights(run)
    assert all(torch.equal(last[name], best[name]) for name in best)
    state = {n: v for n, v in best.items() if n.split(".")[0] not in UNUSED}
    DGCNNPartSeg(k=5, emb_dims=16).load_state_dict(state, strict=True)


UNUSED = ("bn7", "bn8", "bn9", "bn10")


def test_resuming_inside_an_epoch_gives_the_uninterrupted_run(
    tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "2", "--checkpoint_steps", "2")
    whole = pretrain(tmp_path / "whole", synthetic_root, *words)
    # After the first step of the second epoch.
    interrupted(4, pretrain, tmp_path / "parts", synthetic_root, *words)
    run = tmp_path / "parts" / "checkpoints" / "run"
    with open(run / "metrics.jsonl", "a") as file:  # steps after the checkpoint
        file.write('{"step": 4, "epoch": 1, "loss": 0}\n{"step": 5, "ep')
    with pytest.raises(cli.UsageError, match=r"--lr 0\.001 -> 0\.5"):
        pretrain(tmp_path / "parts", synthetic_root, *words, "--resume", "--lr", "0.5")
    pretrain(tmp_path / "parts", synthetic_root, *words, "--resume")

    same_records(whole, run)
    for name in ("best_model.pth", "img_model_best.pth"):
        theirs = weights(run, name)
        assert all(torch.equal(v, theirs[n]) for n, v in weights(whole, name).items())


def test_what_the_probe_has_chosen_is_not_replaced_without_it(
    tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "1", "--svm_every", "1")
    run = pretrain(tmp_path, synthetic_root, *words)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("ShapeNet", "ShapeNetRendering"):
        (bare / name).symlink_to(synthetic_root / name)
    with pytest.raises(cli.UsageError, match="hdf5_2048 is missing, and has chosen"):
        pretrain(tmp_path, bare, *words, "--resume")
    assert len(metrics(run)[1]) == 1
    # A run that never had a probe needs none.
    pretrain(tmp_path / "other", bare, *words)
    pretrain(tmp_path / "other", bare, *words, "--resume")


def test_a_filled_run_folder_is_kept(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pretrain(tmp_path, synthetic_root, "--epochs", "1")
    before = weights(run)
    with pytest.raises(cli.UsageError, match=r"--resume.*--overwrite"):
        pretrain(tmp_path, synthetic_root, "--epochs", "1")
    assert all(torch.equal(v, before[n]) for n, v in weights(run).items())
    pretrain(tmp_path, synthetic_root, "--epochs", "1", "--overwrite", "--seed", "2")
    assert not torch.equal(before["conv1.0.weight"], weights(run)["conv1.0.weight"])
    # A restart by torchrun goes on, whatever the flags say; here there is nothing left.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    pretrain(tmp_path, synthetic_root, "--epochs", "1", "--overwrite", "--seed", "2")
    assert len(metrics(run)[1]) == 1


def test_every_form_of_the_point_operations_gives_the_same_run(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = FusedClouds.__init__

    def counted(self: FusedClouds, *args: object) -> None:
        original(self, *args)
        rows.append(len(self.points))

    monkeypatch.setattr(FusedClouds, "__init__", counted)
    found = []
    forms = (["plain"], ["fused", "--no-distinct_points"], ["fused"])
    for number, form in enumerate(forms):
        rows.clear()
        run = pretrain(
            *(tmp_path / str(number), synthetic_root, "--epochs", "1"),
            *("--precision", "fp64", "--edgeconv", *form),
        )
        found.append(([record["loss"] for record in metrics(run)[0]], sum(rows)))
    (plain, none), (fused, every), (distinct, few) = found
    assert none == 0 < few < every
    assert fused == pytest.approx(plain, rel=1e-9)
    assert distinct == pytest.approx(plain, rel=1e-9)


@pytest.mark.slow  # the CPU emulates them
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_starts_where_float32_does(
    precision: str, tmp_path: Path, synthetic_root: Path
) -> None:
    first = []
    for number, words in enumerate([("fp32",), (precision,)]):
        run = pretrain(
            *(tmp_path / str(number), synthetic_root),
            *("--epochs", "1", "--optimizer", "sgd", "--precision", *words),
        )
        first.append(metrics(run)[0][0]["loss"])
        assert weights(run)["conv1.0.weight"].dtype == torch.float32
    assert first[0] != first[1]
    assert math.isclose(*first, rel_tol=0.1)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, synthetic_root: Path
) -> None:
    words = ("--epochs", "5", "--optimizer", "sgd", "--lr", "1e30")
    with pytest.raises(DivergenceError, match=r"the loss is not finite at step .*--lr"):
        pretrain(tmp_path, synthetic_root, *words)
    folder = tmp_path / "checkpoints" / "run" / "models"
    assert list(folder.iterdir()) == []


def test_bad_requests_stop_before_anything_is_written(
    tmp_path: Path, synthetic_root: Path
) -> None:
    def refused(error: type[Exception], text: str, *words: str) -> None:
        with pytest.raises(error, match=text):
            pretrain(tmp_path, synthetic_root, *words)
        assert not (tmp_path / "checkpoints").exists()

    refused(cli.UsageError, r"--k 100 is more than --num_points 64", "--k", "100")
    refused(cli.UsageError, "--batch_size", "--batch_size", "25")
    refused(cli.UsageError, "ShapeNet", "--data_root", str(tmp_path / "nowhere"))
    refused(cli.UsageError, "exp_name", "--exp_name", "../other")
    refused(cli.UsageError, "--batch_size 1 leaves", "--batch_size", "1")
    missing = str(tmp_path / "no.pth")
    refused(cli.UsageError, r"no\.pth: no such file", "--model_path", missing)
    many = ("--num_points", "4096")
    refused(cli.UsageError, "fewer than the 4096 asked for", *many)


def test_nothing_is_deleted_before_all_is_in_order(
    tmp_path: Path, synthetic_root: Path
) -> None:
    run = pretrain(tmp_path, synthetic_root, "--epochs", "1")
    for words in (
        ("--model_path", str(tmp_path / "no.pth")),
        ("--model_path", str(run / "models" / "best_model.pth")),
        ("--emb_dims", "8", "--model_path", str(run / "models" / "best_model.pth")),
    ):
        with pytest.raises(cli.UsageError, match=r"\.pth"):
            pretrain(tmp_path, synthetic_root, "--overwrite", *words)
        assert (run / "models" / "best_model.pth").is_file()


def damaged_share(folder: Path, data: Path) -> str:
    try:
        pretrain(folder, data, "--svm_every", "1")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ran"


def test_damage_in_one_rank_s_share_ends_all_ranks_with_its_message(
    tmp_path: Path, synthetic_root: Path, two_ranks
) -> None:
    data = tmp_path / "data"
    folder = data / "modelnet40_ply_hdf5_2048"
    shutil.copytree(synthetic_root / folder.name, folder)
    for name in ("ShapeNet", "ShapeNetRendering"):
        (data / name).symlink_to(synthetic_root / name)
    with h5py.File(folder / "ply_data_test0.h5", "r+") as file:
        file["data"][-1, 5, 2] = np.nan  # rank 1 alone reads this row
    first, second = two_ranks.run(damaged_share, tmp_path, data)
    assert first.startswith("FailedElsewhere")
    assert second.startswith("DataError")
    assert "ply_data_test0.h5" in second
    assert "non-finite" in second


def test_weights_to_start_from_are_loaded_into_both_encoders(
    tmp_path: Path, synthetic_root: Path
) -> None:
    first = pretrain(tmp_path / "a", synthetic_root, "--epochs", "1") / "models"
    words = ("--epochs", "1", "--lr", "1e-30", "--seed", "5")
    run = pretrain(
        *(tmp_path / "b", synthetic_root, *words),
        *("--model_path", str(first / "best_model.pth")),
        *("--img_model_path", str(first / "img_model_best.pth")),
    )
    for name, key in (
        ("best_model.pth", "conv4.0.weight"),
        ("img_model_best.pth", "resnet.layer1.0.conv1.weight"),
    ):
        assert torch.equal(weights(first.parent, name)[key], weights(run, name)[key])
    assert "entries loaded" in (run / "run.log").read_text()
