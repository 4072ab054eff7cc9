"""What is fast here against its plain reference, in one process on the same input.

    python -m benchmarks.run [--device cpu] [--only NAME] [--repeats 5] [--json FILE]

The fused point operations, the shared Gram matrix of the SVM and the packed loader;
few-shot has no other form. Both forms take turns, so that whatever else the machine
does meets both. A ratio is that of medians; the spread is (slowest - fastest) / median
of the fused form. "Floor" is the share of the fused form's time that its products of
matrices alone would take at the rate that is measured here for a large product. "Extra"
is the highest resident memory during a step above that before it.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData
from sklearn.svm import SVC
from torch import nn

from datasets.packed import pack
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic import generate
from datasets.transforms import augment_points
from models.dgcnn import DGCNN
from models.knn import knn
from models.partseg import DGCNNPartSeg
from utils.fewshot import PUBLISHED_SETTINGS, evaluate_episodes
from utils.logger import describe_environment
from utils.seed import POINTS, generator
from utils.svm import fit_linear_svm

FORMS = ("plain", "fused")
STATUS = Path("/proc/self/status")


@dataclass
class Result:
    """A row of the table; seconds are medians."""

    name: str
    plain: float | None
    fused: float
    spread: float
    plain_extra: float | None  # MiB
    fused_extra: float | None
    floor: float | None  # share of the fused form's time

    @property
    def ratio(self) -> float | None:
        return None if self.plain is None else self.plain / self.fused


def clouds(batch: int, points: int, augmented: bool = False) -> torch.Tensor:
    """(B, 3, N): standard normal, or as pre-training would see them."""
    random = np.random.default_rng(0)
    found = []
    for index in range(batch):
        cloud = random.normal(size=(points, 3)).astype(np.float32)
        if augmented:
            cloud = augment_points(cloud, generator(POINTS, 0, 0, index))
        found.append(torch.as_tensor(np.ascontiguousarray(cloud.T)))
    return torch.stack(found)


def encoder(kind: type[nn.Module], k: int, form: str) -> nn.Module:
    torch.manual_seed(0)
    return kind(k=k, emb_dims=1024, edgeconv=form)


def training_step(kind: type[nn.Module], k: int, points: torch.Tensor) -> dict:
    """Forward and backward of the encoder."""

    def step(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            model.features(points).sum().backward()
            model.zero_grad(set_to_none=True)

        return run

    return {form: step(encoder(kind, k, form).train()) for form in FORMS}


def features(kind: type[nn.Module], k: int, points: torch.Tensor) -> dict:
    """Features in eval mode."""

    def step(model: nn.Module) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            model.features(points)

        return run

    return {form: step(encoder(kind, k, form).eval()) for form in FORMS}


def graphs(channels: int, k: int, batch: int, points: int) -> dict:
    """The kNN graph, against ``topk`` of the full matrices."""
    from models.kernels.cpu.graph import knn as blocked

    torch.manual_seed(0)
    x = torch.randn(batch, channels, points)
    rows = x.transpose(1, 2).reshape(-1, channels).contiguous()
    first = np.arange(0, batch * points + 1, points)
    return {
        "plain": lambda: knn(x, k),
        "fused": lambda: blocked(rows, first, None, k),
    }


def features_of_classes(samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2048) overlapping classes, as features of an encoder are, and labels."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 2048))
    noise = random.normal(size=(samples, 2048))
    return (0.15 * centres[labels] + noise).astype(np.float32), labels


def linear_svm(samples: int, classes: int) -> dict:
    """Fit and score, against scikit-learn's own linear kernel."""
    train, labels = features_of_classes(samples, classes)
    test, truth = features_of_classes(samples // 4, classes)
    exact = train.astype(np.float64)
    return {
        "plain": lambda: (
            SVC(kernel="linear", C=0.1, cache_size=1000)
            .fit(exact, labels)
            .score(test, truth)
        ),
        "fused": lambda: fit_linear_svm(train, labels, 0.1).score(test, truth),
    }


def few_shot(samples: int, classes: int) -> dict:
    """The four published settings, 50 episodes each, on features that are there."""
    features, labels = features_of_classes(samples, classes)

    def run() -> None:
        for ways, shots in PUBLISHED_SETTINGS:
            evaluate_episodes(features, labels, ways, shots)

    return {"fused": run}


def loader(pictures: str) -> dict:
    """Cloud and picture of 64 shapes from files, half of the PLY ASCII, and packed."""
    folder = Path(tempfile.mkdtemp(prefix="packed_benchmark_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generate(folder, shapes=64, seed=0, workers=1, progress=False)
    paths = sorted(folder.glob("ShapeNet/*/*.ply"))
    for number, path in enumerate(paths):
        cloud = PlyData.read(path, mmap=False)
        cloud.text = number % 2 == 1
        cloud.write(path)
    pack(folder, pictures, progress=False)

    def points(cloud: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return cloud

    def picture(image: Image.Image, *_: object) -> torch.Tensor:
        return torch.from_numpy(np.array(image))

    def read(packed: bool) -> Callable[[], None]:
        data = ShapeNetRender(folder, 2048, 224, 0, points, picture, packed=packed)

        def run() -> None:
            for index in range(len(data)):
                _ = data[index]

        return run

    return {"plain": read(False), "fused": read(True)}


def dgcnn_operations(batch: int, points: int, passes: int) -> float:
    """Floating-point operations of DGCNN's products: convolutions and distances."""
    pairs = ((3, 64), (64, 64), (64, 128), (128, 256))
    convolutions = sum(2 * 2 * a * b for a, b in pairs) + 2 * 512 * 1024
    distances = sum(2 * a * points for a, _ in pairs)
    return batch * points * (passes * convolutions + distances)


def cases() -> dict[str, tuple[Callable[[], dict], float | None]]:
    """Name -> what makes both forms, and the operations of the fused one."""
    found: dict[str, tuple[Callable[[], dict], float | None]] = {}
    for k in (15, 20, 40):
        for augmented in (False, True) if k == 15 else (False,):
            kind = "augmented" if augmented else "random"
            found[f"dgcnn step, 8 x 2048, K={k}, {kind}"] = (
                lambda k=k, a=augmented: training_step(DGCNN, k, clouds(8, 2048, a)),
                None if augmented else dgcnn_operations(8, 2048, 3),
            )
    for points, batch in ((1024, 8), (4096, 2), (8192, 1)):
        found[f"dgcnn step, {batch} x {points}, K=15, random"] = (
            lambda p=points, b=batch: training_step(DGCNN, 15, clouds(b, p)),
            dgcnn_operations(batch, points, 3),
        )
    found["dgcnn features, 16 x 1024, K=15"] = (
        lambda: features(DGCNN, 15, clouds(16, 1024)),
        dgcnn_operations(16, 1024, 1),
    )
    found["dgcnn_seg step, 2 x 2048, K=40, random"] = (
        lambda: training_step(DGCNNPartSeg, 40, clouds(2, 2048)),
        None,
    )
    found["knn, 8 x 2048, C=64, K=15"] = (
        lambda: graphs(64, 15, 8, 2048),
        2.0 * 8 * 2048**2 * 64,
    )
    found["svm, 2460 x 2048, 40 classes"] = (lambda: linear_svm(2460, 40), None)
    found["few-shot, 9840 x 2048, 4 x 50 episodes"] = (lambda: few_shot(9840, 40), None)
    for pictures in ("files", "decoded"):
        found[f"loader, 64 shapes, half ASCII, pictures {pictures}"] = (
            lambda kind=pictures: loader(kind),
            None,
        )
    return found


def gemm_rate() -> float:
    """Floating-point operations a second of a large product of matrices."""
    a = torch.randn(2048, 2048)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(seconds)


def memory(field: str) -> float | None:
    """A line of /proc/self/status in MiB, where there is one."""
    if not STATUS.is_file():
        return None
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return None


def extra_memory(run: Callable[[], None]) -> float | None:
    """MiB of resident memory above what there was before, at the highest."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    except OSError:
        return None
    before = memory("VmRSS")
    run()
    highest = memory("VmHWM")
    return None if before is None or highest is None else highest - before


def measure(
    name: str, forms: dict, operations: float | None, repeats: int, rate: float
) -> Result:
    """Both forms in turn; the first call of each is not counted."""
    for run in forms.values():
        run()
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats):
        for form, run in forms.items():
            start = time.perf_counter()
            run()
            seconds[form].append(time.perf_counter() - start)
    fused = statistics.median(seconds["fused"])
    plain = statistics.median(seconds["plain"]) if "plain" in seconds else None
    spread = (max(seconds["fused"]) - min(seconds["fused"])) / fused
    extra = [extra_memory(forms[f]) if f in forms else None for f in FORMS]
    floor = None if operations is None else operations / rate / fused
    return Result(name, plain, fused, spread, *extra, floor)


def row(result: Result) -> str:
    """A line of the Markdown table."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = (
        result.name,
        number(result.plain, ".3f"),
        f"{result.fused:.3f}",
        number(result.ratio, ".1f"),
        f"{result.spread:.0%}",
        number(result.plain_extra, ".0f"),
        number(result.fused_extra, ".0f"),
        number(result.floor, ".0%"),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write this")
    args = parser.parse_args()
    chosen = {name: case for name, case in cases().items() if args.only in name}
    if not chosen:
        parser.error(f"--only {args.only}: the cases are {'; '.join(cases())}")
    environment = describe_environment()
    rate = gemm_rate()
    print(
        f"{environment['machine']}; torch {environment['torch']}, "
        f"{torch.get_num_threads()} threads; commit {environment['commit']}; "
        f"{rate / 1e9:.0f} GFLOP/s\n"
    )
    heads = ("", "plain s", "fused s", "ratio", "spread", "plain extra MiB")
    heads = (*heads, "fused extra MiB", "floor")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    results = []
    for name, (make, operations) in chosen.items():
        result = measure(name, make(), operations, args.repeats, rate)
        results.append({**asdict(result), "ratio": result.ratio})
        print(row(result), flush=True)
    if args.json:
        content = {"environment": environment, "gemm_rate": rate, "results": results}
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
