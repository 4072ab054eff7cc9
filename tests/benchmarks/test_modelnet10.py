"""The study on ModelNet10: its commands, when a run is complete, and its table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import modelnet10


def write(command: str, records: list[dict], data_root: str = "data") -> None:
    folder = Path("checkpoints", command.split()[-1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    config = {"arguments": {"data_root": data_root}}
    (folder / "config.json").write_text(json.dumps(config))


def test_every_command_is_understood_by_its_script() -> None:
    names = set()
    for command in modelnet10.commands(3).values():
        script, *words = command.split()
        parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
        args = parser.parse_args(words)
        assert args.seed == 3
        names.add(args.exp_name)
    assert len(names) == 9


def test_a_run_is_complete_at_its_end_and_on_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = modelnet10.commands(1)["pretrain"]
    assert not modelnet10.complete(command, "data")
    epochs = [{"epoch": n, "epoch_end": True, "train_loss": 1.0} for n in range(6)]
    write(command, [{"step": 0}, *epochs[:5]])
    assert not modelnet10.complete(command, "data")
    write(command, [{"step": 0}, *epochs])
    assert modelnet10.complete(command, "data")
    assert not modelnet10.complete(command, "other")


def test_gains_are_those_of_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, (before, after) in ((1, (0.5, 0.7)), (2, (0.6, 0.7))):
        for name, command in modelnet10.commands(seed).items():
            value = before if name.endswith("untrained") else after
            record = {"accuracy": value, "mean": value, "k_way": 5, "m_shot": 10}
            end = {"epoch_end": True, "test_accuracy": value, "train_loss": value}
            write(command, [{**record, **end}])
    rows = modelnet10.table([1, 2]).splitlines()
    wanted = "| linear SVM | 55.00 ± 7.07 | 70.00 ± 0.00 | 15.00 ± 7.07 |"
    assert wanted in rows
    assert any(
        row.startswith("| fine-tuning, 1 % of the labels | 55.00") for row in rows
    )
