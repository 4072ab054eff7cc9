"""The books of a run: records, sums, checkpoints, divergence."""

import argparse
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from datasets.sampler import GlobalBatchSampler
from utils.parallel import distributed
from utils.run import bookkeeping, cli, flags, training
from utils.run.bookkeeping import DivergenceError, Run
from utils.run.run_folder import LAST, read_metrics
from utils.run.training import TimedLoader, build_optimizer, data_loader

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("own_folder")


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return torch.tensor(float(key[1]))


def loader() -> TimedLoader:
    """Four steps of two of the numbers 0 to 7."""
    return data_loader(Numbers(), GlobalBatchSampler(8, 2, seed=1), 0, CPU)


def open_run(*words: str, device: torch.device = CPU) -> Run:
    parser = cli.Parser("A script.")
    flags.add_run_flags(parser, "run", resumable=True)
    flags.add_training_flags(parser, batch_size=2, epochs=3, weight_decay=0.0)
    defaults = ["--lr", "0.1", "--wandb", "disabled"]
    args = parser.parse_args([*defaults, *words])
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model.parameters(), args)
    process = distributed.Process(0, 1, device, "none")
    return Run(
        args,
        process,
        args.resume,
        defaults=argparse.Namespace(),
        weights={"best_model.pth": model},
        last_weights={"last.pth": model},
        parts={"model": model, "optimizer": optimizer},
    )


def train(run: Run, value: Callable[[Tensor], Tensor] = torch.sum) -> list[float]:
    """Train to the end; the values of the steps."""
    seen = []
    with run:
        batches = loader()
        for epoch in range(run.epoch, run.args.epochs):
            run.start_epoch(batches, lr=0.1 / (epoch + 1))
            for batch in batches:
                seen.append(value(batch).item())
                run.step(loss=value(batch), sums=torch.tensor([1.0, epoch]))
            _, (x, *_) = run.means_and_sums()
            nn.init.constant_(run.parts["model"].bias, epoch)
            run.end_epoch({"x": x}, is_best=epoch == 0)
    return seen


def test_records_and_sums() -> None:
    run = open_run("--print_freq", "2", "--save_freq", "2")
    seen = train(run)
    lines = read_metrics(run.folder)
    steps = [line for line in lines if "step" in line]
    ends = [line for line in lines if "epoch_end" in line]
    assert [line["step"] for line in steps] == [0, 2, 4, 6, 8, 10]
    assert [line["epoch"] for line in steps] == [0, 0, 1, 1, 2, 2]
    assert [line["loss"] for line in steps] == seen[::2]
    assert [line["lr"] for line in steps] == [0.1] * 2 + [0.05] * 2 + [0.1 / 3] * 2
    assert [line["x"] for line in ends] == [28.0] * 3  # 0 + 1 + ... + 7
    assert run.means_and_sums() == ({}, []) and run.epoch == 3
    names = sorted(p.name for p in (run.folder / "models").iterdir())
    assert names == [
        *("best_model.pth", "checkpoint_last.pth", "checkpoint_previous.pth"),
        *("ckpt_epoch_2.pth", "last.pth"),
    ]
    for name, epoch in (("best_model", 0), ("ckpt_epoch_2", 1), ("last", 2)):
        path = run.folder / "models" / f"{name}.pth"
        assert torch.load(path, weights_only=True)["bias"] == epoch


def test_an_epoch_is_safe_before_its_evaluation() -> None:
    run = open_run()
    with run:
        run.start_epoch(loader(), 0.1)
        for batch in loader():
            run.step(loss=batch.sum(), sums=torch.ones(2))
    state = torch.load(run.folder / LAST, weights_only=True)
    assert state["progress"]["step_in_epoch"] == 4
    assert state["progress"]["epoch"] == 0
    again = open_run("--resume")
    with again:
        batches = loader()
        again.start_epoch(batches, 0.1)
        assert list(batches) == []  # nothing is left but the evaluation
        assert again.means_and_sums("loss") == ({"loss": 7.0}, [4.0, 4.0])


def test_weights_of_every_so_many_epochs_need_room_and_have_images(monkeypatch):
    sizes = {}
    monkeypatch.setattr(bookkeeping, "open_run_folder", lambda *a: sizes.update(a[4]))
    run = open_run("--epochs", "7", "--save_freq", "3")
    checkpoints = ("checkpoint_last.pth", "checkpoint_previous.pth")
    kept = ("best_model.pth", "last.pth", "ckpt_epoch_3.pth", "ckpt_epoch_6.pth")
    assert {path.name: size for path, size in sizes.items()} == {
        **dict.fromkeys((*checkpoints, "a checkpoint being written"), 24),
        **dict.fromkeys(kept, 8),  # a weight and a bias
    }
    # Also of the last epoch.
    assert [epoch for epoch in range(7) if run.logs_images(epoch)] == [2, 5, 6]


@pytest.mark.parametrize("bad", ["the loss", "a weight"])
def test_divergence_is_seen_before_anything_is_written(bad: str) -> None:
    run = open_run("--print_freq", "100")
    if bad == "a weight":
        nn.init.constant_(run.parts["model"].weight, float("inf"))

    def value(batch: Tensor) -> Tensor:  # the loss is recorded in the first step
        return batch.sum() / (run.state.step == 0 or bad == "a weight")

    with pytest.raises(DivergenceError, match=f"{bad} is not finite"):
        train(run, value=value)
    assert not list(run.folder.glob("models/*.pth"))


def test_a_gpu_s_peak_memory_is_that_since_the_last_record(monkeypatch) -> None:
    device = torch.device("cuda", 1)
    peaks = {device: 1536 * 2**20}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda of: peaks.get(of, 0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", peaks.pop)
    run = open_run("--epochs", "1", "--print_freq", "4", device=device)
    train(run)
    assert read_metrics(run.folder)[0]["gpu_memory_mib"] == 1536
    assert peaks == {}


def test_speed_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])

    def item(_: Numbers, key: tuple[int, int]) -> Tensor:
        clock[0] += 1.5  # a batch of two: 3 seconds
        return torch.zeros(())

    def work(batch: Tensor) -> Tensor:
        clock[0] += 0.5  # called twice a step
        return batch.sum()

    monkeypatch.setattr(Numbers, "__getitem__", item)
    run = open_run("--epochs", "1", "--print_freq", "1")
    train(run, value=work)
    record = read_metrics(run.folder)[1]
    assert record["samples_per_second"] == 0.5 and record["data_wait"] == 0.75
