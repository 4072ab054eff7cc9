"""Fine-tuning for classification: weights in, files out, resuming, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import finetune_cls
from models.dgcnn import DGCNN
from models.image import ImageEncoder
from tests.runs import (
    finetune,
    interrupted,
    judged,
    metrics,
    pretrain,
    same_records,
    weights,
)
from utils.parallel import distributed
from utils.run import checkpoint, cli
from utils.run.bookkeeping import DivergenceError
from utils.run.training import cosine

HEAD = ("linear1", "bn6", "linear2", "bn7", "linear3")
STEP_KEYS = {"step", "epoch", "loss", "lr", "samples_per_second", "data_wait"}
EPOCH_KEYS = {
    *("epoch", "epoch_end", "train_loss", "train_accuracy", "train_class_accuracy"),
    *("test_loss", "test_accuracy", "test_class_accuracy", "best_test_accuracy"),
}


class Captured(Exception):
    pass


def starting_state(folder: Path, data: Path, *words: str) -> dict[str, torch.Tensor]:
    """The weights on this rank before the first step, taken out of DDP."""
    found = {}

    def capture(model, *_) -> None:
        assert isinstance(model, DistributedDataParallel) == (
            distributed.world_size() > 1
        )
        found.update({n: v.clone() for n, v in model.state_dict().items()})
        raise Captured

    train, finetune_cls.train_one_epoch = finetune_cls.train_one_epoch, capture
    try:
        finetune(folder, data, *words)
    except Captured:
        return found
    finally:
        finetune_cls.train_one_epoch = train
    raise AssertionError("the run ended before its first step")


def test_fine_tuning_starts_from_what_pretraining_saved(
    tmp_path: Path, synthetic_root: Path, two_ranks
) -> None:
    pretrained = pretrain(tmp_path / "pretrained", synthetic_root, "--epochs", "1")
    path = pretrained / "models" / "best_model.pth"
    saved = torch.load(path, weights_only=True)
    words = ("--dataset", "scanobjectnn", "--model_path", str(path))
    runs = two_ranks.run(starting_state, tmp_path, synthetic_root, *words)
    for state in runs:
        state = {n.removeprefix("module."): v for n, v in state.items()}
        encoder = {n: v for n, v in state.items() if n.split(".")[0] not in HEAD}
        assert set(encoder) == {n for n in saved if not n.startswith("inv_head.")}
        assert all(torch.equal(v, saved[n]) for n, v in encoder.items())
    log = (tmp_path / "checkpoints" / "run" / "run.log").read_text()
    assert f"{len(encoder)} entries loaded; not used from the file: inv_head.0" in log
    assert "not in the file, left at random: linear1, bn6, linear2, bn7, linear3" in log


def test_files_of_the_paper_s_code(
    tmp_path: Path, tuned: Path, uneven_root: Path
) -> None:
    torch.manual_seed(4)
    encoder = DGCNN(k=5, emb_dims=16)
    published = {f"module.{n}": v for n, v in encoder.state_dict().items()}
    torch.save(published, tmp_path / "pretrained.pth")
    words = ("--model_path", str(tmp_path / "pretrained.pth"))
    state = starting_state(tmp_path, uneven_root, *words)
    same = [name for name in state if name.split(".")[0] not in HEAD]
    assert same
    assert all(torch.equal(state[n], published[f"module.{n}"]) for n in same)

    head = {n: v for n, v in encoder.state_dict().items() if n.startswith("inv_head")}
    torch.save({**weights(tuned), **head}, tmp_path / "tuned.pth")
    words = ("--model_path", str(tmp_path / "tuned.pth"), "--overwrite")
    run = finetune(tmp_path, uneven_root, "--eval", *words)
    assert judged(run)["test_accuracy"] == metrics(tuned)[1][-1]["best_test_accuracy"]
    assert "not used from the file: inv_head.0" in (run / "run.log").read_text()


def test_outputs(tuned: Path) -> None:
    names = {str(p.relative_to(tuned)) for p in tuned.rglob("*") if p.is_file()}
    assert names == {
        *("config.json", "run.log", "metrics.jsonl", "models/best_model.pth"),
        *(f"models/ckpt_epoch_{n}.pth" for n in (1, 2, 3)),
        *("models/checkpoint_last.pth", "models/checkpoint_previous.pth"),
    }
    steps, epochs = metrics(tuned)
    assert [line["step"] for line in steps] == list(range(9))
    assert all(set(line) == STEP_KEYS for line in steps)
    rates = [cosine(1e-3, epoch, 3) for epoch in (0, 1, 2)]
    assert [line["lr"] for line in steps] == [r for r in rates for _ in range(3)]
    best = 0.0
    for number, line in enumerate(epochs):
        assert set(line) == EPOCH_KEYS
        assert line["epoch_end"] is True
        own = [x["loss"] for x in steps if x["epoch"] == number]
        assert math.isclose(line["train_loss"], sum(own) / 3, rel_tol=1e-9)
        right = line["train_accuracy"] * 24  # samples in the epoch's batches
        assert math.isclose(right, round(right), abs_tol=1e-9)
        best = max(best, line["test_accuracy"])
        assert line["best_test_accuracy"] == best
    first = next(x["epoch"] for x in epochs if x["test_accuracy"] == best)
    chosen, kept = weights(tuned), weights(tuned, f"ckpt_epoch_{first + 1}.pth")
    assert all(torch.equal(chosen[name], kept[name]) for name in kept)
    log = (tuned / "run.log").read_text()
    last = epochs[-1]["test_accuracy"]
    said = f"last epoch: test accuracy {last:.2%}; best, chosen on the test split: "
    assert said + f"{best:.2%}" in log
    assert "random weights (seed 1)" in log
    assert "21 of 21 training and 13 test clouds, 5 classes" in log
    assert "8 global, 8 a rank on 1 process" in log
    assert "chosen by the accuracy on the test split" in log


@pytest.mark.parametrize("world", [1, 2])
def test_resuming_inside_an_epoch_gives_the_uninterrupted_run(
    world: int, tmp_path: Path, uneven_root: Path, two_ranks
) -> None:
    def everywhere(function, *words: Any) -> Any:
        return function(*words) if world == 1 else two_ranks.run(function, *words)[0]

    words = (uneven_root, "--from_scratch", "--epochs", "2", "--checkpoint_steps", "2")
    whole = everywhere(finetune, tmp_path / "whole", *words)
    everywhere(interrupted, 4, finetune, tmp_path / "parts", *words)
    run = tmp_path / "parts" / "checkpoints" / "run"
    with open(run / "metrics.jsonl", "a") as file:  # steps after the checkpoint
        file.write('{"step": 4, "epoch": 1, "loss": 0}\n{"step": 5, "ep')
    if world == 1:
        with pytest.raises(cli.UsageError, match=r"--label_fraction 1\.0 -> 0\.5"):
            finetune(tmp_path / "parts", *words, "--resume", "--label_fraction", "0.5")
    everywhere(finetune, tmp_path / "parts", *words, "--resume")
    same_records(whole, run)
    theirs = weights(run)
    assert all(torch.equal(v, theirs[n]) for n, v in weights(whole).items())
    assert "at step 4" in (run / "run.log").read_text()


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, uneven_root: Path
) -> None:
    words = ("--from_scratch", "--epochs", "5", "--optimizer", "sgd", "--lr", "1e30")
    with pytest.raises(DivergenceError, match=r"the loss is not finite at step .*--lr"):
        finetune(tmp_path, uneven_root, *words)
    folder = tmp_path / "checkpoints" / "run" / "models"
    assert list(folder.iterdir()) == []


def test_bad_requests_stop_before_anything_is_written(
    tmp_path: Path, tuned: Path, uneven_root: Path, synthetic_root: Path
) -> None:
    def refused(text: str, *words: str, data: Path = uneven_root) -> None:
        with pytest.raises(cli.UsageError, match=text):
            finetune(tmp_path, data, *words)
        assert not (tmp_path / "checkpoints").exists()

    scratch = "--from_scratch"
    path = str(tuned / "models" / "best_model.pth")
    refused("--model_path FILE.*or --from_scratch")
    refused("--model_path FILE.*or --from_scratch", scratch, "--model_path", path)
    refused("--eval evaluates .*--model_path", "--eval")
    refused("--eval evaluates", "--eval", scratch, "--model_path", path)
    refused(
        "--eval has nothing to --resume", "--eval", "--resume", "--model_path", path
    )
    words = ("--eval", "--model_path", path, "--label_fraction", "0.5")
    refused("--eval takes the whole test split", *words)
    refused("--batch_size 1 leaves BatchNorm", scratch, "--batch_size", "1")
    refused("--k 65 is more than --num_points 64", scratch, "--k", "65")
    refused("--label_fraction 1.5", scratch, "--label_fraction", "1.5")
    refused("--dropout 1 must", scratch, "--dropout", "1")
    refused("folder not found", scratch, data=tmp_path / "nowhere")
    refused("fewer than the 81 asked for", scratch, "--num_points", "81")
    refused(
        r"linear3\.weight has shape .*number of classes",
        "--eval",
        "--model_path",
        path,
        data=synthetic_root,
    )

    encoder, picture = str(tmp_path / "encoder.pth"), str(tmp_path / "picture.pth")
    checkpoint.save_weights(DGCNN(5, 16), encoder)
    checkpoint.save_weights(ImageEncoder("resnet18"), picture)
    refused(
        "--eval needs the weights of a complete .*linear1",
        "--eval",
        "--model_path",
        encoder,
    )
    refused("none of its .* entries is one of the model's", "--model_path", picture)
    refused("no such file", "--model_path", str(tmp_path / "no.pth"))

    part = {"conv1.0.weight": DGCNN(5, 16).state_dict()["conv1.0.weight"]}
    torch.save(part, tmp_path / "part.pth")
    frozen = ("--model_path", str(tmp_path / "part.pth"), "--freeze_encoder")
    refused(r"--freeze_encoder would train on random .*conv1\.1", *frozen)


def test_a_run_folder_is_kept_and_inputs_are_not_deleted(
    tmp_path: Path, uneven_root: Path
) -> None:
    words = (uneven_root, "--epochs", "1")
    run = finetune(tmp_path, *words, "--from_scratch")
    path = str(run / "models" / "best_model.pth")
    with pytest.raises(cli.UsageError, match=r"--resume.*--overwrite"):
        finetune(tmp_path, *words, "--from_scratch")
    for more in ((), ("--eval",)):
        with pytest.raises(cli.UsageError, match="would delete"):
            finetune(tmp_path, *words, "--overwrite", "--model_path", path, *more)
    assert Path(path).is_file()
    finetune(tmp_path, *words, "--from_scratch", "--resume")  # nothing is left to do
    assert len(metrics(run)[1]) == 1

    torch.save(weights(run), tmp_path / "w.pth")
    tuned = ("--model_path", str(tmp_path / "w.pth"), "--exp_name", "tuned")
    finetune(tmp_path, *words, *tuned)
    (tmp_path / "w.pth").unlink()  # a resumed run has its weights from the checkpoint
    finetune(tmp_path, *words, *tuned, "--resume")


def test_the_defaults_are_the_published_protocol() -> None:
    args = finetune_cls.get_args_parser().parse_args([])
    assert (args.num_points, args.k, args.batch_size, args.epochs) == (
        1024,
        20,
        600,
        300,
    )
    assert (args.optimizer, args.weight_decay, args.dropout) == ("adam", 1e-6, 0.5)
    assert (args.dataset, args.label_fraction, args.emb_dims) == ("modelnet40", 1, 1024)
