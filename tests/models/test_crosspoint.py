"""Both objectives' networks: outputs, and one step on two ranks against one process."""

import functools
import hashlib
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models import ENCODERS, point_encoder
from models.crosspoint import CrossPoint, MultiView, ViewHeads
from models.image import ImageEncoder
from models.losses import NTXentLoss, crosspoint_loss, multiview_loss
from tests.models import reference
from tests.models.reference import random_clouds, randomise, weights_of
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm

B, N = 6, 24
CPU = torch.device("cpu")
Step = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


# An image encoder without ten million weights.
SmallImages = functools.partial(ImageEncoder, "resnet_small")


class Case(NamedTuple):
    """A network and its objective: images and widths, weights of the losses."""

    encoder: str
    images: int = 1
    dims: tuple[int, ...] = ()  # of multi-view
    imid: float = 1.0
    cmid: float = 1.0


# What the weights switch off, by the beginning of its name.
OFF = {
    Case("pointnet", 1, (), 1, 0): ("image_encoder",),
    Case("pointnet", 1, (), 0, 1): (),
    Case("pointnet", 2, (16, 8), 1, 0): ("image_encoder", "heads"),
    Case("pointnet", 2, (16, 8), 0, 1): ("point_encoder.inv_head",),
}
CASES = {
    **{name: Case(name) for name in ENCODERS},
    "three images": Case("pointnet", 3, (), 0.5, 2.0),
    "multi-view": Case("pointnet", 3, (16, 8, 24), 0.5, 2.0),
    **{f"off {n}": case for n, case in enumerate(OFF)},
}


def network(name: str, images=SmallImages) -> CrossPoint:
    """The same random weights in every process, in float64."""
    dims = CASES[name].dims
    encoder = point_encoder(CASES[name].encoder, k=5, emb_dims=32)
    if dims:
        return randomise(MultiView(encoder, images(head=False), 32, dims))
    return randomise(CrossPoint(encoder, images()))


def global_batch(images: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    pixels = random_clouds(B, 32 * 32, seed=5, channels=images * 3)
    pixels = pixels.view(B, *([images] if images > 1 else []), 3, 32, 32)
    return random_clouds(B, N, seed=1), random_clouds(B, N, seed=2), pixels


def training_step(name: str) -> Step:
    """Losses, gradients and buffers of this process after its part of the batch."""
    case = CASES[name]
    resnet18 = functools.partial(ImageEncoder, "resnet18")
    module = network(name, resnet18 if name == "dgcnn" else SmallImages)
    synchronise_batchnorm(module)
    module.freeze_unused(case.imid, case.cmid)
    model = distributed.data_parallel(module, CPU).train()
    share = B // distributed.world_size()
    first = share * distributed.rank()
    view1, view2, pixels = (x[first : first + share] for x in global_batch(case.images))
    objective = multiview_loss if case.dims else crosspoint_loss
    outputs = model(view1, view2, pixels if case.cmid else None)
    losses = objective(*outputs, NTXentLoss(gather=True), case.imid, case.cmid)
    losses[0].backward()
    module = distributed.unwrap(model)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    missing = {name for name, grad in gradients.items() if grad is None}
    assert missing == {n for n in gradients if n.startswith(OFF.get(case, ()) or "-")}
    gradients = {n: g for n, g in gradients.items() if g is not None}
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


@pytest.mark.parametrize("name", CASES)
def test_a_step_on_two_ranks_is_that_of_one_process(two_ranks, name):
    loss, gradients, buffers = training_step(name)
    first, second = two_ranks.run(step_on_rank, name)
    assert not torch.equal(first[0], second[0])
    torch.testing.assert_close((first[0] + second[0]) / 2, loss)
    assert len(first[1]) > 30 and first[1] == second[1]  # bits on both ranks
    _, actual, of_rank = first[2]
    # A bias in front of a BatchNorm has no gradient but rounding.
    floor = 1e-6 * max(grad.norm().item() for grad in gradients.values())
    flat = {n for n, grad in gradients.items() if grad.norm().item() < floor}
    heads = ("point_encoder.inv_head", *(f"heads.point.{v}" for v in range(3)))
    assert flat == {f"{head}.0.bias" for head in heads} & gradients.keys()
    assert (actual.keys(), of_rank.keys()) == (gradients.keys(), buffers.keys())
    reference.check_close(actual, gradients, 1e-8, floor)
    reference.check_close(of_rank, buffers, 1e-10)


@pytest.mark.parametrize("name", ["dgcnn", "three images", "multi-view"])
def test_both_views_are_one_batch_and_all_images_another(name):
    model, apart = network(name).train(), network(name).train()
    number = CASES[name].images
    view1, view2, images = global_batch(number)
    z1, z2, actual = model(view1, view2, images)
    both, feature = apart.point_encoder(torch.cat([view1, view2]))
    torch.testing.assert_close(torch.cat([z1, z2]), both)
    rows = images.flatten(0, -4)  # item by item
    if name == "multi-view":
        r = apart.image_encoder.features(rows).view(B, number, -1)
        expected = apart.heads(*feature.chunk(2), r)
        with pytest.raises(ValueError, match="argument"):
            model(view1, view2, images[:, :2])  # heads for three
    else:
        shape = (B, 256) if number == 1 else (B, number, 256)
        expected = apart.image_encoder(rows).view(shape)
    torch.testing.assert_close(actual, expected)


def test_without_images_the_image_encoder_is_not_run():
    for name in ("off 0", "off 2"):
        model = network(name).train()
        before = [buffer.clone() for buffer in model.image_encoder.buffers()]
        view1, view2, _ = global_batch()
        assert model(view1, view2, None)[2] is None
        assert before and all(map(torch.equal, before, model.image_encoder.buffers()))


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_the_heads_of_each_image_are_the_loop(images, training):
    """Cloud 1 goes with the first half of the images, cloud 2 with the rest."""
    heads = randomise(ViewHeads(10, 12, 9, range(4, 4 + images))).train(training)
    weights = weights_of(heads)
    f1, f2 = (random_clouds(1, 10, seed=s, channels=B)[0] for s in (1, 2))
    r = random_clouds(B, 12, seed=3, channels=images)  # (B, V, 12)
    of_cloud = {1: [f1], 2: [f1, f2], 3: [f1, f1, f2]}[images]
    expected = []
    for v, f in enumerate(of_cloud):
        g = reference.projection_head(f, weights, training, f"point.{v}")
        h = reference.projection_head(r[:, v], weights, training, f"image.{v}")
        expected.append((g, h))
    actual = heads(f1, f2, r)
    assert [g.shape for g, _ in actual] == [(B, 4 + v) for v in range(images)]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    for pairs in (actual, expected):
        sum((g.sin() * h.cos()).sum() for g, h in pairs).backward()
    reference.check_gradients(heads, weights)
    reference.check_running_statistics(heads, weights)


def test_unequal_inputs_are_refused():
    model = network("dgcnn")
    view1, view2, images = global_batch()
    for given in ((view1, view2[:-1], images), (view1, view2, images[:-1])):
        with pytest.raises(ValueError, match="two views of equal shape and as many"):
            model(*given)
