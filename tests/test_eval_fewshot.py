"""The few-shot evaluation as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import eval_fewshot
from models.dgcnn import DGCNN
from tests.runs import run_body
from utils import cli
from utils.checkpoint import save_weights
from utils.logger import read_metrics

TINY = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --n_runs 4".split()


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


def test_impossible_flags(tmp_path: Path, synthetic_root: Path) -> None:
    with pytest.raises(cli.UsageError, match="--k 65"):
        judge(tmp_path, synthetic_root, "--k", "65", "--model_path", "none")
    with pytest.raises(cli.UsageError, match=r"no\.pth: no such file"):
        judge(tmp_path, synthetic_root, "--model_path", "no.pth")
    assert not (tmp_path / "checkpoints").exists()
