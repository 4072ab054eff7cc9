"""What the three training scripts have in common: files, start, resuming, refusals."""

import importlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.helpers.runs import finetune, metrics, pretrain, segment, weights
from utils.run import cli
from utils.run.bookkeeping import DivergenceError
from utils.run.network import read_network, settle
from utils.run.training import cosine, scheduled

STEP_KEYS = {"step", "epoch", "loss", "lr", "samples_per_second", "data_wait"}
EPOCH_KEYS = {"epoch", "epoch_end", "train_loss"}
TEST_KEYS = {"test_loss", "test_accuracy", "test_class_accuracy"}


class Case(NamedTuple):
    """A script, its data, what it records, and what its log says."""

    run: Callable[..., Path]
    data: str
    words: tuple[str, ...]
    steps: int  # of an epoch
    step_keys: set[str]
    epoch_keys: set[str]
    merit: str  # chooses the best epoch
    rates: list[float]
    head: tuple[str, int | None]  # and its outputs
    said: tuple[str, ...]


COSINE = [cosine(1e-3, epoch, 3) for epoch in range(3)]
CASES = {
    "train_crosspoint": Case(
        pretrain,
        "synthetic_root",
        ("--svm_every", "1"),
        3,
        {"imid_loss", "cmid_loss"},
        {"train_imid_loss", "train_cmid_loss", "svm_accuracy", "knn_accuracy"},
        "svm_accuracy",
        COSINE,
        ("projection", None),
        (
            *("24 shapes", "8 global, 8 a rank on 1 process", "3 an epoch"),
            *("torch ", "commit", "cpu, backend none, fp32", "M parameters"),
            "chosen by the SVM probe on ModelNet40's test split",
        ),
    ),
    "finetune_cls": Case(
        finetune,
        "uneven_root",
        ("--from_scratch",),
        3,
        set(),
        {"train_accuracy", "train_class_accuracy", "best_test_accuracy", *TEST_KEYS},
        "test_accuracy",
        COSINE,
        ("classifier", 5),
        (
            *("random weights (seed 1)", "8 global, 8 a rank on 1 process"),
            "21 of 21 training and 13 test clouds, 5 classes",
            "chosen by the accuracy on the test split",
            "last epoch: test accuracy {last:.2%}; best, chosen on the test split: "
            "{best:.2%}",
        ),
    ),
    "train_partseg": Case(
        segment,
        "part_root",
        ("--from_scratch",),
        2,
        set(),
        {"train_miou", "train_accuracy", "test_miou", "test_class_miou"}
        | {"best_test_miou", *TEST_KEYS},
        "test_miou",
        [scheduled("cos", 0.1, epoch, 3) for epoch in range(3)],
        ("parts", 50),
        (
            *("random weights (seed 1)", "4 global, 4 a rank on 1 process"),
            *("6 training and 7 test shapes", "chair "),
            "chosen by instance mIoU on the test split",
            "last epoch: test_miou {last:.4f}",
            "best epoch: test_miou {best:.4f}, chosen on the test split",
        ),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def data(case: Case, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(case.data)


@pytest.fixture(scope="module")
def finished(case: Case, data: Path, tmp_path_factory, request) -> Path:
    """The run folder of three epochs, weights of each kept."""
    if case.run is finetune:
        return request.getfixturevalue("tuned")
    words = (*case.words, "--epochs", "3", "--save_freq", "1")
    return case.run(tmp_path_factory.mktemp("whole"), data, *words)


def test_files_and_records(case: Case, finished: Path) -> None:
    files = {f"ckpt_epoch_{n}.pth" for n in (1, 2, 3)} | {"network.json"}
    files |= {"best_model.pth", "checkpoint_last.pth", "checkpoint_previous.pth"}
    if case.run is pretrain:
        files |= {"img_model_best.pth", "img_model_last.pth", "ckpt_epoch_last.pth"}
    assert {path.name for path in (finished / "models").iterdir()} == files
    files = {"config.json", "run.log", "metrics.jsonl", "models"}
    assert {path.name for path in finished.iterdir()} == files
    steps, epochs = metrics(finished)
    assert [line["step"] for line in steps] == list(range(3 * case.steps))
    assert all(set(line) == STEP_KEYS | case.step_keys for line in steps)
    assert [x["lr"] for x in steps] == list(np.repeat(case.rates, case.steps))
    best = 0.0
    for number, line in enumerate(epochs):
        assert set(line) == EPOCH_KEYS | case.epoch_keys
        assert line["epoch"] == number and line["epoch_end"] is True
        own = [x for x in steps if x["epoch"] == number]
        for name in ("loss", *case.step_keys):
            mean = sum(x[name] for x in own) / case.steps
            assert math.isclose(line[f"train_{name}"], mean, rel_tol=1e-9)
        for name in case.epoch_keys:
            assert name.endswith("loss") or 0 <= line[name] <= 1
        best = max(best, line[case.merit])
        assert line.get(f"best_{case.merit}", best) == best
    first = next(x["epoch"] for x in epochs if x[case.merit] == best)
    chosen, kept = weights(finished), weights(finished, f"ckpt_epoch_{first + 1}.pth")
    assert all(torch.equal(chosen[name], kept[name]) for name in kept)
    if case.run is pretrain:
        state = weights(finished, "checkpoint_last.pth")["model"]
        files = {"point_encoder": "ckpt_epoch_last", "image_encoder": "img_model_last"}
        for part, name in files.items():
            for entry, value in weights(finished, f"{name}.pth").items():
                assert torch.equal(value, state[f"{part}.{entry}"])
    log = (finished / "run.log").read_text()
    for message in case.said:
        assert message.format(last=epochs[-1][case.merit], best=best) in log, message
    group = weights(finished, "checkpoint_last.pth")["optimizer"]["param_groups"][0]
    assert group["lr"] == case.rates[-1]
    assert group.get("momentum") == (0.9 if case.run is segment else None)
    config = json.loads((finished / "config.json").read_text())
    assert not set(config["arguments"]) & {flag[2:] for flag in cli.RETIRED}
    assert config["arguments"]["emb_dims"] == 16 and config["world_size"] == 1
    network = read_network(finished / "models" / "best_model.pth")
    for name in ("model", "emb_dims", "k", "num_points"):
        assert getattr(network, name) == config["arguments"][name]
    assert (network.head, network.outputs) == case.head


@pytest.mark.parametrize(
    ("script", "published"),
    [  # points, K, global batch, epochs, optimiser, weight decay
        ("train_crosspoint", (2048, 15, 20, 100, "adam", 1e-6)),
        ("finetune_cls", (1024, 20, 600, 300, "adam", 1e-6)),
        ("train_partseg", (2048, 40, 32, 300, "sgd", 1e-4)),
    ],
)
def test_the_defaults_are_the_published_protocol(script: str, published: tuple) -> None:
    module = importlib.import_module(script)
    args = module.get_args_parser().parse_args([])
    if script != "train_crosspoint":
        settle(args, module.PUBLISHED)
    names = ("num_points", "k", "batch_size", "epochs", "optimizer", "weight_decay")
    assert tuple(vars(args)[name] for name in names) == published
    assert (args.momentum, args.emb_dims, args.lr) == (0.9, 1024, None)


@pytest.mark.slow  # the CPU emulates them
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_starts_where_float32_does(
    precision: str, case: Case, data: Path, finished: Path, tmp_path: Path
) -> None:
    words = (*case.words, "--epochs", "1", "--precision", precision)
    run = case.run(tmp_path, data, *words)
    first, full = metrics(run)[0][0]["loss"], metrics(finished)[0][0]["loss"]
    assert first != full
    assert math.isclose(first, full, rel_tol=0.1)
    assert weights(run)["conv1.0.weight"].dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_the_run(
    case: Case, data: Path, tmp_path: Path
) -> None:
    words = (*case.words, "--epochs", "5", "--optimizer", "sgd", "--lr", "1e30")
    with pytest.raises(DivergenceError, match=r"the loss is not finite at step .*--lr"):
        case.run(tmp_path, data, *words)
    assert not list((tmp_path / "checkpoints" / "run" / "models").glob("*.pth"))


def test_a_run_folder_is_kept_and_its_inputs_are_not_deleted(
    case: Case, data: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    run = tmp_path / "checkpoints" / "run"
    shutil.copytree(finished, run)
    best = run / "models" / "best_model.pth"
    before = best.read_bytes()
    words = (*case.words, "--epochs", "3")
    start = ("--epochs", "3", "--model_path")
    for message, *flags in (
        ("--resume.*--overwrite", *words),
        (r"no\.pth: no such file", *start, str(tmp_path / "no.pth"), "--overwrite"),
        (r"would delete .*best_model\.pth", *start, str(best), "--overwrite"),
        ("has shape", *start, str(best), "--overwrite", "--emb_dims", "8"),
    ):
        with pytest.raises(cli.UsageError, match=message):
            case.run(tmp_path, data, *flags)
        assert best.read_bytes() == before
    case.run(tmp_path, data, *words, "--overwrite", "--seed", "2")
    name = "conv1.0.weight"
    assert not torch.equal(weights(run)[name], weights(finished)[name])
    # A restart by torchrun goes on, whatever the flags say; here there is nothing left.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    case.run(tmp_path, data, *words, "--overwrite", "--seed", "2")
    assert len(metrics(run)[1]) == 3


def test_a_resumed_run_keeps_its_configuration_and_needs_no_weights_to_start_from(
    case: Case, data: Path, finished: Path, tmp_path: Path
) -> None:
    start = tmp_path / "w.pth"
    shutil.copy(finished / "models" / "best_model.pth", start)
    words = ("--svm_every", "1") if case.run is pretrain else ()
    once = (*words, "--epochs", "1", "--model_path")
    run = case.run(tmp_path, data, *once, str(start))
    config, records = (run / "config.json").read_bytes(), metrics(run)
    start.unlink()
    for other in ("", "other.pth"):
        case.run(tmp_path, data, *once, other, "--resume", "--print_freq", "7")
        log = (run / "run.log").read_text()
        assert f"--model_path {str(start)!r} -> {other!r}" in log
        assert "--print_freq 1 -> 7" in log and "--resume" not in log
        assert (run / "config.json").read_bytes() == config
        assert metrics(run) == records  # nothing is left to do
    assert "entries loaded" in log and log.count("random weights") == 0
    # Nor does one that started from random weights need to be told so again.
    shutil.copytree(finished, tmp_path / "scratch" / "checkpoints" / "run")
    words += ("--epochs", "3", "--resume")
    run = case.run(tmp_path / "scratch", data, *words)
    assert metrics(run) == metrics(finished)


START = "either --model_path FILE .* or --from_scratch "
EVAL = "--eval evaluates the weights of --model_path"
# Messages by flags beside those of the case.
REFUSED = {
    "--exp_name ../other": "exp_name",
    "--k 65 --num_points 64": "--k 65 is more than --num_points 64",
    "--batch_size 1": "--batch_size 1 leaves",
    "--num_points 4096": "fewer than the 4096 asked for",
    "--data_root nowhere": "nowhere",
}
PRETRAINING = {
    "--batch_size 25": "--batch_size",
    "--img_model_path no.pth": "no.pth: no such file",
    "--imid_weight 0 --cmid_weight 0": "leave no loss: give one",
    "--image_jitter 0.4 1.5 --num_images 2": "--image_jitter 1.5 is more than 1",
    "--image_jitter 0.4 0.5": "has 2 values: give one, or .* --num_images 1",
    "--view_dims 64": "--view_dims needs --objective multiview",
    "--objective multiview --view_dims 8 9": "--view_dims has 2 values",
    "--num_images 99": r"rendering: \d+ images, fewer than --num_images 99",
}
FINE_TUNING = {"--dropout 1": "--dropout 1 must be below 1", "--model_path w": START}
REFUSED_OF = {
    "train_crosspoint": PRETRAINING,
    "finetune_cls": {
        **FINE_TUNING,
        "--label_fraction 1.5": "--label_fraction 1.5 is more than 1",
    },
    "train_partseg": FINE_TUNING,
}
REFUSED_STARTS = {  # fine-tuning with these flags alone
    "": START,
    "--resume": START,
    "--eval": EVAL,
    "--eval --from_scratch": EVAL,
    "--eval --resume --model_path w": "--eval has nothing to --resume",
    "--model_path w": "w: no such file",
}


@pytest.mark.parametrize("script", CASES)
def test_bad_requests_stop_before_anything_is_written(
    script: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[script]
    where = (tmp_path, request.getfixturevalue(case.data))
    asked = [(case.words, REFUSED | REFUSED_OF[script])]
    if case.run is not pretrain:
        asked += [((), REFUSED_STARTS)]
    for words, refused in asked:
        for flags, message in refused.items():
            with pytest.raises(cli.UsageError, match=message):
                case.run(*where, *words, *flags.split())
    assert not (tmp_path / "checkpoints").exists()
