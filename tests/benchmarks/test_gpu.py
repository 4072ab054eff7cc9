"""The check of a GPU, on the CPU: its rows, states, continuing, and time limits."""

import contextlib
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.autograd import DeviceType

import models.fused.numba as kernels
from benchmarks.gpu import check, exact, runs, speed
from benchmarks.gpu.check import Row, Worker
from benchmarks.gpu.exact import NotRun, Place
from tests.helpers import small_resnet
from tests.helpers.ddp import ROOT

CPU = torch.device("cpu")


def call(out: Path, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and the rows by name."""
    code = check.main(["--device", "cpu", "--out", str(out), *words])
    content = json.loads((out / "gpu.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    table = (out / "gpu.md").read_text()
    assert all(f"| {name} | {row['state']} |" in table for name, row in rows.items())
    return code, rows


@pytest.fixture
def use_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the given functions be all rows, in the section ``exactness``."""

    def use(**functions: Callable) -> None:
        rows = functions.items()
        monkeypatch.setattr(check, "SECTIONS", {"exactness": (lambda _: rows, 1.0)})

    return use


@pytest.mark.slow
def test_every_section_on_the_cpu(tmp_path: Path, monkeypatch) -> None:
    # Other sizes and networks, and kernels that tests/models holds against Numba's.
    left_out = "dgcnn_seg|bf16|float16|TF32 on|strided|features|3 channels|2 proc"
    left_out += "|kernel (knn|edge)|4 steps, layout|step, padded|dgcnn step"
    rows = check.all_rows(gpu=False)
    kept = [row for row in rows if not re.search(left_out, row.name)]
    monkeypatch.setattr(check, "all_rows", lambda gpu: kept)
    # What a row starts has a small image encoder.
    program = tmp_path / "program.py"
    small = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r})\n"
    small += "import tests.helpers.small_resnet\n"
    program.write_text(f"{small}runpy.run_path({str(runs.SCRIPT)!r}, {{}}, '__main__')")
    monkeypatch.setattr(runs, "SCRIPT", program)
    words = runs.RUN.replace("256", "64").replace("--image_size 64", "--image_size 32")
    monkeypatch.setattr(runs, "RUN", words.replace("resnet18", small_resnet.NAME))
    code, rows = call(tmp_path, "--minutes", "20")
    states = {name: row["state"] for name, row in rows.items()}
    assert code == 0, rows
    assert [*rows] == [row.name for row in kept]
    assert {row.section for row in kept} == {*check.SECTIONS}
    # Kernels of Triton's package need its interpreter; streams and graphs a GPU.
    missing = {name for name, state in states.items() if state == "NOT RUN"}
    assert all(re.search("^kernel |, (two streams|graph), ", name) for name in missing)
    assert states["4 steps, padded, 8 pairs"] == "PASS"
    assert states["pre-training step, layout, 2 pairs"] == "MEASURED"
    killed = rows["killed and resumed"]["text"]
    assert killed.startswith("killed after step ") and killed.endswith("bit for bit")
    epoch = rows["40 shapes, batch 4"]["values"]
    assert epoch["per_second"] > 0 and 0 <= epoch["data_wait"] <= 1
    step = rows["pre-training step, fp32, 2 pairs, resnet18"]["values"]
    assert {*step["per_second"]} == {"reference", "ours"}
    assert len(step["longest"]) == 10


def test_the_rows_of_a_gpu() -> None:
    rows = check.all_rows(gpu=True)
    assert len({row[:2] for row in rows}) == len(rows) > 60
    names = " ".join(row.name for row in rows)
    parts = ("8192", "K=40", "TF32 on", "float16", "tf32, 128", "batch 20")
    for part in (*parts, "steps, graph", "step, graph, 20", "two streams, 128"):
        assert part in names
    assert all(f"kernel {name}" in names for name in kernels.__all__)


def noise(y: torch.Tensor, *others: Any) -> tuple:
    return (y * (1 + 1e-5 * next(NUMBERS)), *others)


NUMBERS = itertools.count(100)  # the seed of a check does not reset it


def slightly_wrong(y: torch.Tensor, *others: Any) -> tuple:
    return (y * (1 + 1e-7), *others)


def row_named(start: str) -> Callable[[Place], Any]:
    rows = check.all_rows(gpu=False)
    return next(row.run for row in rows if row.name.startswith(start))


@pytest.mark.parametrize(
    ("row", "kernel", "wrong", "message"),
    [
        ("float64, dgcnn, 3 x 33", "edge_extremes", slightly_wrong, "; allowed 1e-8"),
        ("same bits twice, dgcnn,", "edge_extremes", noise, "tensors differ"),
        ("same bits twice, pre", "edge_extremes", noise, "tensors differ"),
        ("strided", "edge_extremes", noise, "tensors differ"),
        ("float32, exact ties, dgcnn,", "edge_extremes", noise, "allowed .* outputs"),
        pytest.param(
            *("4 steps, layout", "edge_extremes", noise),
            "differ by .*; allowed 1e-08",
            marks=pytest.mark.slow,
        ),
        ("kNN, 33", "knn", lambda idx: idx[:, :1].expand_as(idx), "occurs twice"),
        ("kNN, 33", "knn", lambda idx: idx - idx % 33 + torch.arange(5), "differ by"),
        ("kNN, 33", "knn", lambda idx: idx.flip(1), "differ by"),
    ],
)
def test_a_wrong_kernel_is_seen(row, kernel, wrong, message, tmp_path, monkeypatch):
    def changed(*args: Any) -> Any:
        result = right(*args)
        return wrong(*result) if isinstance(result, tuple) else wrong(result)

    right = getattr(kernels, kernel)
    monkeypatch.setattr(kernels, kernel, changed)
    with pytest.raises(AssertionError, match=message):
        row_named(row)(Place(CPU, tmp_path, 60))


def test_tf32_in_edgeconv_is_seen(tmp_path: Path, monkeypatch) -> None:
    def product(*args: Any) -> torch.Tensor:
        fast = torch.get_float32_matmul_precision() == "high"
        return right(*args) * (1 + 1e-4 * fast)

    right, check = kernels.product, row_named("EdgeConv without TF32")
    monkeypatch.setattr(kernels, "product", product)
    place = Place(CPU, tmp_path, 60)
    assert "bit for bit" in check(place)
    for module in ("clouds", "functions"):
        name = f"models.fused.{module}.full_precision"
        monkeypatch.setattr(name, lambda device: contextlib.nullcontext())
    with pytest.raises(AssertionError, match="tensors differ"):
        check(place)
    assert torch.get_float32_matmul_precision() == "highest"


def test_states_and_a_second_call(tmp_path, use_rows, monkeypatch) -> None:
    calls = []

    def count(place: Place) -> dict[str, Any]:
        calls.append(place.device)
        return {"text": "1 | 2", "per_second": 3.0}

    use_rows(
        counted=count,
        passed=lambda place: "all equal",
        missing=Mock(side_effect=NotRun("no GPU")),
        large=Mock(side_effect=torch.OutOfMemoryError("out of memory. Tried to")),
    )
    code, rows = call(tmp_path)
    assert code == 0 and calls == [CPU]
    assert rows["counted"]["values"] == {"per_second": 3.0}
    actual = {name: (row["state"], row["text"]) for name, row in rows.items()}
    assert actual["passed"] == ("PASS", "all equal")
    assert actual["missing"] == ("NOT RUN", "no GPU")
    assert actual["large"] == ("NOT RUN", "out of memory")

    again = Mock(side_effect=ValueError("run again"))
    use_rows(counted=count, passed=again, missing=count)
    code, rows = call(tmp_path)
    assert code == 0 and len(calls) == 2  # what was missing alone
    assert rows["passed"]["state"] == "PASS" and rows["missing"]["state"] == "MEASURED"

    monkeypatch.setattr(check, "describe", lambda device: {"commit": "another"})
    code, rows = call(tmp_path)
    assert code == 1 and len(calls) == 4
    assert rows["passed"]["text"] == "ValueError: run again"
    assert "Traceback" in rows["passed"]["traceback"]
    assert call(tmp_path, "--only", "counted")[0] == 1  # the failed row still stands
    use_rows(counted=count, passed=lambda place: "all equal")
    code, rows = call(tmp_path)  # which is run again
    assert code == 0 and rows["passed"]["state"] == "PASS"


@pytest.mark.slow
def test_out_of_time(tmp_path: Path, use_rows: Callable) -> None:
    use_rows(first=lambda place: time.sleep(60), second=lambda place: "in time")
    start = time.monotonic()
    code, rows = call(tmp_path, "--minutes", "0.1")
    assert time.monotonic() - start < 20
    assert code == 0 and rows["second"]["state"] == "PASS"
    assert rows["first"]["state"] == "NOT RUN"
    assert rows["first"]["text"].startswith("out of time: stopped after ")
    code, rows = call(tmp_path / "other", "--minutes", "0.001")
    said = [(row["state"], row["text"]) for row in rows.values()]
    assert said == [("NOT RUN", "out of time")] * 2


@pytest.mark.slow
def test_a_section_leaves_time_to_the_later_ones(tmp_path: Path, monkeypatch) -> None:
    slow = [(f"slow {i}", lambda place: time.sleep(60)) for i in range(3)]
    sections = {"runs": (lambda _: slow, 0.4), "epoch": (lambda _: [("a", str)], 1.0)}
    monkeypatch.setattr(check, "SECTIONS", sections)
    _, rows = call(tmp_path, "--minutes", "0.06")
    assert rows["a"]["state"] == "PASS"
    assert {rows[name]["state"] for name, _ in slow} == {"NOT RUN"}


def killed(place: Place) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hung(place: Place) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)


def fine(place: Place) -> str:
    return f"in process {os.getpid()}"


@pytest.mark.slow
def test_a_crash_or_a_hang_costs_one_row(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check, "GRACE", 1.0)
    actual = []
    with contextlib.closing(Worker()) as worker:
        for run in (fine, fine, killed, fine, hung, fine):
            place = Place(CPU, tmp_path, 1 if run is hung else 60)
            actual.append(worker(Row("exactness", run.__name__, run), place))
    texts = [row["text"] for row in actual]
    assert texts[0] == texts[1] and len({texts[1], texts[3], texts[5]}) == 3
    assert texts[2] == "its process ended with exit code -9"
    assert texts[4] == "its process hung and was killed"
    assert [row["state"] for row in actual] == [*("PASS",) * 2, *("FAIL", "PASS") * 2]


@pytest.mark.slow
def test_a_script_that_fails_or_takes_too_long(tmp_path: Path, monkeypatch) -> None:
    place = Place(CPU, tmp_path, 2)
    with pytest.raises(AssertionError, match=r"exit status 2: .*--no_such_flag"):
        runs.train(tmp_path, "run", tmp_path, "--no_such_flag")
    endless = tmp_path / "endless.py"
    pid = "open('pid', 'w').write(str(os.getpid()))"
    endless.write_text(f"import os, time\n{pid}\ntime.sleep(60)")
    monkeypatch.setattr(runs, "SCRIPT", endless)
    row = Row("runs", "endless", lambda p: runs.train(p.out, "run", tmp_path, ""))
    assert check.run_row(row, place)["text"] == "out of time: stopped after 2 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def write_run(folder: Path, losses: list[float], weight: float = 1.0) -> Path:
    (folder / "models").mkdir(parents=True)
    lines = [json.dumps({"step": i, "loss": loss}) for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    moments = {"exp_avg": torch.tensor([weight])}
    parts = {"model": {"w": torch.ones(1)}, "optimizer": {"state": {0: moments}}}
    torch.save(parts, folder / "models" / "checkpoint_last.pth")
    return folder


def test_losses_and_bits_of_runs(tmp_path: Path) -> None:
    losses = [5.0 - i / 10 for i in range(20)]
    one = write_run(tmp_path / "one", losses)
    two = write_run(tmp_path / "two", [*losses[:19], losses[19] * (1 + 2e-7)], 1.5)
    short = write_run(tmp_path / "short", losses[:19])
    assert "differ by 0.0e+00" in runs.agreement(one, one)
    for other, message in ((two, "allowed 1e-07"), (short, "19 and 20 steps")):
        with pytest.raises(AssertionError, match=message):
            runs.agreement(other, one)
    states = [runs.state(run) for run in (one, two)]
    with pytest.raises(AssertionError, match="1 of 2 tensors differ"):
        exact.equal_bits(*states)


def test_the_profile_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def event(name: str, start: float, end: float, **more: Any) -> SimpleNamespace:
        span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        kind = {"device_type": DeviceType.CUDA} | more
        return SimpleNamespace(name=name, time_range=span, **kind)

    events = [
        event("gemm", 10, 20),
        event("copy", 15, 18),  # within the other, on another stream
        event("gemm", 30, 40),
        event("Adam.step", 0, 100, is_user_annotation=True),
        event("aten::mm", 0, 100, device_type=DeviceType.CPU),
    ]

    profiled = contextlib.nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda: profiled)
    monkeypatch.setattr(speed, "synchronise", lambda device: None)
    place = Place(torch.device("cuda"), tmp_path, 60)
    launches, busy, longest = speed.profile(lambda: None, place)
    assert launches == 3 and busy == pytest.approx(20e-6)
    assert longest[0] == ("gemm", pytest.approx(0.02), pytest.approx(20 / 23))


def test_wrong_flags_are_answered(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, message in (
        (["--only", "nothing like it"], "the rows are exactness: the fused form runs;"),
        (["--device", "cuda"], "--device cuda: PyTorch sees no GPU here"),
    ):
        with pytest.raises(SystemExit):
            call(tmp_path, *words)
        assert message in capsys.readouterr().err
