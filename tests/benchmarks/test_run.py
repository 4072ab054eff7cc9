"""The benchmark program: values of a row, floor, JSON, flags, cases at small sizes."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import cases, measure, run, steps
from benchmarks.measure import Case, Measured, Rates, Setting, Work
from models.dgcnn import DGCNN
from models.knn import knn

CPU = Setting()
RATES = Rates(product=100.0, double=50.0, copied=10.0)
TINY_STEP = {"points": 32, "k": 4, "backbone": "resnet18", "size": 32}


def constant_forms(_: Setting) -> dict:
    return {"reference": lambda: sum(range(9)), "ours": lambda: None}


def killed(_: Setting) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(200.0, 10.0), 2.0),  # products take longer than the traffic
        (Work(200.0, 50.0), 5.0),
        (Work(200.0, 10.0, double=True), 4.0),
    ],
)
def test_the_floor_is_the_larger_of_products_and_traffic(
    work: Work, seconds: float
) -> None:
    assert measure.floor(work, RATES) == seconds


def test_values_of_a_row() -> None:
    seconds = {"reference": [8.0, 6.0, 9.0], "ours": [2.0, 3.0, 1.0]}
    measured = Measured(seconds, {"reference": 300.0, "ours": None})
    case = Case("a name", constant_forms, lambda: Work(100.0), samples=4)
    found = measure.result(case, measured, RATES)
    assert (found.reference, found.ours, found.ratio) == (8.0, 2.0, 4.0)
    assert (found.ratios, found.spread) == ((2.0, 9.0), 1.0)
    assert (found.floor, found.per_second) == (0.5, 2.0)
    cells = "a name | 8.000 | 2.000 | 4.00 | 2.00 - 9.00 | 100% | 300 | - | 50% | 2.0"
    assert measure.row(found) == f"| {cells} |"
    first, second = measure.heading().splitlines()
    assert first.count("|") == second.count("|") == measure.row(found).count("|")


@pytest.mark.parametrize("form", measure.FORMS)
def test_a_row_of_one_form(form: str) -> None:
    case = Case("alone", constant_forms, samples=2)
    found = measure.result(case, Measured({form: [2.0, 2.0]}, {form: 1.0}), RATES)
    assert getattr(found, form) == 2.0
    assert (found.ratio, found.ratios, found.floor) == (None, None, None)
    assert found.per_second == 1.0
    assert measure.row(found).count("| - ") >= 4


def test_forms_take_turns_and_a_slow_one_is_called_once() -> None:
    calls: list[str] = []
    forms = {form: partial(calls.append, form) for form in measure.FORMS}
    case = Case("quick", constant_forms)
    measured = measure.take_turns(forms, 3, CPU.device, case)
    assert calls == ["reference"] * 3 + ["ours"] * 3 + ["reference", "ours"] * 3
    assert [len(measured.seconds[form]) for form in forms] == [3, 3]

    calls.clear()
    case = Case("slow", constant_forms, slow=True)
    measured = measure.take_turns(forms, 3, CPU.device, case)
    assert calls == ["reference"] + ["ours"] * 6
    found = measure.result(case, measured, RATES)
    assert len(measured.seconds["reference"]) == 1
    assert found.ratios[0] <= found.ratio <= found.ratios[1]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_above_what_there_was() -> None:
    kept = []
    found = measure.extra_memory(CPU.device, lambda: kept.append(torch.ones(2**24)))
    assert 60 <= found < 160  # 64 MiB
    assert measure.free_memory(CPU.device) > 0


def test_a_gpu_that_is_not_there_is_an_error_that_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.find_device("cpu").type == "cpu"
    monkeypatch.setattr(sys, "argv", ["run", "--device", "cuda"])
    with pytest.raises(SystemExit):
        run.main()
    assert "--device cuda: PyTorch sees no GPU" in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_all_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--only", "nothing like it"])
    with pytest.raises(SystemExit):
        run.main()
    said = capsys.readouterr().err
    assert "--only nothing like it" in said
    assert all(case.name in said for case in run.cases("cpu"))


def test_every_training_step_has_clouds_enough_for_batchnorm() -> None:
    steps = [case for case in cases.point_cases() if "seg step" in case.name]
    assert len(steps) >= 9
    assert all((case.samples or 0) >= 2 for case in steps)


def test_names_differ_and_every_device_has_rows() -> None:
    for device, missing in (("cpu", ()), ("cuda", ("svm", "few-shot", "loader"))):
        names = [case.name for case in run.cases(device)]
        assert len(set(names)) == len(names) > 20
        assert not [name for name in names if name.startswith(missing or "-")]
    assert any("128 pairs" in name for name in names)


def test_the_table_and_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    graph = partial(cases.graphs, channels=3, k=4, batch=2, points=50)
    found = [
        Case("graph", graph, lambda: Work(1.0), samples=2),
        Case("too large", constant_forms, gib=1e9),
    ]
    monkeypatch.setattr(run, "cases", lambda device: found)
    monkeypatch.setattr(run, "measure_rates", lambda setting: RATES)
    file = tmp_path / "out.json"
    words = ["run", "--repeats", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", words)
    run.main()
    printed = capsys.readouterr().out
    assert "| graph | 0.0" in printed
    assert "| too large (not run: 1000000000.0 GiB needed, " in printed
    content = json.loads(file.read_text())
    assert content["arguments"] == {"device": "cpu", "precision": "fp32"}
    first, second = content["results"]
    assert len(first["seconds"]["ours"]) == 2
    assert math.isclose(first["ratio"], first["reference"] / first["ours"])
    assert second["ours"] is None


def test_rates_are_those_of_the_precision() -> None:
    for precision in ("fp32", "bf16"):
        found = measure.measure_rates(Setting(CPU.device, precision), 32, 2**10)
        assert min(found.product, found.double, found.copied) > 0


def test_gpus_of_several_processes_add_up() -> None:
    assert RATES.of(2) == Rates(200.0, 100.0, 20.0)
    assert Work(1.0, 2.0) + Work(3.0, 4.0) == Work(4.0, 6.0)
    with pytest.raises(AssertionError):
        Work(1.0) + Work(1.0, double=True)


def test_the_usual_graph_is_the_graph() -> None:
    x = torch.randn(2, 5, 40, dtype=torch.float64)
    torch.testing.assert_close(cases.usual_knn(x, 6), knn(x, 6))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", cases.NETWORKS)
def test_encoder_steps(network: str, precision: str) -> None:
    setting = Setting(CPU.device, precision)
    for augmented in (False, True):
        forms = cases.encoder_step(setting, network, 4, 2, 32, augmented)
        for form in forms.values():
            form()
    for form in cases.extraction(setting, network, 4, 2, 32).values():
        form()


def test_whole_steps_and_their_profile(tmp_path: Path) -> None:
    forms = steps.pretraining(CPU, 2, **TINY_STEP)
    assert list(forms) == list(measure.FORMS)
    forms["reference"]()
    file = tmp_path / "profile.txt"
    run.write_profile(file, forms["ours"], CPU.device)
    assert "convolution" in file.read_text()


def test_forms_of_the_whole_step_differ_in_layout_alone() -> None:
    ours, plain = (steps.crosspoint("resnet18", 4, kept) for kept in (True, False))
    assert isinstance(ours.point_encoder, DGCNN)
    assert plain.point_encoder.edgeconv == "plain"
    weight = ours.image_encoder.resnet.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_processes_of_their_own() -> None:
    step = partial(steps.scaling, pairs=4, **TINY_STEP)
    case = Case("scaling", step, lambda: Work(), 4, processes=2, threads=1)
    found = run.measure(case, CPU, 1, RATES)
    assert found.ours > 0 and found.reference > 0 and not found.note
    names = ("channels_last", "fused", "ddp", "gradient_as_bucket_view")
    step = partial(
        steps.pictures_step,
        reference=("sgd", "ddp", "static_graph"),
        ours=names,
        backbone="resnet18",
        size=32,
    )
    case = Case("options", step, processes=1, threads=1)
    found = run.measure(case, CPU, 1, RATES)
    assert found.ours > 0 and not found.note


@pytest.mark.skipif(sys.platform != "linux", reason="ended by a signal")
def test_a_killed_process_is_a_row_that_says_so() -> None:
    case = Case("too much", killed, processes=1, threads=1)
    assert run.measure(case, CPU, 1, RATES).note == "ended early: SIGKILL"


def test_svm_and_episodes() -> None:
    for form in cases.linear_svm(CPU, 60, 20, 4).values():
        assert form() > 0.3
    reference, ours = cases.few_shot(CPU, 400, 10, episodes=2).values()
    assert reference() == ours()


def test_every_row_has_a_floor() -> None:
    assert not [case.name for case in run.cases("cpu") if case.work is None]
