"""The study: its commands, what is repeated after a stop, and its table."""

import importlib
import itertools
import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import study
from tests.helpers.small_data import write_small_data

# Stands for every script: notes its command; writes what a run writes, and may fail.
SCRIPT = """
import json, pathlib, shutil, sys, time
name = pathlib.Path(sys.argv[0]).name
folder = pathlib.Path("checkpoints", sys.argv[sys.argv.index("--exp_name") + 1])
with open("commands.txt", "a") as file:
    file.write(folder.name + " " + sys.argv[-1] + "\\n")
if "--overwrite" in sys.argv:
    shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True, exist_ok=True)
while pathlib.Path("hang").exists() and name.startswith("train"):
    time.sleep(0.05)
if pathlib.Path("fail").exists() and name == "eval_fewshot.py":
    sys.exit("out of luck")
(folder / "config.json").write_text('{"environment": {"commit": "abc123"}}')
seed = int(sys.argv[sys.argv.index("--seed") + 1])
gain = 0.0 if folder.name.startswith("untrained") else 0.1 * seed
few = {"accuracy": 0.5 + gain, "knn_accuracy": 0.25, "labels_1_accuracy": 0.75}
record = {
    "eval_svm.py": {**few, "corrupted": {"noisy": few, "mean": {**few, "accuracy": 0}}},
    "eval_fewshot.py": {"k_way": 5, "m_shot": 10, "mean": 0.125},
    "finetune_cls.py": {"epoch_end": True, "test_accuracy": 0.625},
    "train_crosspoint.py": {"epoch_end": True, "train_loss": 1.0},
}[name]
(folder / "models").mkdir()
for name in ("best_model", "checkpoint_last", "checkpoint_previous"):
    (folder / "models" / f"{name}.pth").touch()
(folder / "metrics.jsonl").write_text(json.dumps(record) + "\\n")
"""
ARMS = ("--arms", "untrained", "crosspoint")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study whose scripts are `SCRIPT`."""
    monkeypatch.setattr(study, "ROOT", tmp_path)
    for name in ("train_crosspoint", "eval_svm", "eval_fewshot", "finetune_cls"):
        (tmp_path / f"{name}.py").write_text(SCRIPT)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    (out := tmp_path / "out").mkdir()
    return out


def run(out: Path, *words: str) -> tuple[int, list[str], dict]:
    """Exit status, the commands of this call, and study.json."""
    (out / "commands.txt").write_text("")
    code = study.main(["--out", str(out), *ARMS, "--seeds", "1", "2", *words])
    done = sorted((out / "commands.txt").read_text().splitlines())
    return code, done, json.loads((out / "study.json").read_text())


def test_every_command_is_understood_by_its_script() -> None:
    args = study.get_args_parser().parse_args(["--finetune", "--epochs", "7"])
    names = set()
    for arm, seed in itertools.product(study.ARMS, (1, 2)):
        runs = study.runs_of(arm, seed, args)
        for one in runs:
            script = importlib.import_module(one.script.removesuffix(".py"))
            actual = script.get_args_parser().parse_args(one.flags)
            assert (actual.seed, actual.num_points) == (seed, 512)
            names.add(one.name)
        best = f"checkpoints/{runs[0].name}/models/best_model.pth"
        paths = {f for one in runs for f in one.flags if f.endswith(".pth")}
        assert paths == (set() if arm == "untrained" else {best})
    assert len(names) == 2 * (6 * 5 - 1)


@pytest.mark.slow
def test_complete_runs_are_not_repeated(scripts: Path) -> None:
    code, done, content = run(scripts)
    assert code == 0
    kinds = {"untrained": ("svm", "fewshot")}
    kinds["crosspoint"] = ("pretrain", *kinds["untrained"])
    names = {f"{arm}_{n}_{x}" for arm in kinds for n in (1, 2) for x in kinds[arm]}
    assert done == sorted(f"{name} --overwrite" for name in names)
    assert content["values"]["linear SVM"] == {
        "untrained": {"1": 50, "2": 50},
        "crosspoint": {"1": 60, "2": 70},
    }
    assert content["commits"] == ["abc123"]
    left = {path.name for path in scripts.glob("checkpoints/*/models/*")}
    assert left == {"best_model.pth"}
    assert content["values"]["few-shot, 5 ways 10 shots"]["crosspoint"]["1"] == 12.5
    assert content["values"]["corrupted, linear SVM"]["crosspoint"]["1"] == 0
    assert content["values"]["noisy, k-NN"]["untrained"]["2"] == 25
    assert run(scripts)[:2] == (0, [])
    # Other pre-training: its judges are called again, those of the untrained are not.
    done = run(scripts, "--epochs", "9")[1]
    assert len(done) == 6 and all(line.startswith("crosspoint") for line in done)
    done = run(scripts, "--epochs", "9", "--finetune")[1]
    assert len(done) == 8 and all("finetune" in line for line in done)
    table = (scripts / "table.md").read_text()
    assert "| fine-tuned, 10 % of labels | 62.50 ± 0.00 |" in table


@pytest.mark.slow
def test_a_stopped_training_is_resumed(scripts: Path) -> None:
    (scripts / "hang").touch()
    begin = time.monotonic()
    code, done, content = run(scripts, "--minutes", "0.05")
    assert time.monotonic() - begin < 30
    assert code == 0  # a stop is no failure
    assert "crosspoint_1_pretrain --overwrite" in done
    assert not any(line.startswith("crosspoint_1_svm") for line in done)
    assert set(content["values"]["linear SVM"]) <= {"untrained"}
    table = (scripts / "table.md").read_text()
    assert "| linear SVM | 50.00 ± 0.00 | not run |" in table
    (scripts / "hang").unlink()
    done = run(scripts)[1]
    assert "crosspoint_1_pretrain --resume" in done
    assert "untrained_1_svm --overwrite" not in done
    assert run(scripts)[1] == []


def test_a_failed_run_is_named_and_the_others_go_on(scripts: Path, capfd) -> None:
    (scripts / "fail").touch()
    code, done, content = run(scripts)
    assert code == 1
    assert len(done) == 10
    assert "few-shot, 5 ways 10 shots" not in content["values"]
    output = capfd.readouterr().out
    assert "untrained_2_fewshot failed: see" in output
    assert "out of luck" in (scripts / "runs" / "untrained_2_fewshot.log").read_text()


def test_intervals_are_those_of_paired_differences() -> None:
    own, other = {1: 72.0, 2: 75.0, 3: 71.0, 9: 0.0}, {1: 70.0, 2: 70.5, 3: 70.0}
    values = {"k-NN": {"a": own, "base": other, "b": {1: 69.0}}}
    pairs = [2.0, 4.5, 1.0]
    mean = sum(pairs) / 3
    variance = sum((x - mean) ** 2 for x in pairs) / 2
    half = 4.302652729911275 * math.sqrt(variance / 3)  # of tables: t, 2 degrees
    actual = study.differences(values, "base")["k-NN"]
    assert actual["a"]["mean"] == pytest.approx(mean)
    assert actual["a"]["interval"] == pytest.approx(half)
    assert actual["a"]["seeds"] == 3
    assert actual["b"] == {"mean": -1.0, "interval": None, "seeds": 1}
    text = study.table(values, ["base", "a", "b", "c"], [1, 2, 3], "base")
    spread = np.std([70, 70.5, 70], ddof=1)
    assert f"| k-NN | 70.17 ± {spread:.2f} | " in text
    assert f"| k-NN | +{mean:.2f} ± {half:.2f} | -1.00 (1 seed) | not run |" in text


@pytest.mark.slow
def test_real_runs_end_in_a_table(tmp_path: Path, monkeypatch) -> None:
    data = write_small_data(tmp_path / "data")
    monkeypatch.setattr(study, "SVM", "--C 1 --labels_per_class 1 --corrupt 3")
    few_shot = "--k_way 3 --m_shot 1 --n_query 1 --n_runs 3"
    monkeypatch.setattr(study, "FEW_SHOT", few_shot)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    words = "--num_points 64 --emb_dims 16 --image_size 32 --epochs 1 --seeds 1"
    words = (*words.split(), "--arms", "crosspoint", "--data_root", str(data))
    assert study.main(["--out", str(tmp_path), *words]) == 0
    values = json.loads((tmp_path / "study.json").read_text())["values"]
    rows = ("linear SVM", "k-NN", "1 label a class", "few-shot, 3 ways 1 shots")
    for row in (*rows, *(f"corrupted, {row}" for row in rows[:3])):
        assert 0 <= values[row]["crosspoint"]["1"] <= 100, row
