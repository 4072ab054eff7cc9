"""What is measured of clouds, the SVM, episodes and the loader.

The whole training step and its options are in :mod:`benchmarks.steps`.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from benchmarks.floors import (
    cloud_work,
    clouds,
    few_shot_work,
    loader_work,
    svm_work,
)
from benchmarks.measure import BOTH_KEEP, FORMS, Case, Forms, Setting, Work
from datasets.prepare.pack import pack
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic import generate
from models.dgcnn import DGCNN
from models.edgeconv import chosen_form
from models.fused.rows import Rows, operations
from models.knn import knn
from models.partseg import DGCNNPartSeg
from utils.judging.fewshot import PUBLISHED_SETTINGS, draw_episode, evaluate_episodes
from utils.judging.svm import fit_linear_svm

NETWORKS: dict[str, type[DGCNN | DGCNNPartSeg]] = {
    "dgcnn": DGCNN,
    "dgcnn_seg": DGCNNPartSeg,
}


def edgeconv_forms(device: torch.device) -> dict[str, str]:
    """``--edgeconv`` of each form; no second one where there are no fused kernels."""
    best, _ = chosen_form("auto", device)
    return {"reference": "plain"} | ({"ours": best} if best != "plain" else {})


def encoder_step(
    setting: Setting, network: str, k: int, batch: int, points: int, augmented: bool
) -> Forms:
    """Forward and backward of an encoder."""
    x = clouds(batch, points, augmented).to(setting.device)
    precision = setting.arithmetic()

    def step(form: str) -> Callable[[], None]:
        torch.manual_seed(0)
        model = NETWORKS[network](k=k, edgeconv=form).to(setting.device).train()

        def run() -> None:
            with precision.autocast():
                loss = model.features(x).sum()
            loss.backward()
            model.zero_grad(set_to_none=True)

        return run

    return {name: step(form) for name, form in edgeconv_forms(setting.device).items()}


def extraction(
    setting: Setting, network: str, k: int, batch: int, points: int
) -> Forms:
    """Features in eval mode."""
    x = clouds(batch, points).to(setting.device)
    precision = setting.arithmetic()

    def step(form: str) -> Callable[[], None]:
        torch.manual_seed(0)
        model = NETWORKS[network](k=k, edgeconv=form).to(setting.device).eval()

        @torch.no_grad()
        def run() -> None:
            with precision.autocast():
                model.features(x)

        return run

    return {name: step(form) for name, form in edgeconv_forms(setting.device).items()}


def usual_knn(x: Tensor, k: int) -> Tensor:
    """(B, C, N) -> (B, N, k): all squared distances at once, then ``topk``."""
    square = x.square().sum(dim=1)  # (B, N)
    distance = -2 * torch.matmul(x.transpose(1, 2), x)
    distance = distance + square[:, :, None] + square[:, None]  # (B, N, N)
    return distance.topk(k, dim=2, largest=False).indices


def graphs(setting: Setting, channels: int, k: int, batch: int, points: int) -> Forms:
    """The kNN graph as it is usually written, and as it is computed here."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, points, device=setting.device)
    ours: Callable[[], object] = partial(knn, x, k)
    if chosen_form("auto", x.device)[0] == "fused":
        first = torch.arange(0, batch * points + 1, points, device=x.device)
        weight = torch.ones(batch * points, device=x.device)
        below = x.transpose(1, 2).reshape(-1, channels).contiguous()
        rows = Rows(first, weight, points, repeated=False)
        ours = partial(operations(x.device).knn, below, rows, k)
    return {"reference": partial(usual_knn, x, k), "ours": ours}


def products(setting: Setting, rows: int, wide: int, out: int) -> Forms:
    """A product of rows by PyTorch, and as the fused form computes it."""
    torch.manual_seed(0)
    x = torch.randn(rows, wide, device=setting.device)
    weight = torch.randn(out, wide, device=setting.device)
    ours: Callable[[], object] = partial(torch.mm, x, weight.T)
    if chosen_form("auto", x.device)[0] == "fused":
        ours = partial(operations(x.device).linear, x, weight)
    return {"reference": partial(torch.mm, x, weight.T), "ours": ours}


def features_of_classes(samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2048) overlapping classes, as features of an encoder are, and labels."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 2048))
    noise = random.normal(size=(samples, 2048))
    return (0.15 * centres[labels] + noise).astype(np.float32), labels


def linear_svm(_: Setting, train: int, test: int, classes: int) -> Forms:
    """Fit and score, against scikit-learn's own linear kernel."""
    features, labels = features_of_classes(train + test, classes)
    rows, answers = features[train:], labels[train:]
    features, labels = features[:train], labels[:train]
    exact = features.astype(np.float64)
    return {
        "reference": lambda: (
            SVC(kernel="linear", C=0.1, cache_size=1000)
            .fit(exact, labels)
            .score(rows, answers)
        ),
        "ours": lambda: fit_linear_svm(features, labels, 0.1).score(rows, answers),
    }


def few_shot(_: Setting, samples: int, classes: int, episodes: int = 50) -> Forms:
    """The four published settings on features that are there, against scikit-learn's
    scaler and linear kernel."""
    features, labels = features_of_classes(samples, classes)

    def usual(support: np.ndarray, query: np.ndarray) -> float:
        svm = make_pipeline(StandardScaler(), SVC(kernel="linear", C=1.0))
        svm.fit(features[support].astype(np.float64), labels[support])
        return svm.score(features[query].astype(np.float64), labels[query])

    def reference() -> list[float]:
        return [
            usual(*draw_episode(labels, ways, shots, 20, 1, run))
            for ways, shots in PUBLISHED_SETTINGS
            for run in range(episodes)
        ]

    def ours() -> list[float]:
        settings = [
            evaluate_episodes(features, labels, ways, shots, n_runs=episodes, seed=1)
            for ways, shots in PUBLISHED_SETTINGS
        ]
        return [accuracy for found in settings for accuracy in found.accuracies]

    return {"reference": reference, "ours": ours}


def loader(_: Setting, shapes: int, pictures: str) -> Forms:
    """Cloud and picture of every shape: files, half of the PLY ASCII, and packed."""
    folder = Path(tempfile.mkdtemp(prefix="packed_benchmark_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generate(folder, shapes=shapes, seed=0, workers=1, progress=False)
    paths = sorted(folder.glob("ShapeNet/*/*.ply"))
    for number, path in enumerate(paths):
        cloud = PlyData.read(path, mmap=False)
        cloud.text = number % 2 == 1
        cloud.write(path)
    pack(folder, pictures, progress=False)

    def points(cloud: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return cloud

    def picture(image: Image.Image, *_: object) -> Tensor:
        return torch.from_numpy(np.array(image))

    def read(packed: bool) -> Callable[[], None]:
        data = ShapeNetRender(folder, 2048, 224, 0, points, picture, packed=packed)

        def run() -> None:
            for index in range(len(data)):
                _ = data[index]

        return run

    return {"reference": read(False), "ours": read(True)}


def _step_case(
    network: str,
    batch: int,
    points: int,
    k: int,
    augmented: bool = False,
    keeps: tuple[str, ...] = ("ours",),
) -> Case:
    sizes: dict[str, Any] = {
        "network": network,
        "k": k,
        "batch": batch,
        "points": points,
    }
    large = batch * points > 2**15  # may be killed, and must not take the table along
    return Case(
        f"{network} step, {batch} x {points}, K={k}, "
        + ("augmented" if augmented else "random")
        + (BOTH_KEEP if keeps == FORMS else ""),
        partial(encoder_step, **sizes, augmented=augmented),
        partial(cloud_work, **sizes, augmented=augmented),
        batch,
        processes=int(large),
        gib=batch * points * k / 1e5 if large else 0,  # about 10 kB an edge
        keeps=keeps,
    )


def point_cases() -> list[Case]:
    """The encoders' rows, and the graph's."""
    found = []
    for network, batch in (("dgcnn", 8), ("dgcnn_seg", 2)):
        for k in (15, 20, 40):
            found += [
                _step_case(network, batch, 2048, k, augmented)
                for augmented in (False, True)
            ]
    for network, batch in (("dgcnn", 8), ("dgcnn_seg", 2)):
        found.append(_step_case(network, batch, 2048, 15, keeps=FORMS))
    for points, batch in ((1024, 8), (4096, 8), (8192, 8)):
        found.append(_step_case("dgcnn", batch, points, 15))
    for points, batch in ((1024, 4), (4096, 2), (8192, 2)):
        found.append(_step_case("dgcnn_seg", batch, points, 15))
    for network in NETWORKS:
        found.append(
            Case(
                f"{network} features, 16 x 1024, K=15",
                partial(extraction, network=network, k=15, batch=16, points=1024),
                partial(cloud_work, network, 15, 16, 1024, False, 1),
                16,
            )
        )
    found.append(
        Case(
            "product, 16384 x 512 by 512 x 1024",
            partial(products, rows=16384, wide=512, out=1024),
            lambda: Work(2.0 * 16384 * 512 * 1024),
            keeps=FORMS,
        )
    )
    graph = partial(graphs, channels=64, k=15, batch=8, points=2048)
    # Distances are written and read again in no form but the usual one.
    work = Work(2.0 * 8 * 2048**2 * 64, 4.0 * 8 * 2048 * (64 + 15))
    return [*found, Case("knn, 8 x 2048, C=64, K=15", graph, lambda: work, 8)]


def other_cases() -> list[Case]:
    """What runs on the CPU whatever ``--device`` is."""
    found = []
    for train, test in ((2460, 615), (9840, 2468)):
        found.append(
            Case(
                f"svm, {train} x 2048, 40 classes, {test} judged",
                partial(linear_svm, train=train, test=test, classes=40),
                partial(svm_work, train, test, 40),
                slow=train > 5000,
                devices=("cpu",),
            )
        )
    episodes = partial(few_shot, samples=9840, classes=40)
    found.append(
        Case(
            "few-shot, 9840 x 2048, 4 x 50 episodes",
            episodes,
            partial(few_shot_work, 50),
            devices=("cpu",),
        )
    )
    for pictures in ("files", "decoded"):
        found.append(
            Case(
                f"loader, 64 shapes, half ASCII, pictures {pictures}",
                partial(loader, shapes=64, pictures=pictures),
                partial(loader_work, 64, 2048, 137),
                64,
                devices=("cpu",),
            )
        )
    return found
