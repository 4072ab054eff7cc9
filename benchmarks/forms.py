"""The two forms of each piece of work: the plain reference and what is used here.

Functions take a setting and sizes, and return the forms by name.
"""

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from PIL import Image
from plyfile import PlyData
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from benchmarks.measure import Forms, Setting
from benchmarks.roofline import Sizes, clouds
from datasets.prepare.pack import pack
from datasets.prepare.views import Settings, make_shape
from datasets.shapenet_render import ShapeNetRender
from datasets.synthetic import generate
from models import point_encoder
from models.crosspoint import CrossPoint, MultiView
from models.dgcnn import DGCNN
from models.edgeconv import chosen_form
from models.fused.batch import RaggedBatch, distinct_points, kernels_for
from models.image import ImageEncoder
from models.knn import knn
from models.losses import NTXentLoss, crosspoint_loss, multiview_loss
from utils.judging.fewshot import PUBLISHED_SETTINGS, draw_episode, evaluate_episodes
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.run.cuda_graph import GraphedStep
from utils.run.training import Precision, to_device

# Point encoders and their parts


def encoder(setting: Setting, sizes: Sizes, training: bool = True) -> Forms:
    """Forward and backward of a point encoder, or features alone in eval mode."""
    x = clouds(sizes.batch, sizes.points, sizes.augmented).to(setting.device)
    precision = Precision(setting.precision, setting.device)

    def step(model: Any) -> None:
        with precision.autocast(), torch.set_grad_enabled(training):
            loss = model.features(x).sum()
        if training:
            loss.backward()
            model.zero_grad(set_to_none=True)

    fast, _ = chosen_form("auto", setting.device)
    forms = {"reference": "plain"} | ({"ours": fast} if fast != "plain" else {})
    made = {}
    for name, form in forms.items():
        torch.manual_seed(0)
        model = point_encoder(sizes.network, sizes.k, 1024, form)
        made[name] = partial(step, model.to(setting.device).train(training))
    return made


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
        offsets = torch.arange(0, batch * points + 1, points, device=x.device)
        counts = torch.ones(batch * points, device=x.device)
        ragged = RaggedBatch(offsets, counts, points, merged=False)
        rows = x.transpose(1, 2).reshape(-1, channels).contiguous()
        ours = partial(kernels_for(x.device).knn, rows, ragged, k)
    return {"reference": partial(usual_knn, x, k), "ours": ours}


def products(setting: Setting, rows: int, wide: int, out: int) -> Forms:
    """A matrix product by PyTorch, and as the fused form computes it."""
    torch.manual_seed(0)
    x = torch.randn(rows, wide, device=setting.device)
    weight = torch.randn(out, wide, device=setting.device).T
    ours: Callable[..., object] = torch.mm
    if chosen_form("auto", x.device)[0] == "fused":
        ours = kernels_for(x.device).product
    return {"reference": partial(torch.mm, x, weight), "ours": partial(ours, x, weight)}


# Evaluation and data loading, on the CPU


def features_of_classes(samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2048) features of classes that overlap, and labels."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, 2048))
    noise = random.normal(size=(samples, 2048))
    return (0.15 * centres[labels] + noise).astype(np.float32), labels


def linear_svm(_: Setting, train: int, test: int, classes: int) -> Forms:
    """Fit and score, against scikit-learn's own linear kernel."""
    features, labels = features_of_classes(train + test, classes)
    train_x, test_x = np.split(features, [train])
    train_y, test_y = np.split(labels, [train])
    exact = train_x.astype(np.float64)

    def reference() -> float:
        svm = SVC(kernel="linear", C=0.1, cache_size=1000).fit(exact, train_y)
        return svm.score(test_x, test_y)

    def ours() -> float:
        return fit_linear_svm(train_x, train_y, 0.1).score(test_x, test_y)

    return {"reference": reference, "ours": ours}


def few_shot(_: Setting, samples: int, classes: int, episodes: int = 50) -> Forms:
    """The four published settings on given features, against scikit-learn's scaler and
    linear kernel."""
    features, labels = features_of_classes(samples, classes)

    def reference() -> list[float]:
        accuracies = []
        for ways, shots in PUBLISHED_SETTINGS:
            for run in range(episodes):
                support, query = draw_episode(labels, ways, shots, 20, 1, run)
                svm = make_pipeline(StandardScaler(), SVC(kernel="linear", C=1.0))
                svm.fit(features[support].astype(np.float64), labels[support])
                queries = features[query].astype(np.float64)
                accuracies.append(svm.score(queries, labels[query]))
        return accuracies

    def ours() -> list[float]:
        judge = partial(evaluate_episodes, features, labels, n_runs=episodes, seed=1)
        results = [judge(ways, shots) for ways, shots in PUBLISHED_SETTINGS]
        return [accuracy for result in results for accuracy in result.accuracies]

    return {"reference": reference, "ours": ours}


def loader(_: Setting, shapes: int, images: str, views: int = 1) -> Forms:
    """Cloud and images of every shape: files, half of the PLY ASCII, and packed."""
    folder = Path(tempfile.mkdtemp(prefix="packed_benchmark_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generate(folder, shapes=shapes, seed=0, workers=1)
    for number, path in enumerate(sorted(folder.glob("ShapeNet/*/*.ply"))):
        cloud = PlyData.read(path, mmap=False)
        cloud.text = number % 2 == 1
        cloud.write(path)
    pack(folder, images)
    unchanged: dict[str, Any] = {
        "point_transform": lambda points, _: points,
        "image_transform": [lambda image, *_: torch.from_numpy(np.array(image))]
        * views,
    }

    def read(data: ShapeNetRender) -> None:
        for index in range(len(data)):
            _ = data[index]

    plain, packed = (
        ShapeNetRender(folder, 2048, 224, 0, **unchanged, packed=packed)
        for packed in (False, True)
    )
    return {"reference": partial(read, plain), "ours": partial(read, packed)}


def rendering(_: Setting, views: int, size: int, side: int = 70) -> Forms:
    """All that `datasets.from_meshes` does for one textured mesh of 2 side² faces."""
    folder = Path(tempfile.mkdtemp(prefix="rendering_benchmark_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    random = np.random.default_rng(0)
    texture = Image.fromarray(random.integers(0, 256, (512, 512, 3), np.uint8))
    ring = trimesh.creation.torus(1, 0.4, major_sections=side, minor_sections=side)
    uv = random.random((len(ring.vertices), 2))
    ring.visual = trimesh.visual.TextureVisuals(uv=uv, image=texture)
    ring.export(folder / "ring.obj")
    settings = Settings(0, views, size, 2048, "r2n2", "y")
    ours = partial(make_shape, folder / "ring.obj", "ring/ring", folder, settings)
    return {"ours": ours}


# Whole training steps


class Step(NamedTuple):
    """Sizes of a step of pre-training."""

    pairs: int
    points: int = 2048
    k: int = 15
    backbone: str = "resnet50"
    size: int = 224  # of the images, height and width
    views: int = 1  # images a shape

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Two augmented views (B, 3, N) of clouds and random images, (B, 3, H, W) or
        (B, V, 3, H, W)."""
        view1, view2 = clouds(2 * self.pairs, self.points, augmented=True).chunk(2)
        torch.manual_seed(0)
        number = (self.pairs, self.views) if self.views > 1 else (self.pairs,)
        return view1, view2, torch.randn(*number, 3, self.size, self.size)

    def model(self, ours: bool) -> CrossPoint:
        """Both encoders, with all options that are used here or with none."""
        torch.manual_seed(0)
        points = DGCNN(k=self.k, edgeconv="auto" if ours else "plain")
        images = ImageEncoder(self.backbone, head=self.views == 1)
        if ours:
            images.to(memory_format=torch.channels_last)
        if self.views == 1:
            return CrossPoint(points, images).train()
        return MultiView(points, images, 1024, [256] * self.views).train()


def crosspoint_step(
    model: nn.Module,
    batches: Sequence[Sequence[Any]],
    setting: Setting,
    ours: bool = True,
    gather: bool = True,
    graph: bool = False,
) -> Callable[[], Tensor]:
    """A step of pre-training with Adam, as in ``train_crosspoint.py``.

    Args:
        model: of :meth:`Step.model`, on the setting's device.
        batches: views, images and perhaps their layout; they take turns.
        setting: device and precision.
        ours: Adam fused as in the training scripts, or by PyTorch's default.
        gather: of the loss.
        graph: all but the update as a CUDA graph.
    """
    criterion = NTXentLoss(gather=gather)
    precision = Precision(setting.precision, setting.device)
    update = torch.optim.Adam(
        model.parameters(), 1e-3, weight_decay=1e-6, fused=ours or None
    )

    def forward_backward(*batch: Any) -> tuple[Tensor, ...]:
        with precision.autocast():
            z1, z2, z_image = model(*batch)
            objective = multiview_loss if isinstance(z_image, list) else crosspoint_loss
            loss, _, _ = objective(z1, z2, z_image, criterion)
        update.zero_grad(set_to_none=True)
        precision.scaler.scale(loss).backward()
        return (loss,)

    run: Callable[..., tuple[Tensor, ...]] = forward_backward
    if graph:
        run = GraphedStep(forward_backward, model.parameters())
    turns = itertools.cycle(to_device(batches, setting.device, precision.dtype))

    def step() -> Tensor:
        (loss,) = run(*next(turns))
        precision.scaler.step(update)
        precision.scaler.update()
        return loss

    return step


def with_layout(inputs: Sequence[Tensor], capacity: int = 0) -> tuple[Any, ...]:
    """Two views, images and the layout of the views' points, as the loader does it."""
    return *inputs, distinct_points(torch.cat([*inputs[:2]]), capacity)


def pretraining(setting: Setting, step: Step) -> Forms:
    """The whole step of pre-training."""
    inputs = step.inputs()
    plain, ours = (step.model(ours).to(setting.device) for ours in (False, True))
    return {
        "reference": crosspoint_step(plain, [inputs], setting, ours=False),
        "ours": crosspoint_step(ours, [with_layout(inputs)], setting),
    }


def multiview(setting: Setting, step: Step) -> Forms:
    """The multi-view step, against the step with one image and the image encoder's
    forward and backward on the other images."""
    one, inputs = step._replace(views=1), step.inputs()
    single = one.model(ours=True).to(setting.device)
    step_of_one = crosspoint_step(single, [with_layout(one.inputs())], setting)
    images = one.model(ours=True).image_encoder.to(setting.device)
    extra_images = inputs[2][:, 1:].flatten(0, 1).to(setting.device)
    precision = Precision(setting.precision, setting.device)

    def reference() -> None:
        step_of_one()
        with precision.autocast():
            value = images(extra_images).sum()
        value.backward()
        images.zero_grad(set_to_none=True)

    model = step.model(ours=True).to(setting.device)
    ours = crosspoint_step(model, [with_layout(inputs)], setting)
    return {"reference": reference, "ours": ours}


def scaling(setting: Setting, step: Step) -> Forms:
    """The global batch on one process, while the others wait, and on all of them."""
    inputs, rank = step.inputs(), distributed.rank()
    share = step.pairs // distributed.world_size()
    local = [x[rank * share :][:share] for x in inputs]
    single = step.model(ours=True).to(setting.device)
    single_step = crosspoint_step(single, [with_layout(inputs)], setting, gather=False)
    together = synchronise_batchnorm(step.model(ours=True))
    parallel = distributed.data_parallel(together, setting.device)
    return {
        "reference": single_step if rank == 0 else lambda: None,
        "ours": crosspoint_step(parallel, [with_layout(local)], setting),
    }
