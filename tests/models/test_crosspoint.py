"""The whole network: its outputs, and one step on two ranks against one process."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import ENCODERS, point_encoder
from models.crosspoint import CrossPoint
from models.image import ImageEncoder
from models.losses import NTXentLoss, crosspoint_loss
from tests.models.reference import random_clouds, randomise, relative_error
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm

B, N = 6, 24
CPU = torch.device("cpu")
Step = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


class SmallImages(nn.Sequential):
    """An image encoder without ten million weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 8, 8, bias=False), nn.BatchNorm2d(16), nn.Flatten()
        )
        self.append(nn.Linear(16 * 4 * 4, 256))


def network(name: str, images: Callable[[], nn.Module] = SmallImages) -> CrossPoint:
    """The same random weights in every process, in float64."""
    encoder = point_encoder(name, k=5, emb_dims=32)
    return randomise(CrossPoint(encoder, images()))


def global_batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(B, 3, 32, 32, generator=generator, dtype=torch.float64)
    return random_clouds(B, N, seed=1), random_clouds(B, N, seed=2), images


def training_step(name: str) -> Step:
    """Losses, gradients and buffers of this process after its part of the batch."""
    images = {"dgcnn": functools.partial(ImageEncoder, "resnet18")}
    module = network(name, images.get(name, SmallImages))
    synchronise_batchnorm(module)
    model = distributed.data_parallel(module, CPU).train()
    share = B // distributed.world_size()
    first = share * distributed.rank()
    views = [x[first : first + share] for x in global_batch()]
    losses = crosspoint_loss(*model(*views), NTXentLoss(gather=True))
    losses[0].backward()
    module = distributed.unwrap(model)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    missing = [name for name, grad in gradients.items() if grad is None]
    assert not missing, f"no gradient: {missing}"
    # Copies: with each view of DDP's buffers all of a buffer would be pickled.
    gradients = {name: grad.clone() for name, grad in gradients.items()}
    return torch.stack(losses).detach(), gradients, dict(module.named_buffers())


def step_on_rank(name: str) -> tuple[Tensor, list[str], Step | None]:
    """Every rank's losses and a digest of the rest, which rank 0 returns in full."""
    losses, gradients, buffers = training_step(name)
    tensors = [*gradients.values(), *buffers.values()]
    digests = [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in tensors]
    whole = (losses, gradients, buffers) if distributed.rank() == 0 else None
    return losses, digests, whole


@functools.cache
def two_processes(pool, name: str) -> list[tuple]:
    return pool.run(step_on_rank, name)


@functools.cache
def one_process(name: str) -> Step:
    return training_step(name)


@pytest.mark.parametrize("name", ENCODERS)
def test_mean_of_two_ranks_losses_is_the_global_loss(two_ranks, name):
    losses = [losses for losses, *_ in two_processes(two_ranks, name)]
    assert not torch.equal(losses[0], losses[1])
    torch.testing.assert_close(sum(losses) / 2, one_process(name)[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_every_gradient_on_two_ranks_is_that_of_one_process(two_ranks, name):
    found = two_processes(two_ranks, name)[0][2][1]
    expected = one_process(name)[1]
    assert found.keys() == expected.keys()
    # A bias in front of a BatchNorm has no gradient but rounding.
    floor = 1e-6 * max(grad.norm().item() for grad in expected.values())
    flat = {n for n, grad in expected.items() if grad.norm().item() < floor}
    assert flat == {"point_encoder.inv_head.0.bias"}
    errors = {n: relative_error(found[n], g, floor) for n, g in expected.items()}
    wrong = {n: error for n, error in errors.items() if not error < 1e-8}
    assert not wrong, f"relative error of gradients: {wrong}"


@pytest.mark.parametrize("name", ENCODERS)
def test_buffers_on_two_ranks_are_those_of_one_process(two_ranks, name):
    found = two_processes(two_ranks, name)[0][2][2]
    expected = one_process(name)[2]
    assert found.keys() == expected.keys() and expected
    for key, value in expected.items():
        assert relative_error(found[key], value) < 1e-10, key


@pytest.mark.parametrize("name", ENCODERS)
def test_both_ranks_hold_the_same_gradients_and_buffers_to_the_last_bit(
    two_ranks, name
):
    (_, first, _), (_, second, _) = two_processes(two_ranks, name)
    assert len(first) > 40 and first == second


def test_outputs_are_those_of_the_encoders_on_both_views_at_once():
    model = network("dgcnn").train()
    view1, view2, images = global_batch()
    z1, z2, z_image = model(view1, view2, images)
    apart = network("dgcnn").train()
    both = apart.point_encoder(torch.cat([view1, view2]))[0]
    torch.testing.assert_close(torch.cat([z1, z2]), both)
    torch.testing.assert_close(z_image, apart.image_encoder(images))
    assert z1.shape == z2.shape == z_image.shape == (B, 256)


def test_batch_norm_sees_both_views_together():
    model = network("dgcnn").train()
    view1, view2, images = global_batch()
    with torch.no_grad():
        together = model(view1, view2, images)[0]
        alone = network("dgcnn").train().point_encoder(view1)[0]
    assert not torch.allclose(together, alone, rtol=1e-3)


def test_unequal_inputs_are_refused():
    model = network("dgcnn")
    view1, view2, images = global_batch()
    with pytest.raises(ValueError, match="two views of equal shape and as many images"):
        model(view1, view2[:-1], images)
    with pytest.raises(ValueError, match="two views of equal shape and as many images"):
        model(view1, view2, images[:-1])
