"""The benchmark program: the least work against counts by hand, rows, JSON, flags,
forms at small sizes."""

import json
import math
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import forms, measure, roofline, run
from benchmarks.measure import Case, Measured, Rates, Setting, Work
from benchmarks.roofline import Sizes
from models.image import ImageEncoder
from models.knn import knn

CPU = Setting(torch.device("cpu"))
RATES = Rates(product=100.0, double=50.0, copied=10.0)
TINY_STEP = forms.Step(4, points=32, k=4, backbone="resnet18", size=32)


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
def test_the_roofline_is_the_larger_of_products_and_traffic(work, seconds) -> None:
    assert measure.roofline(work, RATES) == seconds


def test_work_is_counted_on_distinct_points() -> None:
    sizes = Sizes("dgcnn", 3, 64, 15, augmented=True)
    points = roofline.clouds(3, 64, augmented=True)
    rows = [len(cloud.unique(dim=1).T) for cloud in points]
    assert min(rows) < 64
    assert roofline.cloud_work(sizes) == roofline.encoder_work("dgcnn", rows, 15, 3)
    # One cloud of n points: the terms in n and in n² of the products, by hand.
    convolutions = 4 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 256) + 2 * 512 * 1024
    distances = 2 * (3 + 64 + 64 + 128)
    work = roofline.encoder_work("dgcnn", [10, 20], 15, 3)
    assert work.operations == 3 * 30 * convolutions + distances * (100 + 400)


def test_work_of_images_is_that_of_the_published_network() -> None:
    # 4.09 G multiplications an image, three times in a step but for the first layer's.
    work = roofline.image_work(2)
    assert math.isclose(work.operations, 2 * 3 * 2 * 4.09e9, rel_tol=0.02)
    parameters = sum(p.numel() for p in ImageEncoder().parameters())
    assert work.moved > 28 * parameters


def test_work_of_the_part_segmentation_network() -> None:
    # One cloud of n points: three blocks of two layers, by hand.
    convolutions = 4 * (2 * 3 * 64 + 2 * 64 * 64) + 2 * 1024 * (128 + 192)
    second = 2 * 10 * 5 * (64 * 128 + 64 * 64 + 64 * 64)
    distances = 2 * (3 + 3 + 64 + 64)
    work = roofline.encoder_work("dgcnn_seg", [10], 5, 1)
    assert work.operations == 10 * convolutions + second + 100 * distances
    sizes = (Sizes("dgcnn_seg", 2, 64, 4, augmented) for augmented in (False, True))
    random, augmented = (roofline.cloud_work(x).operations for x in sizes)
    assert augmented < random


@pytest.mark.parametrize(
    ("seconds", "memory", "cells"),
    [
        (
            {"reference": [8.0, 6.0, 9.0], "ours": [2.0, 3.0, 1.0]},
            {"reference": 300.0, "ours": None},
            "8.000 | 2.000 | 4.00 | 2.00 - 9.00 | 100% | 300 | - | 50% | 2.0",
        ),
        (  # the reference alone
            {"reference": [2.0, 2.0]},
            {"reference": 1.0},
            "2.000 | - | - | - | 0% | 1 | - | 50% | 2.0",
        ),
    ],
)
def test_values_of_a_row(seconds: dict, memory: dict, cells: str) -> None:
    case = Case("a name", constant_forms, lambda: Work(100.0), samples=4)
    row = measure.row(measure.result(case, Measured(seconds, memory), RATES, 1))
    assert row == f"| a name | {cells} |"
    first, second = measure.heading().splitlines()
    assert first.count("|") == second.count("|") == row.count("|")


def test_forms_take_turns_and_a_slow_one_is_called_once() -> None:
    calls: list[str] = []
    both = {form: partial(calls.append, form) for form in measure.FORMS}
    quick, slow = (Case("", constant_forms, Work, slow=slow) for slow in (False, True))
    measured = measure.take_turns(both, 3, CPU.device, quick)
    assert calls == ["reference"] * 3 + ["ours"] * 3 + ["reference", "ours"] * 3
    assert [len(measured.seconds[form]) for form in both] == [3, 3]

    calls.clear()
    measured = measure.take_turns(both, 3, CPU.device, slow)
    assert calls == ["reference"] + ["ours"] * 6
    actual = measure.result(slow, measured, RATES, 2)
    assert len(measured.seconds["reference"]) == 1
    assert actual["ratios"][0] <= actual["ratio"] <= actual["ratios"][1]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_above_that_before() -> None:
    kept = []
    actual = measure.extra_memory(CPU.device, lambda: kept.append(torch.ones(2**24)))
    assert 60 <= actual < 160  # 64 MiB
    assert measure.free_memory(CPU.device) > 0


NAMES = [case.name for case in run.cases("cpu")]


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ("--device cuda", ["--device cuda: PyTorch sees no GPU"]),
        ("--only nothing", ["--only nothing", *NAMES]),
    ],
)
def test_wrong_flags_are_answered(flags, texts, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["run", *flags.split()])
    with pytest.raises(SystemExit):
        run.main()
    error = capsys.readouterr().err
    assert all(text in error for text in texts)


def test_the_rows_in_the_readme_are_measured() -> None:
    text = Path(run.__file__).with_name("README.md").read_text(encoding="utf-8")
    kinds = "pre-training step|multi-view|scaling|dgcnn|pointnet|product|knn|svm"
    kinds += "|few-shot, 9840|loader|rendering"
    rows = set(re.findall(rf"^\| ((?:{kinds})[^|]*?)(?:, spinning)? \|", text, re.M))
    assert {*NAMES} == rows


def test_the_rows_of_each_device() -> None:
    on_cpu = ("svm", "few-shot", "loader", "rendering")
    for device, missing in (("cpu", ()), ("cuda", on_cpu)):
        actual = run.cases(device)
        names = [case.name for case in actual]
        assert len(set(names)) == len(names) > 20
        assert not [name for name in names if name.startswith(missing or "-")]
        steps = [case for case in actual if "seg step" in case.name]
        assert len(steps) >= 9
        assert all(case.samples >= 2 for case in steps)  # enough for BatchNorm
    assert any("128 pairs" in name for name in names)


def test_the_table_and_its_json(tmp_path: Path, monkeypatch, capsys) -> None:
    graph = partial(forms.graphs, channels=3, k=4, batch=2, points=50)
    stub_cases = [
        Case("graph", graph, lambda: Work(1.0), samples=2),
        Case("too large", constant_forms, Work, gib=1e9),
    ]
    monkeypatch.setattr(run, "cases", lambda device: stub_cases)
    monkeypatch.setattr(measure, "measure_rates", lambda setting: RATES)
    file = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["run", "--repeats", "2", "--json", str(file)])
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rates_are_measured(precision: str) -> None:
    actual = measure.measure_rates(Setting(CPU.device, precision), 32, 2**10)
    assert min(actual.product, actual.double, actual.copied) > 0


def test_the_usual_graph_is_the_graph() -> None:
    x = torch.randn(2, 5, 40, dtype=torch.float64)
    torch.testing.assert_close(forms.usual_knn(x, 6), knn(x, 6))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", ["dgcnn", "dgcnn_seg", "pointnet"])
def test_encoder_steps(network: str, precision: str) -> None:
    setting = Setting(CPU.device, precision)
    for augmented, training in ((False, True), (True, True), (False, False)):
        sizes = Sizes(network, 2, 32, 4, augmented)
        both = forms.encoder(setting, sizes, training)
        assert list(both) == list(measure.FORMS)
        for form in both.values():
            form()


@pytest.mark.slow
def test_whole_steps_and_their_profile(tmp_path: Path) -> None:
    both = forms.pretraining(CPU, TINY_STEP)
    assert list(both) == list(measure.FORMS)
    both["reference"]()
    file = tmp_path / "profile.txt"
    run.write_profile(file, both["ours"], CPU.device)
    assert "convolution" in file.read_text()


def test_the_multi_view_step_has_an_image_encoder_that_sees_all_images() -> None:
    step = TINY_STEP._replace(views=3)
    for form in forms.multiview(CPU, step).values():
        form()
    *_, images = step.inputs()
    assert images.shape == (4, 3, 3, 32, 32)
    assert len(step.model(ours=True).heads.image) == 3


def test_forms_of_the_whole_step_have_equal_weights() -> None:
    ours, plain = (TINY_STEP.model(kept) for kept in (True, False))
    assert plain.point_encoder.edgeconv == "plain" != ours.point_encoder.edgeconv
    weight = ours.image_encoder.resnet.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def measured_apart(make: object, processes: int) -> dict:
    case = Case("apart", make, Work, 4, processes=processes, threads=1)
    return measure.measure_case(case, CPU, 1, RATES)


@pytest.mark.slow
def test_processes_of_their_own() -> None:
    scaling = partial(forms.scaling, step=TINY_STEP)
    actual = measured_apart(scaling, 2)
    assert actual["ours"] > 0 and actual["reference"] > 0 and not actual["note"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ended by a signal")
def test_a_killed_process_is_a_row_that_says_so() -> None:
    assert measured_apart(killed, 1)["note"] == "ended early: SIGKILL"


def test_svm_episodes_and_rendering() -> None:
    for form in forms.linear_svm(CPU, 60, 20, 4).values():
        assert form() > 0.3
    reference, ours = forms.few_shot(CPU, 400, 10, episodes=2).values()
    assert reference() == ours()
    (ours,) = forms.rendering(CPU, views=2, size=16, side=6).values()
    ours()
