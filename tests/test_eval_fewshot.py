"""The few-shot evaluation as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import eval_fewshot
from datasets import labelled_clouds
from models.dgcnn import DGCNN
from tests.models.test_state_dicts import DGCNN_PRETRAINING
from tests.runs import run_body
from utils.judging.features import extract_features
from utils.judging.fewshot import evaluate_episodes
from utils.run import cli
from utils.run.checkpoint import published_weights, save_weights
from utils.run.run_folder import read_metrics

TINY = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --n_runs 4".split()
# For the fixture `even_root`.
EPISODES = "--dataset modelnet40 --k_way 3 --m_shot 2 --n_query 2 --n_runs 8".split()


def judge(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    body = eval_fewshot.judge_encoder
    return run_body(eval_fewshot, body, folder, data, (*TINY, *words))


def test_two_processes_give_the_episodes_of_one(tmp_path: Path, two_ranks) -> None:
    from datasets.synthetic import generate

    data = tmp_path / "data"
    generate(data, shapes=48, seed=0, workers=1, progress=False)
    torch.manual_seed(0)
    save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--k_way", "5", "--m_shot", "2", "--n_query", "1")
    words += ("--dataset", "scanobjectnn", "--model_path", str(tmp_path / "w.pth"))
    (one,) = read_metrics(judge(tmp_path / "one", data, *words))
    runs = two_ranks.run(judge, tmp_path / "two", data, *words)
    (two,) = read_metrics(runs[0])
    for name in set(one) - {"seconds"}:
        assert one[name] == two[name], name
    assert len(one["accuracies"]) == 4
    assert (one["k_way"], one["m_shot"]) == (5, 2)
    log = (tmp_path / "one" / "checkpoints" / "run" / "run.log").read_text()
    assert "5 ways  2 shots" in log
    with pytest.raises(cli.UsageError, match=r"class .* has 3 samples"):
        judge(tmp_path, data, "--table", "--model_path", "none")


def test_split_and_seed_choose_the_episodes(tmp_path: Path, even_root: Path) -> None:
    torch.manual_seed(0)
    encoder = DGCNN(k=5, emb_dims=16)
    save_weights(encoder, tmp_path / "w.pth")
    words = (*EPISODES, "--model_path", str(tmp_path / "w.pth"), "--overwrite")
    found = []
    for split, seed in (("train", 1), ("test", 1), ("train", 2), ("train", 1)):
        more = ("--split", split, "--seed", str(seed))
        (line,) = read_metrics(judge(tmp_path, even_root, *words, *more))
        clouds = labelled_clouds("modelnet40", even_root, split, 64)
        features = extract_features(encoder, clouds.points, 32, torch.device("cpu"))
        wanted = evaluate_episodes(features, clouds.labels, 3, 2, 2, 8, seed)
        assert line["accuracies"] == list(wanted.accuracies)
        found.append(line["accuracies"])
    assert found[0] == found[3]
    assert found[0] not in (found[1], found[2])
    with pytest.raises(cli.UsageError, match="has 4 samples"):
        judge(tmp_path, even_root, *words, "--split", "test", "--m_shot", "3")


def test_a_file_of_the_paper_s_code(tmp_path: Path, even_root: Path) -> None:
    torch.manual_seed(0)
    state = published_weights(DGCNN(k=5, emb_dims=16))
    assert set(state) == set(DGCNN_PRETRAINING)
    lines = []
    for prefix in ("", "module."):
        torch.save({prefix + n: v for n, v in state.items()}, tmp_path / "w.pth")
        words = (*EPISODES, "--model_path", str(tmp_path / "w.pth"), "--overwrite")
        run = judge(tmp_path, even_root, *words)
        lines += read_metrics(run)
        assert f"{len(state)} entries loaded" in (run / "run.log").read_text()
    for name in set(lines[0]) - {"seconds"}:
        assert lines[0][name] == lines[1][name], name


def test_the_defaults_are_the_published_protocol() -> None:
    args = eval_fewshot.get_args_parser().parse_args(["--model_path", "none"])
    assert (args.num_points, args.k, args.emb_dims) == (2048, 5, 1024)
    assert (args.n_query, args.n_runs, args.split) == (20, 50, "train")
    assert (args.model, args.variant, args.seed) == ("dgcnn", "obj_bg", 1)


def test_the_weights_that_are_judged_are_not_deleted(
    tmp_path: Path, even_root: Path
) -> None:
    path = tmp_path / "checkpoints" / "run" / "w.pth"
    path.parent.mkdir(parents=True)
    save_weights(DGCNN(k=5, emb_dims=16), path)
    words = (*EPISODES, "--model_path", str(path))
    for said, *more in (
        ["run is not empty"],
        [r"would delete .*w\.pth", "--overwrite"],
    ):
        with pytest.raises(cli.UsageError, match=said):
            judge(tmp_path, even_root, *words, *more)
        assert path.is_file()


def test_impossible_flags(tmp_path: Path, synthetic_root: Path) -> None:
    with pytest.raises(cli.UsageError, match="--k 65"):
        judge(tmp_path, synthetic_root, "--k", "65", "--model_path", "none")
    with pytest.raises(cli.UsageError, match=r"no\.pth: no such file"):
        judge(tmp_path, synthetic_root, "--model_path", "no.pth")
    assert not (tmp_path / "checkpoints").exists()
