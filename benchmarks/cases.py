"""The rows of the table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import forms, roofline
from benchmarks.measure import Case, Work
from benchmarks.roofline import Sizes

KEEPS = "; the reference keeps freed memory too"

# Steps of a point encoder: its sizes, and whether the reference keeps freed memory too.
STEPS = (
    *(
        (Sizes(network, batch, 2048, k, augmented), False)
        for network, batch in (("dgcnn", 8), ("dgcnn_seg", 2))
        for k in (15, 20, 40)
        for augmented in (False, True)
    ),
    *((Sizes("pointnet", 8, 2048, 0, augmented), False) for augmented in (False, True)),
    (Sizes("dgcnn", 8, 2048, 15), True),
    (Sizes("dgcnn_seg", 2, 2048, 15), True),
    (Sizes("dgcnn", 8, 1024, 15), False),
    (Sizes("dgcnn", 8, 4096, 15), False),
    (Sizes("dgcnn", 8, 8192, 15), False),
    (Sizes("dgcnn_seg", 4, 1024, 15), False),
    (Sizes("dgcnn_seg", 2, 4096, 15), False),
    (Sizes("dgcnn_seg", 2, 8192, 15), False),
)


def cases(device: str) -> list[Case]:
    """All rows for a kind of device, in the order of the table."""
    all_cases = (*pretraining_cases(device), *encoder_cases(), *cpu_cases())
    return [case for case in all_cases if device in case.devices]


def pretraining_cases(device: str) -> Iterator[Case]:
    """The whole step, and the same on one process and on two."""
    sizes = [(4, False), (4, True)] if device == "cpu" else [(20, False), (128, False)]
    for pairs, reference_keeps in sizes:
        yield Case(
            f"pre-training step, {pairs} pairs of 2048, ResNet-50 at 224"
            + KEEPS * reference_keeps,
            partial(forms.pretraining, step=forms.Step(pairs)),
            partial(roofline.pretraining_work, pairs),
            pairs,
            reference_keeps=reference_keeps,
        )
    pairs = sizes[0][0]
    for views in (2, 4):
        yield Case(
            f"multi-view step, {views} images, {pairs} pairs of 2048; reference: 1 "
            "image, and ResNet-50 on the others",
            partial(forms.multiview, step=forms.Step(pairs, views=views)),
            partial(roofline.pretraining_work, pairs, views=views),
            pairs,
            reference_keeps=True,
        )
    yield Case(
        f"scaling: pre-training step, {pairs} pairs, 1 and 2 processes of 1 thread",
        partial(forms.scaling, step=forms.Step(pairs)),
        partial(roofline.pretraining_work, pairs),
        pairs,
        processes=2,
        threads=1,
        reference_keeps=True,
    )


def encoder_cases() -> Iterator[Case]:
    """Steps and features of the point encoders, and two of their operations."""
    for sizes, reference_keeps in STEPS:
        network, batch, points, k, augmented = sizes
        large = batch * points > 2**15  # may be killed for memory: its own process
        yield Case(
            f"{network} step, {batch} x {points}{f', K={k}' * (k > 0)}, "
            f"{'augmented' if augmented else 'random'}{KEEPS * reference_keeps}",
            partial(forms.encoder, sizes=sizes),
            partial(roofline.cloud_work, sizes),
            batch,
            processes=int(large),
            gib=batch * points * k / 1e5 if large else 0,  # about 10 kB an edge
            reference_keeps=reference_keeps,
        )
    for network in ("dgcnn", "dgcnn_seg"):
        sizes = Sizes(network, 16, 1024, 15)
        make = partial(forms.encoder, sizes=sizes, training=False)
        work = partial(roofline.cloud_work, sizes, passes=1)
        yield Case(f"{network} features, 16 x 1024, K=15", make, work, 16)
    yield Case(
        "product, 16384 x 512 by 512 x 1024",
        partial(forms.products, rows=16384, wide=512, out=1024),
        partial(Work, 2.0 * 16384 * 512 * 1024),
        reference_keeps=True,
    )
    yield Case(
        "knn, 8 x 2048, C=64, K=15",
        partial(forms.graphs, channels=64, k=15, batch=8, points=2048),
        # Only the usual form writes the distances and reads them again.
        partial(Work, 2.0 * 8 * 2048**2 * 64, 4.0 * 8 * 2048 * (64 + 15)),
        8,
    )


def cpu_cases() -> Iterator[Case]:
    """Evaluation of features, and reading and making the data of pre-training."""
    for train, test in ((2460, 615), (9840, 2468)):
        yield Case(
            f"svm, {train} x 2048, 40 classes, {test} test clouds",
            partial(forms.linear_svm, train=train, test=test, classes=40),
            partial(roofline.svm_work, train, test, 40),
            slow=train > 5000,
            devices=("cpu",),
        )
    yield Case(
        "few-shot, 9840 x 2048, 4 x 50 episodes",
        partial(forms.few_shot, samples=9840, classes=40),
        partial(roofline.few_shot_work, 50),
        devices=("cpu",),
    )
    for images, views in (("files", 1), ("decoded", 1), ("files", 4)):
        yield Case(
            f"loader, 64 shapes, half ASCII, images {images}"
            + f", {views} a shape" * (views > 1),
            partial(forms.loader, shapes=64, images=images, views=views),
            partial(roofline.loader_work, 64, 2048, 137, views),
            64,
            devices=("cpu",),
        )
    yield Case(
        "rendering, 9800 textured faces, 24 images of 137",
        partial(forms.rendering, views=24, size=137),
        partial(roofline.rendering_work, 24, 137),
        24,
        devices=("cpu",),
    )
