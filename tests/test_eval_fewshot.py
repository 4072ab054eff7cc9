"""The few-shot evaluation as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import eval_fewshot
from models.dgcnn import DGCNN
from utils import cli, distributed
from utils.checkpoint import save_weights

TINY = "--num_points 64 --k 5 --emb_dims 16 --wandb disabled --n_runs 4".split()


def judge(folder: Path, data: Path, *words: str) -> Path:
    """Run the script's body in ``folder`` on this rank; returns the run folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        args = eval_fewshot.get_args_parser().parse_args(
            ["--data_root", str(data), "--exp_name", "run", *TINY, *words]
        )
        eval_fewshot.judge_encoder(args, distributed.start())
    finally:
        os.chdir(before)
    return folder / "checkpoints" / "run"


def results(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_give_the_episodes_of_one(tmp_path: Path, two_ranks) -> None:
    from datasets.synthetic import generate

    data = tmp_path / "data"
    generate(data, shapes=48, seed=0, workers=1, progress=False)
    torch.manual_seed(0)
    save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    words = ("--k_way", "5", "--m_shot", "2", "--n_query", "1")
    words += ("--dataset", "scanobjectnn", "--model_path", str(tmp_path / "w.pth"))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (one,) = results(judge(tmp_path / "one", data, *words))
    runs = two_ranks.run(judge, tmp_path / "two", data, *words)
    (two,) = results(runs[0])
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
