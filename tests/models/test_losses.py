"""NT-Xent against a double loop, on one process and on two; the other losses."""

import pytest
import torch

from models.losses import (
    NTXentLoss,
    crosspoint_loss,
    multiview_loss,
    smoothed_cross_entropy,
)
from tests.models import reference
from utils.parallel import distributed

B, D = 6, 8


def rows(seed: int, batch: int = B) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, D, generator=generator, dtype=torch.float64)


def leaves(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def twice(*tensors: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return leaves(*tensors), leaves(*tensors)


def assert_equal_gradients(inputs, reference_inputs):
    for a, b in zip(inputs, reference_inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2, B])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("gather", [True, False])
def test_nt_xent_is_the_double_loop_with_gradients(batch, temperature, gather):
    inputs, reference_inputs = twice(rows(0, batch), rows(1, batch))
    loss = NTXentLoss(temperature, gather=gather)(*inputs)
    expected = reference.nt_xent(*reference_inputs, temperature)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    loss.backward()
    expected.backward()
    assert_equal_gradients(inputs, reference_inputs)


def test_autocast_does_not_lower_the_precision():
    z0, z1 = rows(0).float(), rows(1).float()
    expected = NTXentLoss()(z0, z1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(NTXentLoss()(z0, z1), expected)
    halves = NTXentLoss()(z0.bfloat16(), z1.bfloat16())
    assert halves.dtype == torch.float32
    same = NTXentLoss()(z0.bfloat16().float(), z1.bfloat16().float())
    assert torch.equal(halves, same)


def test_the_mean_of_both_views_is_not_taken_in_half_precision():
    z1, z2, z_image = (rows(seed).bfloat16() for seed in range(3))
    exact = crosspoint_loss(z1.float(), z2.float(), z_image.float(), NTXentLoss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert crosspoint_loss(z1, z2, z_image, NTXentLoss()) == exact


@pytest.mark.parametrize("temperature", [0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="is not above 0"):
        NTXentLoss(temperature)


@pytest.mark.parametrize("shape", [(B - 1, D), (B, D + 1), (B, D, 1), (D,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, D\) with \(B, D\), got \(6, 8\) and"):
        NTXentLoss()(torch.zeros(B, D), torch.zeros(shape))
    if len(shape) != 2:
        with pytest.raises(ValueError, match="NT-Xent compares"):
            NTXentLoss()(torch.zeros(shape), torch.zeros(shape))


ZERO = torch.zeros((), dtype=torch.float64)


def check(inputs, reference_inputs, losses, cmid, weights):
    """Total, IMID, CMID, and the total's gradients, None for a weight of 0."""
    imid = reference.nt_xent(*reference_inputs[:2], 0.1) if weights[0] else ZERO
    cmid = cmid if weights[1] else ZERO
    expected = (weights[0] * imid + weights[1] * cmid, imid, cmid)
    torch.testing.assert_close(losses, expected)
    losses[0].backward()
    expected[0].backward()
    assert_equal_gradients(inputs, reference_inputs)


WEIGHTS = [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("images", [1, 3])
def test_crosspoint_loss_is_the_loop_with_means_before_normalisation(images, weights):
    scaled = (v * rows(2 + v) for v in range(1, images + 1))
    inputs, reference_inputs = twice(5 * rows(0), rows(1), *scaled)
    z1, z2, *z_images = inputs
    z_image = torch.stack(z_images, dim=1) if images > 1 else z_images[0]
    losses = crosspoint_loss(z1, z2, z_image, NTXentLoss(), *weights)
    z1, z2, *z_images = reference_inputs
    cmid = reference.nt_xent((z1 + z2) / 2, sum(z_images) / images, 0.1)
    check(inputs, reference_inputs, losses, cmid, weights)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_multiview_loss_is_the_sum_over_the_pairs(weights):
    inputs, reference_inputs = twice(*map(rows, range(8)))
    z1, z2, *others = inputs
    pairs = list(zip(others[::2], others[1::2], strict=True))
    losses = multiview_loss(z1, z2, pairs, NTXentLoss(), *weights)
    cmid = sum(reference.nt_xent(*reference_inputs[n : n + 2], 0.1) for n in (2, 4, 6))
    check(inputs, reference_inputs, losses, cmid, weights)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("given", [(), (0.0,)])
def test_smoothed_cross_entropy_is_the_loop(classes, given):
    (smoothing,) = given or (0.2,)  # the default
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, classes, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, classes - 1, 1, 1])
    inputs, reference_inputs = leaves(logits, logits)
    expected = 0.0
    for row, label in zip(reference_inputs, target.tolist(), strict=True):
        normaliser = torch.log(sum(torch.exp(value) for value in row))
        for c in range(classes):
            share = 1 - smoothing if c == label else smoothing / (classes - 1)
            expected = expected - share * (row[c] - normaliser) / len(logits)
    loss = smoothed_cross_entropy(inputs, target, *given)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(inputs.grad, reference_inputs.grad)


def nt_xent_on_rank(z0, z1, gather):
    """The rank's loss of its half of the batch, and its gradients."""
    share = len(z0) // distributed.world_size()
    first = share * distributed.rank()
    own = leaves(z0[first : first + share], z1[first : first + share])
    loss = NTXentLoss(0.3, gather=gather)(*own)
    loss.backward()
    return loss.detach(), own[0].grad, own[1].grad


def test_two_ranks_see_the_global_batch(two_ranks):
    inputs = leaves(rows(0), rows(1))
    expected = reference.nt_xent(*inputs, 0.3)
    expected.backward()
    losses, *grads = zip(*two_ranks.run(nt_xent_on_rank, *inputs, True), strict=True)
    torch.testing.assert_close(sum(losses) / 2, expected.detach())
    for actual, leaf in zip(grads, inputs, strict=True):
        # Averaging over ranks, as data-parallel training does, halves the sum.
        torch.testing.assert_close(torch.cat(actual) / 2, leaf.grad)


def test_without_gathering_each_rank_has_its_own_batch(two_ranks):
    z0, z1 = rows(0), rows(1)
    losses = [loss for loss, *_ in two_ranks.run(nt_xent_on_rank, z0, z1, False)]
    halves = zip(z0.chunk(2), z1.chunk(2), strict=True)
    expected = [reference.nt_xent(*half, 0.3) for half in halves]
    torch.testing.assert_close(losses, expected)
