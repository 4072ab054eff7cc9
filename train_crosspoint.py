"""Pre-train a point encoder with CrossPoint (Afham et al., CVPR 2022).

NT-Xent over the global batch pulls together two augmented views of a point cloud and
images of the same shape. The number of processes changes the time, nothing else.

  one CPU     python train_crosspoint.py --data_root data/synthetic --batch_size 8
  one GPU     torchrun --nproc_per_node=1 train_crosspoint.py
  a node      torchrun --nproc_per_node=4 train_crosspoint.py
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 train_crosspoint.py --batch_size 24
              (the same line on both nodes, HOST being one of them)
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from models import BACKBONES, ENCODERS
from utils.run import cli, flags
from utils.run.objective import add_objective_flags


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of pre-training."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(parser, exp_name="crosspoint_cls", resumable=True)
    model = flags.add_model_flags(parser, ENCODERS, {"num_points": 2048, "k": 15})
    add = model.add_argument
    text = "image encoder"
    add("--image_encoder", choices=BACKBONES, default="resnet50", help=text)
    text = "image encoder's weights to start from (default: random initialisation)"
    add("--img_model_path", default="", metavar="FILE", help=text)
    add(
        "--distinct_points",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute duplicate points, made by the dropout augmentation, only once; "
        "equal up to rounding (default: yes)",
    )
    add_objective_flags(parser)
    training = flags.add_training_flags(
        parser, batch_size=20, epochs=100, weight_decay=1e-6
    )
    add = training.add_argument
    text = "side of an image in pixels"
    add("--image_size", type=flags.positive_int, default=224, help=text)
    text = "NT-Xent temperature"
    add("--temperature", type=flags.positive_float, default=0.1, help=text)
    text = "one CUDA graph for forward and backward pass, for small batches on one GPU"
    add("--cuda_graph", action="store_true", help=text)
    add(
        "--packed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read ShapeNetPacked, written by `python -m datasets.packed`, instead of "
        "single files; the samples are the same (default: if it exists)",
    )
    probe = parser.add_argument_group("linear SVM and k-NN probe on ModelNet40")
    add = probe.add_argument
    text = "run the probe every N epochs, e.g. 5 where epochs are short; 0: never"
    add("--svm_every", type=flags.natural_int, default=1, help=text)
    add("--svm_C", type=flags.positive_float, default=0.1, help="the SVM's C")
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from datasets.files import MODELNET40 as PROBE_FOLDER
from datasets.labelled import ModelNet40
from datasets.sampler import GlobalBatchSampler
from datasets.shapenet_render import ShapeNetRender
from datasets.transforms import (
    augment_image,
    augment_points,
    distinct_after_dropout,
    jitter_images,
)
from models import point_encoder
from models.crosspoint import CrossPoint, MultiView
from models.edgeconv import chosen_form
from models.fused.batch import distinct_points
from models.image import ImageEncoder
from models.losses import NTXentLoss, crosspoint_loss, multiview_loss
from utils.drawing.wandb_images import show_pretraining
from utils.errors import UsageError
from utils.judging.probe import run_probe
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.run.bookkeeping import Run, parameters
from utils.run.checkpoint import load_pretrained
from utils.run.cuda_graph import GraphedStep, check_cuda_graph
from utils.run.network import write_network
from utils.run.objective import describe, settle_objective
from utils.run.run_folder import BEST, is_resumed
from utils.run.training import (
    DEFAULT_LR,
    Precision,
    TimedLoader,
    build_optimizer,
    cosine,
    data_loader,
    to_device,
)


def main(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data, build the model, train, and write the run folder."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]
    device, precision = process.device, Precision(args.precision, process.device)
    resumed = is_resumed(args.exp_name, args.resume)
    with_probe = args.svm_every > 0 and distributed.run_on_main(
        lambda: Path(args.data_root, PROBE_FOLDER).is_dir()
    )

    # Errors in flags and files surface here, before anything is written.
    with distributed.fail_together():
        check_flags(args)
        form, reason = chosen_form(args.edgeconv, device)
        if args.cuda_graph:
            check_cuda_graph(device, process.world_size, args.precision, form)
        jitter = [partial(augment_image, strength=s) for s in args.image_jitter]
        dataset = ShapeNetRender(
            args.data_root,
            args.num_points,
            args.image_size,
            args.seed,
            point_transform=augment_points,
            image_transform=jitter,
            packed=args.packed,
        )
        sampler = GlobalBatchSampler(
            len(dataset), args.batch_size, *process.shard, seed=args.seed
        )
        _ = dataset[0]  # clouds of too few points fail here, not in a loader's worker
        probe = open_probe(args, process.shard) if with_probe else []
        torch.manual_seed(args.seed)
        model = build_model(args)
        model.to(precision.dtype)  # first: loading rounds float64 weights otherwise
        reports = []
        if args.model_path and not resumed:
            reports.append(load_pretrained(model.point_encoder, args.model_path))
        if args.img_model_path and not resumed:
            reports.append(load_pretrained(model.image_encoder, args.img_model_path))

    model.to(device)
    # Convolutions of images are faster with channels last; activations follow weights.
    model.image_encoder.to(memory_format=torch.channels_last)
    synchronise_batchnorm(model)
    model.freeze_unused(args.imid_weight, args.cmid_weight)
    parallel = distributed.data_parallel(model, device)
    optimizer = build_optimizer(parallel.parameters(), args)
    model.two_streams = args.cuda_graph  # a graph runs both encoders side by side
    # Encoders with the attribute `distinct` merge duplicate points, if it is true.
    merges = form == "fused" and getattr(model.point_encoder, "distinct", False)
    collate = partial(with_layout, padded=args.cuda_graph) if merges else None
    loader = data_loader(dataset, sampler, args.num_workers, device, collate)

    weights: dict[str, nn.Module] = {BEST.name: model.point_encoder}
    last_weights: dict[str, nn.Module] = {"ckpt_epoch_last.pth": model.point_encoder}
    if args.cmid_weight:  # otherwise nothing of the image side is trained
        weights["img_model_best.pth"] = model.image_encoder
        last_weights["img_model_last.pth"] = model.image_encoder
    if args.cmid_weight and isinstance(model, MultiView):
        weights["view_heads.pth"] = model.heads

    run = Run(
        args,
        process,
        resumed,
        defaults=get_args_parser().parse_args([]),
        inputs=(args.model_path, args.img_model_path),
        weights=weights,
        last_weights=last_weights,
        parts={"model": model, "optimizer": optimizer, "precision": precision.scaler},
    )
    with distributed.fail_together():
        if args.svm_every and not probe and run.state.best >= 0:
            raise UsageError(
                f"{Path(args.data_root, PROBE_FOLDER)} is missing, and has chosen this "
                "run's best_model.pth so far: put it back, or the last epoch's weights "
                "would replace the best"
            )
    write_network(run.folder / "models", args, "projection")
    with run:
        best = "of the last epoch (--svm_every 0, or no ModelNet40 in --data_root)"
        if probe:
            best = "chosen by the SVM probe on ModelNet40's test split"
        packed = " (packed)" if dataset.packed else ""
        run.introduce(
            {
                "model": f"{args.model} {parameters(model.point_encoder)} parameters, "
                f"{args.image_encoder} {parameters(model.image_encoder)} parameters",
                "objective": describe(args),
                "edgeconv": f"{form}: {reason}",
                "data": f"{len(dataset)} shapes in {args.data_root}{packed}, "
                f"{args.num_points} points",
                "best": f"models/best_model.pth is {best}",
            },
            steps=len(sampler),
        )
        for line in [*reports, dataset.hint]:
            if line:
                run.logger.info(str(line))
        for epoch in range(run.epoch, args.epochs):
            values = train_one_epoch(parallel, loader, optimizer, precision, run)
            probed, is_best = None, not probe
            last = epoch + 1 == args.epochs
            if probe and ((epoch + 1) % args.svm_every == 0 or last):
                probed = run_probe(
                    model.point_encoder,
                    probe[0],
                    probe[1],
                    C=args.svm_C,
                    batch_size=args.test_batch_size,
                )
                values["svm_accuracy"] = probed.accuracy
                values["knn_accuracy"] = probed.knn_accuracy
                is_best = run.improves(probed.accuracy)
            run.end_epoch(values, is_best)
            show_pretraining(run.logger, epoch, run.logs_images(epoch), dataset, probed)
        run.logger.info(f"done; weights in {run.folder / BEST}")


def train_one_epoch(
    model: nn.Module,
    loader: TimedLoader,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    run: Run,
) -> dict[str, float]:
    """One pass over the shapes left of the epoch; returns the epoch's mean losses."""
    args, device, dtype = run.args, run.process.device, precision.dtype
    criterion = NTXentLoss(args.temperature)
    objective = multiview_loss if args.objective == "multiview" else crosspoint_loss
    loss_weights = (args.imid_weight, args.cmid_weight)
    model.train()
    run.start_epoch(loader, cosine(args.lr, run.epoch, args.epochs))

    def forward_backward(
        view1: Tensor, view2: Tensor, images: Any, *layout: Any
    ) -> tuple[Tensor, ...]:
        # (b, 3, H, W), or (b, V, 3, H, W) for V > 1 images a shape
        images = jitter_images(images) if args.cmid_weight else None
        with precision.autocast():
            z1, z2, z_images = model(view1, view2, images, *layout)  # (b, 256), ...
            loss, imid, cmid = objective(z1, z2, z_images, criterion, *loss_weights)
        optimizer.zero_grad(set_to_none=True)
        precision.scaler.scale(loss).backward()
        return loss, imid, cmid

    step: Callable[..., tuple[Tensor, ...]] = forward_backward
    if args.cuda_graph:
        step = GraphedStep(forward_backward, model.parameters())
    for batch in loader:  # (b, 3, N), (b, 3, N), raw images, layout of the points
        loss, imid, cmid = step(*to_device(batch, device, dtype))
        precision.scaler.step(optimizer)
        precision.scaler.update()
        run.step(loss=loss, imid_loss=imid, cmid_loss=cmid)
    return run.means_and_sums("train_loss", "train_imid_loss", "train_cmid_loss")[0]


def with_layout(samples: list[tuple], padded: bool) -> tuple[Any, ...]:
    """A batch with the layout of its distinct points, made by the loader's workers."""
    view1, view2, images = default_collate(samples)
    clouds = torch.cat([view1, view2])  # (2b, 3, N), as the model does
    rows = distinct_after_dropout(len(clouds), clouds.shape[2]) if padded else 0
    return view1, view2, images, distinct_points(clouds, rows)


def build_model(args: argparse.Namespace) -> CrossPoint:
    """Both encoders, and for multi-view the projection heads of each image."""
    points = point_encoder(
        args.model, args.k, args.emb_dims, args.edgeconv, args.distinct_points
    )
    if args.objective == "multiview":
        images = ImageEncoder(args.image_encoder, head=False)
        return MultiView(points, images, args.emb_dims, args.view_dims)
    return CrossPoint(points, ImageEncoder(args.image_encoder))


def check_flags(args: argparse.Namespace) -> None:
    """Raise a ValueError for flags that contradict each other."""
    settle_objective(args)
    if args.model == "pointnet":
        args.k = 1  # it has no graph
    if args.batch_size < 2:
        raise ValueError("--batch_size 1 leaves NT-Xent no negatives: use 2 or more")
    if args.k > args.num_points:
        raise ValueError(f"--k {args.k} is more than --num_points {args.num_points}")


def open_probe(args: argparse.Namespace, shard: tuple[int, int]) -> list[ModelNet40]:
    """This rank's shares of ModelNet40's splits, the first 1,024 points of a cloud."""
    splits = ("train", "test")
    probe = [ModelNet40(args.data_root, split, None, shard) for split in splits]
    for clouds in probe:
        clouds.points = clouds.points[:, :1024].copy()
        points = clouds.points.shape[1]
        if args.k > points:  # found here, not after an epoch
            problem = f"the probe's clouds have {points} points, less than --k {args.k}"
            raise ValueError(f"{problem}; --svm_every 0 turns the probe off")
    return probe


if __name__ == "__main__":
    cli.run(lambda: distributed.run(main, ARGS), ARGS.debug)
