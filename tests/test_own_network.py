"""Scripts given a weight file alone use its network, and a line says so."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.runs import EPISODES, evaluated, metrics, pretrain, run_main, weights
from utils.run import cli

ALONE = "--wandb disabled --overwrite"
TUNE = "--wandb disabled --num_workers 0 --epochs 1"
ENTRIES = "--emb_dims 16: the file's entries"

# Each takes a folder to run in, a --data_root and flags; it returns the run folder.
svm = partial(run_main, "eval_svm", ALONE)
few_shot = partial(run_main, "eval_fewshot", f"{ALONE} {EPISODES}")
finetune = partial(run_main, "finetune_cls", f"{TUNE} --batch_size 8 --overwrite")
segment = partial(run_main, "train_partseg", f"{TUNE} --batch_size 4")


@pytest.fixture(scope="module")
def pretrained(synthetic_root: Path, tmp_path_factory) -> Path:
    """Weights of the segmentation encoder: K = 7, 64 points."""
    words = ("--model", "dgcnn_seg", "--k", "7", "--epochs", "1")
    run = pretrain(tmp_path_factory.mktemp("pretrained"), synthetic_root, *words)
    return run / "models" / "best_model.pth"


def svm_features(folder: Path, data: Path, *words: str) -> tuple[np.ndarray, str]:
    """Of the training split, and the log."""
    run = svm(folder, data, "--save_features", str(folder / "f.npz"), *words)
    return np.load(folder / "f.npz")["train"], (run / "run.log").read_text()


def network_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "models" / "network.json").read_text())


def test_eval_svm_needs_the_file_alone(
    pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    call = (tmp_path, even_root, "--model_path", str(pretrained))
    alone, log = svm_features(*call)
    assert f"--model dgcnn_seg {ENTRIES}; --k 7 --num_points 64: network.json" in log
    by_hand = "--model dgcnn_seg --emb_dims 16 --k 7 --num_points 64".split()
    assert np.array_equal(svm_features(*call, *by_hand)[0], alone)
    other, log = svm_features(*call, "--k", "9")
    assert "--k 9: set by this command (instead of 7)" in log
    assert not np.array_equal(other, alone)


def test_few_shot_episodes_keep_their_own_k(
    pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    run = few_shot(tmp_path, even_root, "--model_path", str(pretrained))
    log = (run / "run.log").read_text()
    assert "--num_points 64: network.json" in log
    assert "--k 5: set by this command (instead of 7)" in log


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        *(
            (run, flags, rf"best_model\.pth: .*{message}")
            for run in (svm, few_shot, finetune)
            for flags, message in (
                ("--model dgcnn", "its --model is dgcnn_seg, not dgcnn"),
                ("--emb_dims 32", "its --emb_dims is 16, not 32|its --model is"),
            )
        ),
        (finetune, "", r"dgcnn_seg has no classif.* have"),
    ],
)
def test_another_network_by_flag_or_without_a_head_is_refused(
    run, flags: str, message: str, pretrained: Path, even_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(cli.UsageError, match=message):
        run(tmp_path, even_root, "--model_path", str(pretrained), *flags.split())
    assert not (tmp_path / "checkpoints").exists()


def test_a_classifier_is_evaluated_with_its_own_network_and_classes(
    tuned: Path, uneven_root: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(tuned / "models", tmp_path / "models")
    words = ("--model_path", str(models / "best_model.pth"), "--eval")
    run = finetune(tmp_path, uneven_root, *words)
    actual = evaluated(run)["test_accuracy"]
    assert actual == metrics(tuned)[1][-1]["best_test_accuracy"]
    assert "--k 5 --num_points 64: network.json" in (run / "run.log").read_text()
    values = network_of(tuned)
    assert values["class_names"] == ["rod", "plate", "ball", "cross", "absent"]
    values["class_names"][1] = "sheet"
    (models / "network.json").write_text(json.dumps(values))
    with pytest.raises(cli.UsageError, match=r"on classes rod, sheet, .* plate"):
        finetune(tmp_path, uneven_root, *words)


def test_fine_tuning_evaluation_and_resuming_carry_on_with_the_network(
    pretrained: Path, part_root: Path, tmp_path: Path
) -> None:
    start = shutil.copytree(pretrained.parent, tmp_path / "start") / pretrained.name
    call = (tmp_path, part_root)
    run = segment(*call, "--model_path", str(start))
    network = network_of(run)
    assert network.pop("class_names")[0] == "airplane"
    assert network == {
        **{"model": "dgcnn_seg", "emb_dims": 16, "k": 7, "num_points": 64},
        **{"head": "parts", "outputs": 50},
    }
    best = str(run / "models" / "best_model.pth")
    result = segment(*call, "--model_path", best, "--eval", "--exp_name", "eval")
    assert evaluated(result)["test_miou"] == metrics(run)[1][0]["test_miou"]
    shutil.rmtree(start.parent)
    segment(*call, "--resume")  # whose checkpoint refuses another network
    assert "--k 7 --num_points 64: network.json" in (run / "run.log").read_text()
    with pytest.raises(cli.UsageError, match="--k 7 -> 8"):
        segment(*call, "--resume", "--k", "8")


def test_pointnet_is_judged_and_fine_tuned_from_its_file_alone(
    synthetic_root: Path, even_root: Path, tmp_path: Path
) -> None:
    words = ("--model", "pointnet", "--epochs", "1", "--k", "99")  # which it ignores
    run = pretrain(tmp_path / "start", synthetic_root, *words)
    best = ("--model_path", str(run / "models" / "best_model.pth"))
    alone, log = svm_features(tmp_path, even_root, *best)
    assert alone.shape == (30, 16) and "--k 1: pointnet has no graph" in log
    few_shot(tmp_path, even_root, *best, "--k", "5")
    for more, head in (((), "classifier"), (("--freeze_encoder",), "linear")):
        tuned = finetune(tmp_path, even_root, *best, *more)
        network = network_of(tuned)
        assert (network["model"], network["head"]) == ("pointnet", head)
        assert (network["k"], network["num_points"]) == (1, 64)
        words = ("--model_path", str(tuned / "models" / "best_model.pth"), "--eval")
        result = finetune(tmp_path, even_root, *words, *more, "--exp_name", "eval")
        assert not any(name.startswith("inv_head") for name in weights(tuned))
        best_accuracy = metrics(tuned)[1][0]["best_test_accuracy"]
        assert evaluated(result)["test_accuracy"] == best_accuracy
