"""What both evaluations of a frozen encoder, SVM and few-shot, have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import eval_fewshot
import eval_svm
from models.dgcnn import DGCNN
from tests.helpers.runs import judge_fewshot, judge_svm
from utils.run import cli
from utils.run.checkpoint import save_weights
from utils.run.network import settle
from utils.run.run_folder import read_metrics

SECONDS = {"seconds", "features_seconds", "svm_seconds"}
both = pytest.mark.parametrize("judge", [judge_svm, judge_fewshot])


def results(run: Path) -> list[dict]:
    """The records of a run, without what differs from run to run."""
    lines = read_metrics(run)
    return [{k: v for k, v in line.items() if k not in SECONDS} for line in lines]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@both
def test_two_processes_give_the_numbers_of_one(
    judge, tmp_path: Path, weights: Path, even_root: Path, two_ranks
) -> None:
    words = ["--model_path", str(weights), "--corrupt", "2"]
    if judge is judge_svm:
        words += "--C 1 100 --knn 4 --labels_per_class 1 3 --draws 4".split()
    one = judge(tmp_path / "one", even_root, *words)
    two = two_ranks.run(judge, tmp_path / "two", even_root, *words)[0]
    (mine,), (theirs,) = map(results, (one, two))
    assert mine == theirs


@both
def test_the_weights_that_are_judged_are_not_deleted(
    judge, tmp_path: Path, weights: Path, even_root: Path
) -> None:
    folder = tmp_path / "checkpoints" / "run"
    folder.mkdir(parents=True)
    path = weights.rename(folder / "w.pth")
    with pytest.raises(cli.UsageError, match=r"would delete .*w\.pth"):
        judge(tmp_path, even_root, "--model_path", str(path))
    assert path.is_file()


@both
@pytest.mark.parametrize(
    ("words", "said"),
    [("none --k 65", "--k 65"), ("no.pth", r"no\.pth: no such file")],
)
def test_bad_requests_stop_before_anything_is_written(
    judge, words: str, said: str, tmp_path: Path, even_root: Path
) -> None:
    with pytest.raises(cli.UsageError, match=said):
        judge(tmp_path, even_root, "--model_path", *words.split())
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("script", "points", "k"), [(eval_svm, 1024, 15), (eval_fewshot, 2048, 5)]
)
def test_the_defaults_are_the_published_protocol(
    script, points: int, k: int, tmp_path: Path
) -> None:
    save_weights(DGCNN(), tmp_path / "w.pth")  # no network.json: as the paper's files
    for path in ("none", str(tmp_path / "w.pth")):
        args = script.get_args_parser().parse_args(["--model_path", path])
        settle(args, script.PUBLISHED)
        assert (args.num_points, args.k, args.emb_dims) == (points, k, 1024)
    assert (args.model, args.variant, args.seed) == ("dgcnn", "obj_bg", 1)
    assert (args.dataset, args.corrupt) == (["modelnet40"], 0)
    if script is eval_svm:
        assert (args.C, args.knn, args.labels_per_class) == ([0.1], 20, [])
    else:
        assert (args.n_query, args.n_runs, args.split) == (20, 50, "train")
