"""Dropout: the right share, scaled, and the same for any number of processes."""

import torch
from torch import Tensor, nn

from models.dropout import GlobalBatchDropout, set_dropout_step
from utils.parallel import distributed


def build() -> nn.Sequential:
    twice = GlobalBatchDropout(0.3)
    return nn.Sequential(GlobalBatchDropout(0.3), nn.Identity(), twice, twice)


def masks(model: nn.Sequential, rows: int) -> Tensor:
    ones = torch.ones(rows, 5, 7)
    return torch.stack([layer(ones) for layer in model if layer is not model[1]])


def test_share_and_scale() -> None:
    model = GlobalBatchDropout(0.3)
    set_dropout_step(model, seed=1, step=0)
    x = torch.full((400, 500), 2.0)
    y = model(x)
    kept = y != 0
    assert abs(kept.double().mean().item() - 0.7) < 0.005
    assert torch.equal(y[kept], (x / (1 - 0.3))[kept])
    assert model.eval()(x) is x


def test_masks_are_functions_of_seed_step_and_layer() -> None:
    model = build()
    actual = []
    for seed, step in ((1, 0), (1, 1), (2, 0), (1, 0)):
        set_dropout_step(model, seed, step)
        actual.append(masks(model, 6))
    assert torch.equal(actual[0], actual[3])
    different = [*actual[0], *actual[1], *actual[2]]  # three layers of three keys
    for one in range(9):
        for other in range(one):
            assert not torch.equal(different[one], different[other])


def masks_on_rank(rows: int) -> Tensor:
    model = build()
    set_dropout_step(model, 1, 5)
    return masks(model, rows // distributed.world_size())


def test_two_ranks_drop_what_one_process_drops(two_ranks) -> None:
    whole = masks_on_rank(6)
    assert torch.equal(torch.cat(two_ranks.run(masks_on_rank, 6), dim=1), whole)


def test_without_a_step_it_is_torch_s_own() -> None:
    x = torch.ones(50, 40)
    torch.manual_seed(0)
    actual = GlobalBatchDropout(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(actual, nn.Dropout(0.3)(x))
