"""What is measured of whole training steps: both encoders, options, processes."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.floors import clouds, pictures_work, pretraining_work
from benchmarks.measure import BOTH_KEEP, FORMS, Case, Forms, Setting
from benchmarks.processes import join_alone
from models.crosspoint import CrossPoint
from models.dgcnn import DGCNN
from models.image import ImageEncoder
from models.losses import NTXentLoss, crosspoint_loss
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.run.training import build_optimizer

PLAIN_OPTIMISERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-6),
    "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=1e-6),
}


def optimiser(model: nn.Module, kind: str, kept: bool) -> torch.optim.Optimizer:
    """The training scripts' own, or the one without options."""
    if not kept:
        return PLAIN_OPTIMISERS[kind](model.parameters())
    args = argparse.Namespace(optimizer=kind, lr=1e-3, momentum=0.9, weight_decay=1e-6)
    return build_optimizer(model.parameters(), args)


def lay_out(pictures: ImageEncoder) -> ImageEncoder:
    """In memory as pre-training has it."""
    return pictures.to(memory_format=torch.channels_last)


def pretraining_inputs(
    pairs: int, points: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Two augmented views (B, 3, N) of clouds and random pictures (B, 3, H, W)."""
    view1, view2 = clouds(2 * pairs, points, augmented=True).chunk(2)
    torch.manual_seed(0)
    return view1, view2, torch.randn(pairs, 3, size, size)


def crosspoint_step(
    model: nn.Module,
    inputs: Sequence[Tensor],
    setting: Setting,
    kept: bool,
    gather: bool = True,
) -> Callable[[], None]:
    """Forward, loss, backward and Adam, as ``train_one_epoch`` does."""
    criterion, precision = NTXentLoss(gather=gather), setting.arithmetic()
    adam = optimiser(model, "adam", kept)
    own = [x.to(setting.device) for x in inputs]

    def run() -> None:
        with precision.autocast():
            z1, z2, z_image = model(*own)
            losses = crosspoint_loss(z1, z2, z_image, criterion)
        adam.zero_grad(set_to_none=True)
        precision.scaler.scale(losses[0]).backward()
        precision.scaler.step(adam)
        precision.scaler.update()

    return run


def crosspoint(backbone: str, k: int, kept: bool) -> CrossPoint:
    """Both encoders: everything as it is used here, or everything plain."""
    torch.manual_seed(0)
    points = DGCNN(k=k, edgeconv="auto" if kept else "plain")
    pictures = ImageEncoder(backbone)
    if kept:
        lay_out(pictures)
    return CrossPoint(points, pictures).train()


def pretraining(
    setting: Setting,
    pairs: int,
    points: int = 2048,
    k: int = 15,
    backbone: str = "resnet50",
    size: int = 224,
) -> Forms:
    """The whole step of pre-training."""
    inputs = pretraining_inputs(pairs, points, size)
    return {
        form: crosspoint_step(
            crosspoint(backbone, k, kept).to(setting.device), inputs, setting, kept
        )
        for form, kept in (("reference", False), ("ours", True))
    }


def scaling(
    setting: Setting,
    pairs: int,
    points: int = 2048,
    k: int = 15,
    backbone: str = "resnet50",
    size: int = 224,
) -> Forms:
    """One process with the whole global batch, while the others wait, and all of them
    with their share of it."""
    inputs = pretraining_inputs(pairs, points, size)
    share = pairs // distributed.world_size()
    own = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    alone, together = crosspoint(backbone, k, True), crosspoint(backbone, k, True)
    one = crosspoint_step(alone.to(setting.device), inputs, setting, True, gather=False)
    synchronise_batchnorm(together, setting.device)
    parallel = distributed.data_parallel(together, setting.device)
    return {
        "reference": one if distributed.rank() == 0 else lambda: None,
        "ours": crosspoint_step(parallel, [x[own] for x in inputs], setting, True),
    }


def pictures_step(
    setting: Setting,
    reference: tuple[str, ...],
    ours: tuple[str, ...],
    pictures: int = 4,
    backbone: str = "resnet50",
    size: int = 224,
) -> Forms:
    """Forward, backward and update of the picture encoder with options.

    Args:
        setting: device and precision.
        reference, ours: options of each form, of ``channels_last``, ``fused``, ``sgd``
            instead of Adam, ``compile``, ``ddp``, and DistributedDataParallel's own.
        pictures: the global batch.
        backbone, size: of the encoder and the pictures.
    """
    torch.manual_seed(0)
    share = pictures // distributed.world_size()
    images = torch.randn(pictures, 3, size, size)[distributed.rank() * share :][:share]
    images, precision = images.to(setting.device), setting.arithmetic()

    def step(options: tuple[str, ...]) -> Callable[[], None]:
        torch.manual_seed(0)
        encoder = ImageEncoder(backbone).to(setting.device).train()
        if "channels_last" in options:
            lay_out(encoder)
        if "compile" in options:
            encoder.resnet.compile()
        model: nn.Module = encoder
        if "ddp" in options:
            model = wrap(encoder, setting.device, options)
        kind = "sgd" if "sgd" in options else "adam"
        update = optimiser(model, kind, "fused" in options)

        def run() -> None:
            with precision.autocast():
                loss = model(images).square().mean()
            update.zero_grad(set_to_none=True)
            precision.scaler.scale(loss).backward()
            precision.scaler.step(update)
            precision.scaler.update()

        return run

    return {"reference": step(reference), "ours": step(ours)}


def wrap(
    model: nn.Module, device: torch.device, options: tuple[str, ...]
) -> DistributedDataParallel:
    """As :func:`utils.parallel.distributed.data_parallel`, with options."""
    join_alone(device)
    if distributed.world_size() > 1:
        model = synchronise_batchnorm(model, device)
    known = inspect.signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers"
    names = ("gradient_as_bucket_view", "static_graph")
    asked: dict[str, Any] = {name: True for name in names if name in options}
    asked[newer if newer in known else "broadcast_buffers"] = False
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, **asked)


def step_cases(device: str) -> list[Case]:
    """The whole step; in several sizes on a GPU."""
    found = []
    sizes: list[tuple[int, tuple[str, ...]]] = [(20, ("ours",)), (128, ("ours",))]
    if device == "cpu":
        sizes = [(4, ("ours",)), (4, FORMS)]
    for pairs, keeps in sizes:
        found.append(
            Case(
                f"pre-training step, {pairs} pairs of 2048, ResNet-50 at 224"
                + (BOTH_KEEP if keeps == FORMS else ""),
                partial(pretraining, pairs=pairs),
                partial(pretraining_work, pairs),
                pairs,
                keeps=keeps,
            )
        )
    pairs = 20 if device == "cuda" else 4
    found.append(
        Case(
            f"scaling: pre-training step, {pairs} pairs, 1 and 2 processes of 1 thread",
            partial(scaling, pairs=pairs),
            partial(pretraining_work, pairs),
            pairs,
            processes=2,
            threads=1,
            keeps=FORMS,
        )
    )
    return found


def option_cases() -> list[Case]:
    """Options of the step, alone and with those that are kept."""
    kept = ("channels_last", "fused")
    bucket, static = "gradient_as_bucket_view", "static_graph"
    rows: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        ("channels_last", (), ("channels_last",)),
        ("fused Adam", (), ("fused",)),
        ("fused SGD", ("sgd",), ("sgd", "fused")),
        ("channels_last and fused Adam", (), kept),
        ("compile", (), ("compile",)),
        ("compile, with both", kept, (*kept, "compile")),
    ]
    work = partial(pictures_work, 4)
    found = [
        Case(
            f"step options: {name}, 4 pictures",
            partial(pictures_step, reference=reference, ours=ours),
            work,
            4,
            keeps=FORMS,
        )
        for name, reference, ours in rows
    ]
    parallel = (*kept, "ddp")
    for processes in (1, 2):
        for names in ((bucket,), (static,), (bucket, static)):
            found.append(
                Case(
                    f"step options: {' and '.join(names)}, with both, 4 pictures, "
                    f"{processes} process{'es of 1 thread' if processes > 1 else ''}",
                    partial(pictures_step, reference=parallel, ours=parallel + names),
                    work,
                    4,
                    processes=processes,
                    threads=1 if processes > 1 else 0,
                    keeps=FORMS,
                )
            )
    found.append(
        Case(
            "step options: channels_last, fused Adam and gradient_as_bucket_view, "
            "4 pictures, 2 processes of 1 thread",
            partial(pictures_step, reference=("ddp",), ours=(*parallel, bucket)),
            work,
            4,
            processes=2,
            threads=1,
            keeps=FORMS,
        )
    )
    return found
