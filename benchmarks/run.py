"""Times of what is fast here against its plain reference, on the same input.

    python -m benchmarks.run [--device cpu] [--only NAME] [--repeats 7] [--json FILE]

Both forms take turns, so that other work on the machine slows both down. Columns:

    reference s, ours s   median seconds of a call
    ratio                 of the medians; lowest - highest: the ratios of single turns
    spread                (slowest - fastest) / median of ours
    extra MiB             peak memory above that before the call: resident on a CPU,
                          allocated on a GPU
    roofline              the least time that the machine needs, as a share of ours: the
                          matrix products at the rate measured for a large one, or the
                          memory traffic at that of a copy, whichever is longer
    per second            clouds, pairs or shapes

On a CPU ours keeps freed memory, as the scripts do, and the reference returns it to the
system, as PyTorch programs do; in rows that say so both keep it. On a GPU there are
only the rows that use it, and no "ours" where the fused form has no kernels.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks import forms, measure, roofline
from benchmarks.measure import Case, Setting, Work
from benchmarks.roofline import Sizes
from utils.run import cli
from utils.run.flags import positive_int
from utils.run.logger import describe_environment

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
    for pairs, keeps in sizes:
        name = f"pre-training step, {pairs} pairs of 2048, ResNet-50 at 224"
        make = partial(forms.pretraining, step=forms.Step(pairs))
        work = partial(roofline.pretraining_work, pairs)
        yield Case(name + KEEPS * keeps, make, work, pairs, reference_keeps=keeps)
    pairs = sizes[0][0]
    row = partial(Case, samples=pairs, reference_keeps=True)
    for views in (2, 4):
        name = f"multi-view step, {views} images, {pairs} pairs of 2048; reference: 1 "
        name += "image, and ResNet-50 on the others"
        make = partial(forms.multiview, step=forms.Step(pairs, views=views))
        yield row(name, make, partial(roofline.pretraining_work, pairs, views=views))
    name = f"scaling: pre-training step, {pairs} pairs, 1 and 2 processes of 1 thread"
    make = partial(forms.scaling, step=forms.Step(pairs))
    work = partial(roofline.pretraining_work, pairs)
    yield row(name, make, work, processes=2, threads=1)


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
    make = partial(forms.products, rows=16384, wide=512, out=1024)
    operations = partial(Work, 2.0 * 16384 * 512 * 1024)
    name = "product, 16384 x 512 by 512 x 1024"
    yield Case(name, make, operations, reference_keeps=True)
    make = partial(forms.graphs, channels=64, k=15, batch=8, points=2048)
    # Only the usual form writes the distances and reads them again.
    moved = 4.0 * 8 * 2048 * (64 + 15)
    operations = partial(Work, 2.0 * 8 * 2048**2 * 64, moved)
    yield Case("knn, 8 x 2048, C=64, K=15", make, operations, 8)


def cpu_cases() -> Iterator[Case]:
    """Evaluation of features, and reading and making the data of pre-training."""
    row = partial(Case, devices=("cpu",))
    for train, test in ((2460, 615), (9840, 2468)):
        name = f"svm, {train} x 2048, 40 classes, {test} test clouds"
        make = partial(forms.linear_svm, train=train, test=test, classes=40)
        # The Gram matrix, and the decisions for the test set by pairs of classes.
        work = partial(Work, 2048.0 * (train**2 + test * 40 * 39), double=True)
        yield row(name, make, work, slow=train > 5000)
    episodes = partial(roofline.few_shot_work, 50)
    make = partial(forms.few_shot, samples=9840, classes=40)
    yield row("few-shot, 9840 x 2048, 4 x 50 episodes", make, episodes)
    for images, views in (("files", 1), ("decoded", 1), ("files", 4)):
        name = f"loader, 64 shapes, half ASCII, images {images}"
        make = partial(forms.loader, shapes=64, images=images, views=views)
        # A cloud read, and written for each view; images read and written.
        work = partial(Work, moved=64 * (3 * 4 * 2048 * 3 + views * 2 * 3 * 137**2))
        yield row(name + f", {views} a shape" * (views > 1), make, work, 64)
    make = partial(forms.rendering, views=24, size=137)
    # Face and depth of four samples a pixel, written and read; the images.
    work = partial(Work, moved=24 * 137**2 * (4 * 2 * (4 + 8) + 4))
    yield row("rendering, 9800 textured faces, 24 images of 137", make, work, 24)


def write_profile(path: Path, run: Callable[[], object], device: torch.device) -> None:
    """torch.profiler's table of one call, after two to warm up."""
    for _ in range(2):
        run()
    measure.synchronise(device)
    with torch.profiler.profile() as seen:
        run()
        measure.synchronise(device)
    order = f"self_{device.type}_time_total"
    path.write_text(seen.key_averages().table(sort_by=order, row_limit=40) + "\n")


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    half = "bf16 by autocast (default: fp32)"
    add("--precision", choices=("fp32", "bf16"), default="fp32", help=half)
    add("--only", default="", help="only the rows whose names contain it")
    add("--repeats", type=positive_int, default=7, help="turns (default: 7)")
    add("--json", type=Path, metavar="FILE", help="also write all values to it")
    profile = "write torch.profiler's table of one whole step to it, and stop"
    add("--profile", type=Path, metavar="FILE", help=profile)
    return parser


def main() -> None:
    parser = get_args_parser()
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    setting = Setting(torch.device(args.device), args.precision)
    if args.profile:
        step = forms.Step(pairs=20 if args.device == "cuda" else 4)
        run = forms.pretraining(setting, step)["ours"]
        write_profile(args.profile, run, setting.device)
        return
    all_cases = cases(args.device)
    chosen = [case for case in all_cases if args.only in case.name]
    if not chosen:
        names = "; ".join(case.name for case in all_cases)
        parser.error(f"--only {args.only}: the cases are {names}")
    environment = describe_environment()
    rates = measure.measure_rates(setting)
    print(
        f"{environment['machine']}; torch {environment['torch']}, "
        f"{torch.get_num_threads()} threads, {args.precision}; commit "
        f"{environment['commit']}; products {rates.product / 1e9:.0f} GFLOP/s, in "
        f"float64 {rates.double / 1e9:.0f}; copies {rates.copied / 1e9:.1f} GB/s\n\n"
        f"{measure.heading()}",
        flush=True,
    )
    results = []
    for case in chosen:
        # For every row: the load of the machine changes.
        rates = measure.measure_rates(setting)
        row = measure.measure_case(case, setting, args.repeats, rates)
        results.append(row | {"rates": asdict(rates)})
        print(measure.row(row), flush=True)
        if args.json:  # after every row, in case a later one is interrupted
            content = {
                "environment": environment,
                "arguments": {"device": args.device, "precision": args.precision},
                "results": results,
            }
            args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
