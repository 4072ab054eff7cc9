"""Scripts given a weight file alone use its network, and a line says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import eval_fewshot
import eval_svm
import finetune_cls
import train_partseg
from tests.helpers.runs import EPISODES, evaluated, metrics, pretrain, run_main, weights
from utils.run import cli
from utils.run.run_folder import read_metrics

ALONE = ("--wandb", "disabled", "--overwrite", "--model_path")
ENTRIES = "--emb_dims 16: the file's entries"


@pytest.fixture(scope="module")
def pretrained(synthetic_root: Path, tmp_path_factory) -> Path:
    """Weights of the segmentation encoder: K = 7, 64 points."""
    words = ("--model", "dgcnn_seg", "--k", "7", "--epochs", "1")
    run = pretrain(tmp_path_factory.mktemp("pretrained"), synthetic_root, *words)
    return run / "models" / "best_model.pth"


def svm_features(folder: Path, data: Path, *words: str) -> tuple[np.ndarray, str]:
    """Of the training split, and the log."""
    words = ("--save_features", str(folder / "f.npz"), *words)
    run = run_main(eval_svm, folder, data, *words)
    return np.load(folder / "f.npz")["train"], (run / "run.log").read_text()


def test_eval_svm_needs_the_file_alone(
    pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    alone, log = svm_features(tmp_path, even_root, *ALONE, str(pretrained))
    assert f"--model dgcnn_seg {ENTRIES}; --k 7 --num_points 64: network.json" in log
    by_hand = "--model dgcnn_seg --emb_dims 16 --k 7 --num_points 64".split()
    words = (*ALONE, str(pretrained), *by_hand)
    assert np.array_equal(svm_features(tmp_path, even_root, *words)[0], alone)
    words = (*ALONE, str(pretrained), "--k", "9")
    other, log = svm_features(tmp_path, even_root, *words)
    assert "--k 9: set by this command (instead of 7)" in log
    assert not np.array_equal(other, alone)


def test_few_shot_episodes_keep_their_own_k(
    pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    words = (*EPISODES, *ALONE, str(pretrained))
    run = run_main(eval_fewshot, tmp_path, even_root, *words)
    log = (run / "run.log").read_text()
    assert "--num_points 64: network.json" in log
    assert "--k 5: set by this command (instead of 7)" in log


@pytest.mark.parametrize("script", [eval_svm, eval_fewshot, finetune_cls])
def test_another_network_by_flag_is_refused(
    script, pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    for flags, message in (
        (("--model", "dgcnn"), "its --model is dgcnn_seg, not dgcnn"),
        (("--emb_dims", "32"), "its --emb_dims is 16, not 32|its --model is"),
    ):
        with pytest.raises(cli.UsageError, match=rf"best_model\.pth: .*{message}"):
            run_main(script, tmp_path, even_root, *ALONE, str(pretrained), *flags)
    assert not (tmp_path / "checkpoints").exists()


def test_a_classifier_is_evaluated_with_its_own_network(
    tuned: Path, uneven_root: Path, tmp_path: Path
) -> None:
    words = (*ALONE, str(tuned / "models" / "best_model.pth"), "--eval")
    run = run_main(finetune_cls, tmp_path, uneven_root, *words)
    actual = evaluated(run)["test_accuracy"]
    assert actual == metrics(tuned)[1][-1]["best_test_accuracy"]
    assert "--k 5 --num_points 64: network.json" in (run / "run.log").read_text()


def test_a_classifier_of_other_classes_is_refused(
    tuned: Path, uneven_root: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tuned / "models", models)
    values = json.loads((models / "network.json").read_text())
    assert values["class_names"] == ["rod", "plate", "ball", "cross", "absent"]
    values["class_names"][1] = "sheet"
    (models / "network.json").write_text(json.dumps(values))
    words = (*ALONE, str(models / "best_model.pth"), "--eval")
    with pytest.raises(cli.UsageError, match=r"on classes rod, sheet, .* plate"):
        run_main(finetune_cls, tmp_path, uneven_root, *words)


def test_fine_tuning_carries_on_with_the_network_and_so_does_its_evaluation(
    pretrained: Path, part_root: Path, tmp_path: Path
) -> None:
    words = "--batch_size 4 --num_workers 0 --epochs 1".split()
    words += (*ALONE, str(pretrained))
    run = run_main(train_partseg, tmp_path, part_root, *words)
    network = json.loads((run / "models" / "network.json").read_text())
    assert network["class_names"][0] == "airplane" and network["outputs"] == 50
    del network["class_names"]
    assert network == {
        **{"model": "dgcnn_seg", "emb_dims": 16, "k": 7, "num_points": 64},
        **{"head": "parts", "outputs": 50},
    }
    best = run / "models" / "best_model.pth"
    words = [*ALONE, str(best), "--eval", "--exp_name", "eval"]
    result = run_main(train_partseg, tmp_path, part_root, *words)
    assert read_metrics(result)[0]["test_miou"] == metrics(run)[1][0]["test_miou"]


def test_a_resumed_run_has_the_network_that_it_started_with(
    pretrained: Path, part_root: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(pretrained.parent, tmp_path / "start") / pretrained.name
    words = "--batch_size 4 --num_workers 0 --wandb disabled --epochs 1".split()
    call = (train_partseg, tmp_path, part_root)
    run = run_main(*call, *words, "--model_path", str(start))
    shutil.rmtree(start.parent)
    run_main(*call, *words, "--resume")  # whose checkpoint refuses another network
    assert "--k 7 --num_points 64: network.json" in (run / "run.log").read_text()
    with pytest.raises(cli.UsageError, match="--k 7 -> 8"):
        run_main(*call, *words, "--resume", "--k", "8")


def test_pointnet_is_judged_and_fine_tuned_from_its_file_alone(
    synthetic_root: Path, even_root: Path, tmp_path: Path
) -> None:
    words = ("--model", "pointnet", "--epochs", "1", "--k", "99")  # which it ignores
    run = pretrain(tmp_path / "start", synthetic_root, *words)
    best = str(run / "models" / "best_model.pth")
    alone, log = svm_features(tmp_path, even_root, *ALONE, best)
    assert alone.shape == (30, 16) and "--k 1: pointnet has no graph" in log
    words = (*EPISODES, *ALONE, best, "--k", "5")
    run_main(eval_fewshot, tmp_path, even_root, *words)
    tune = "--batch_size 8 --num_workers 0 --epochs 1".split()
    call = (finetune_cls, tmp_path, even_root)
    for more, head in (([], "classifier"), (["--freeze_encoder"], "linear")):
        words = [*tune, *ALONE, best, *more]
        tuned = run_main(*call, *words)
        network = json.loads((tuned / "models" / "network.json").read_text())
        assert (network["model"], network["head"]) == ("pointnet", head)
        assert (network["k"], network["num_points"]) == (1, 64)
        words = [*ALONE, str(tuned / "models" / "best_model.pth"), "--eval", *more]
        result = run_main(*call, *words, "--exp_name", "eval")
        state = weights(tuned)
        assert not any(name.startswith("inv_head") for name in state)
        best_accuracy = metrics(tuned)[1][0]["best_test_accuracy"]
        assert evaluated(result)["test_accuracy"] == best_accuracy


def test_a_network_without_a_classification_head_is_not_fine_tuned(
    pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(cli.UsageError, match=r"dgcnn_seg has no classif.* have"):
        run_main(finetune_cls, tmp_path, even_root, *ALONE, str(pretrained))
