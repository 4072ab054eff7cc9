"""Files of weights: whole or not at all, and never loaded in silence."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from utils.run import checkpoint
from utils.run.checkpoint import CheckpointError, Progress


def small_dgcnn(seed: int, **options) -> DGCNN:
    torch.manual_seed(seed)
    return DGCNN(k=4, emb_dims=16, **options)


def test_written_weights_are_contiguous_whatever_the_network_is(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    checkpoint.save_weights(model, tmp_path / "w.pth")
    written = torch.load(tmp_path / "w.pth", weights_only=True)["weight"]
    assert written.is_contiguous() and torch.equal(written, model.weight)
    checkpoint.load_pretrained(model, tmp_path / "w.pth")
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


def test_placeholders_of_the_segmentation_head_have_their_initial_values() -> None:
    state = checkpoint.published_weights(DGCNNPartSeg(k=4, emb_dims=16))
    for name, width in {"bn7": 64, "bn8": 256, "bn9": 256, "bn10": 128}.items():
        assert torch.equal(state[f"{name}.weight"], torch.ones(width))
        assert torch.equal(state[f"{name}.running_mean"], torch.zeros(width))


class Payload:
    """Something whose unpickling would run code."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('executed')",))


WIDER = r"conv5\.0\.weight has shape \(32, 512"
RESUMABLE = {"format": 1, "arguments": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"w\.pth"),  # no file
        (b"<html>404</html>", r"w\.pth"),
        (pickle.dumps(Payload()), r"w\.pth"),
        ({"encoder.weight": torch.zeros(3)}, r"w\.pth: none of its 1 entries.*conv1"),
        (DGCNN(k=4, emb_dims=32).state_dict(), WIDER),
        ({"model": {}}, "expected a flat state dict of tensors"),
        (RESUMABLE, r"a checkpoint to --resume from.*best_model\.pth"),
    ],
)
def test_a_file_of_something_else_changes_nothing(content, message, tmp_path) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    model, same = small_dgcnn(0), small_dgcnn(0).state_dict()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_pretrained(model, path)
    assert all(torch.equal(v, same[n]) for n, v in model.state_dict().items())


def test_a_file_cut_anywhere_is_refused_and_the_one_before_it_named(tmp_path) -> None:
    path = tmp_path / "last.pth"
    model = small_dgcnn(0)
    for step in (1, 2):
        checkpoint.save_training_state(path, {}, Progress(step=step), model=model)
    content = path.read_bytes()
    for length in (0, 1, 100, 5_000, 20_000, 50_000, len(content) // 2, -2000, -1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as error:
            checkpoint.load_training_state(path, {}, {}, model=model)
        text = str(error.value)
        assert "\n" not in text and "\033" not in text
        match = re.search(r"is intact, after 1 steps\. .*: mv (\S+) (\S+)$", text)
        assert match, length
    os.replace(match[1], match[2])  # the command that the message spells out
    assert checkpoint.load_training_state(path, {}, {}, model=model).step == 1


def test_training_state_restores_model_optimiser_and_place(tmp_path: Path) -> None:
    def build() -> tuple[nn.Linear, torch.optim.Adam]:
        model = nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), 0.1)

    def step(model: nn.Linear, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        model(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()

    path = tmp_path / "last.pth"
    model, optimizer = build()
    step(model, optimizer)
    arguments = {"lr": 0.1, "print_freq": 10}
    place = Progress(epoch=2, step_in_epoch=3, step=13, best=0.5, sums=(1.0, 2.0))
    parts = {"model": model, "optimizer": optimizer}
    checkpoint.save_training_state(path, arguments, place, **parts)
    step(model, optimizer)

    again, its_optimizer = build()
    # How often a line is printed does not matter for the numbers.
    actual = checkpoint.load_training_state(
        path, {"lr": 0.1, "print_freq": 1}, {}, model=again, optimizer=its_optimizer
    )
    assert actual == place
    step(again, its_optimizer)  # the same random numbers, moments and step count
    assert torch.equal(again.weight, model.weight)

    with pytest.raises(CheckpointError, match=r"--lr 0\.1 -> 0\.2"):
        checkpoint.load_training_state(path, {"lr": 0.2}, {}, model=again)
    # A flag that is newer than the run: it did what the flag's default does.
    defaults = {"lr": 1.0, "views": 1}
    new = {"lr": 0.1, "views": 1}
    assert checkpoint.load_training_state(path, new, defaults, model=again) == place
    with pytest.raises(CheckpointError, match=r"--views 1 -> 2"):
        checkpoint.load_training_state(path, {**new, "views": 2}, defaults, model=again)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"last\.pth: not a training checkpoint"):
        checkpoint.load_training_state(path, {}, {})


def test_a_frozen_encoder_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    encoder = DGCNN(k=3, emb_dims=8)
    assert "untrained DGCNN (seed 4)" in checkpoint.load_encoder(encoder, "none", 4)
    state = {n: v for n, v in encoder.state_dict().items() if "inv_head" not in n}
    torch.save(state, tmp_path / "headless.pth")
    text = checkpoint.load_encoder(encoder, str(tmp_path / "headless.pth"), 4)
    assert f"{len(state)} entries loaded" in text
    del state["conv4.1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth does not .*conv4\.1 \(1"):
        checkpoint.load_encoder(encoder, str(tmp_path / "part.pth"), 4)
