"""Pre-train a point encoder with CrossPoint (Afham et al., CVPR 2022).

Two augmented views of a cloud and a picture of the same shape are pulled together by
NT-Xent over the global batch. The number of processes changes the time, nothing else.

  one CPU     python train_crosspoint.py --data_root data/synthetic --batch_size 8
  one GPU     torchrun --nproc_per_node=1 train_crosspoint.py
  a node      torchrun --nproc_per_node=4 train_crosspoint.py
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 train_crosspoint.py --batch_size 24
              (the same line on both nodes, HOST being one of them)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models import BACKBONES, ENCODERS
from utils.run import cli, flags


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of pre-training."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(parser, exp_name="crosspoint_cls", resumable=True)
    model = flags.add_model_flags(parser, num_points=2048, k=15, models=ENCODERS)
    model.add_argument(
        "--image_encoder",
        choices=BACKBONES,
        default="resnet50",
        help="picture encoder (default: resnet50)",
    )
    model.add_argument(
        "--img_model_path",
        default="",
        metavar="FILE",
        help="picture encoder's weights to start from (default: a random start)",
    )
    model.add_argument(
        "--distinct_points",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute the copies that the augmentation makes of a cloud's first point "
        "once; the same numbers to rounding (default: yes)",
    )
    training = flags.add_training_flags(
        parser, batch_size=20, epochs=100, weight_decay=1e-6
    )
    training.add_argument(
        "--image_size",
        type=flags.positive_int,
        default=224,
        help="edge of a picture in pixels (default: 224)",
    )
    training.add_argument(
        "--temperature",
        type=flags.positive_float,
        default=0.1,
        help="of NT-Xent (default: 0.1)",
    )
    training.add_argument(
        "--packed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="read ShapeNetPacked, which `python -m datasets.packed` makes, instead of "
        "single files; the items are the same (default: if it is there)",
    )
    probe = parser.add_argument_group("linear SVM probe on ModelNet40")
    probe.add_argument(
        "--svm_every",
        type=flags.natural_int,
        default=1,
        help="epochs between two probes; 0 for none (default: 1)",
    )
    probe.add_argument(
        "--svm_C",
        type=flags.positive_float,
        default=0.1,
        help="the SVM's C (default: 0.1)",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
from torch import nn

from datasets.files import MODELNET40 as PROBE_FOLDER
from datasets.files import DataError
from datasets.labelled import ModelNet40
from datasets.sampler import GlobalBatchSampler
from datasets.shapenet_render import ShapeNetRender
from datasets.transforms import jitter_images
from models import point_encoder
from models.crosspoint import CrossPoint
from models.edgeconv import chosen_form
from models.image import ImageEncoder
from models.losses import NTXentLoss, crosspoint_loss
from utils.drawing.wandb_images import show_pretraining
from utils.judging.features import extract_features
from utils.judging.probe import Probed
from utils.judging.svm import fit_linear_svm
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.parallel.seed import seed_torch
from utils.run import checkpoint
from utils.run.checkpoint import LoadReport
from utils.run.interrupts import Interrupted, listening
from utils.run.logger import RunLogger, run_rows
from utils.run.training import (
    BEST,
    DEFAULT_LR,
    DivergenceError,
    Epoch,
    Precision,
    Training,
    build_optimizer,
    cosine,
    data_loader,
    finish_epoch,
    is_resumed,
    open_training,
)

PROBE_POINTS = 1024
Probe = tuple[ModelNet40, ModelNet40]  # this rank's shares of both splits


def main(args: argparse.Namespace) -> None:
    process = distributed.start(args.dist_timeout)
    pretrain(args, process)
    distributed.stop()


def pretrain(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data, build the model, train, and leave a run folder behind."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]

    resumed = is_resumed(args)
    probe_there = distributed.run_on_main(
        lambda: Path(args.data_root, PROBE_FOLDER).is_dir()
    )
    dataset, sampler, probe, model, reports = distributed.run_everywhere(
        lambda: prepare(args, process, resumed, probe_there),
        DataError,
        checkpoint.CheckpointError,
        ValueError,
    )
    loader = data_loader(dataset, sampler, args, process.device)
    precision = Precision(args.precision, process.device)
    # Convolutions of pictures are faster where the channels of a pixel lie together;
    # pictures and gradients follow the weights.
    model.image_encoder.to(memory_format=torch.channels_last)
    synchronise_batchnorm(model.to(precision.dtype), process.device)
    parallel = distributed.data_parallel(model, process.device)
    optimizer = build_optimizer(parallel.parameters(), args)
    parts = {"model": model, "optimizer": optimizer, "precision": precision}
    inputs = (args.model_path, args.img_model_path)
    folder, state, save = open_training(args, resumed, inputs, **parts)

    distributed.run_on_main(lambda: check_probe(args, probe, state.best))
    done_before = (state.epoch, state.step) if resumed else None
    with listening(), RunLogger(folder, vars(args), done_before) as logger:
        logger.introduce(description(args, process, model, dataset, sampler, probe))
        for report in reports:
            logger.info(str(report))
        if resumed:
            logger.info(f"going on from its checkpoint at step {state.step}")
        run = Training(
            args, parallel, loader, optimizer, precision, state, logger, save
        )
        while state.epoch < args.epochs:
            values = train_one_epoch(run)
            try:
                probed = judge_epoch(run, values, probe, model)
            except Interrupted:  # the probe is made again
                save()
                raise
            save()
            due = state.epoch % args.save_freq == 0 or state.epoch == args.epochs
            show_pretraining(logger, state.epoch - 1, due, dataset, probed)
        logger.info(f"done; weights in {folder / BEST}")


def prepare(
    args: argparse.Namespace,
    process: distributed.Process,
    resumed: bool,
    probe_there: bool,
) -> tuple[
    ShapeNetRender, GlobalBatchSampler, Probe | None, CrossPoint, list[LoadReport]
]:
    """Everything that can be wrong with flags and files, before anything is written."""
    if args.batch_size < 2:
        raise ValueError("--batch_size 1 leaves NT-Xent no negatives: use 2 or more")
    chosen_form(args.edgeconv, process.device)
    if args.k > args.num_points:
        raise ValueError(f"--k {args.k} is more than --num_points {args.num_points}")
    dataset = ShapeNetRender(
        args.data_root,
        args.num_points,
        args.image_size,
        args.seed,
        packed=args.packed,
    )
    sampler = GlobalBatchSampler(
        len(dataset), args.batch_size, process.rank, process.world_size, args.seed
    )
    _ = dataset[0]  # too few points in a file shows here, not after the start
    probe = None
    if args.svm_every > 0 and probe_there:
        shard = (process.rank, process.world_size)
        train, test = (
            ModelNet40(args.data_root, split, None, shard)
            for split in ("train", "test")
        )
        probe = (train, test)
        for clouds in probe:
            clouds.points = clouds.points[:, :PROBE_POINTS].copy()
            if args.k > clouds.points.shape[1]:
                raise ValueError(
                    f"the probe's clouds have {clouds.points.shape[1]} points, fewer "
                    f"than --k {args.k}; --svm_every 0 turns the probe off"
                )
    seed_torch(args.seed)
    model = CrossPoint(
        point_encoder(
            *(args.model, args.k, args.emb_dims, args.edgeconv, args.distinct_points)
        ),
        ImageEncoder(args.image_encoder),
    )
    starts = [
        (model.point_encoder, args.model_path),
        (model.image_encoder, args.img_model_path),
    ]
    reports = [
        checkpoint.load_pretrained(part, path)
        for part, path in starts
        if path and not resumed
    ]
    return dataset, sampler, probe, model, reports


def check_probe(args: argparse.Namespace, probe: Probe | None, best: float) -> None:
    """Refuse to go on without the probe that has chosen the weights so far.

    Raises:
        UsageError: naming the folder that is missing.
    """
    if probe is None and args.svm_every > 0 and best >= 0:
        raise cli.UsageError(
            f"{Path(args.data_root, PROBE_FOLDER)} is missing, which has chosen this "
            "run's best_model.pth so far: put it back, or the last epoch's weights "
            "would take the place of the best"
        )


def train_one_epoch(run: Training) -> dict[str, float]:
    """One pass over the shapes, or what is left of it after a resume.

    Returns:
        The epoch's mean losses over the global batches.

    Raises:
        DivergenceError: see :meth:`Epoch.finish_step`.
    """
    model, precision, args = run.model, run.precision, run.args
    model.train()
    criterion = NTXentLoss(args.temperature)
    names = ("loss", "imid_loss", "cmid_loss")
    epoch = Epoch(run, names, cosine(args.lr, run.state.epoch, args.epochs))
    for view1, view2, images in epoch:  # (b, 3, N), (b, 3, N), see jitter_images
        images = jitter_images(images)  # (b, 3, H, W)
        with precision.autocast():
            z1, z2, z_image = model(view1, view2, images)
            losses = crosspoint_loss(z1, z2, z_image, criterion)
        run.optimizer.zero_grad(set_to_none=True)
        precision.backward_and_step(losses[0], run.optimizer)
        # Each rank has the mean over its own anchors; their mean is the global loss.
        epoch.finish_step(torch.stack(losses) / distributed.world_size())
    pairs = zip(names, epoch.sums, strict=True)
    return {f"train_{name}": total / epoch.steps for name, total in pairs}


def run_probe(
    encoder: nn.Module,
    probe: Probe,
    device: torch.device,
    args: argparse.Namespace,
) -> Probed:
    """ModelNet40's test split as a linear SVM judges it: one fit, by rank 0."""
    features = [
        extract_features(encoder, split.points, args.test_batch_size, device, "probe")
        for split in probe
    ]
    labels = [distributed.gather_array(split.labels) for split in probe]

    def fit() -> list[int]:
        with cli.usage_errors():
            svm = fit_linear_svm(features[0], labels[0], args.svm_C)
        return svm.predict(features[1]).tolist()

    predicted = np.array(distributed.run_on_main(fit))
    return Probed(features[1], labels[1], predicted, probe[1].class_names)


def judge_epoch(
    run: Training, values: dict[str, float], probe: Probe | None, model: CrossPoint
) -> Probed | None:
    """Probe where it is due, and keep the weights if they are the best so far."""
    args, state = run.args, run.state
    done = state.epoch + 1
    is_best, probed = probe is None, None
    if probe is not None and (done % args.svm_every == 0 or done == args.epochs):
        device = run.precision.device
        probed = run_probe(model.point_encoder, probe, device, args)
        values["svm_accuracy"] = probed.accuracy
        is_best = probed.accuracy > state.best
        state.best = max(probed.accuracy, state.best)
    encoders = (model.point_encoder, model.image_encoder)
    best = dict(zip((BEST.name, "img_model_best.pth"), encoders, strict=True))
    finish_epoch(run, values, best if is_best else {}, model.point_encoder)
    return probed


def description(
    args: argparse.Namespace,
    process: distributed.Process,
    model: CrossPoint,
    dataset: ShapeNetRender,
    sampler: GlobalBatchSampler,
    probe: Probe | None,
) -> dict[str, str]:
    """What the log says before the first step."""
    point, image = (
        f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M parameters"
        for part in (model.point_encoder, model.image_encoder)
    )
    best = "of the last epoch (--svm_every 0, or no ModelNet40 in --data_root)"
    if probe is not None:
        best = "chosen by the SVM probe on ModelNet40's test split"
    return {
        "model": f"{args.model} {point}, {args.image_encoder} {image}",
        "edgeconv": "{}: {}".format(*chosen_form(args.edgeconv, process.device)),
        "data": f"{len(dataset)} shapes in {args.data_root}"
        f"{' (packed)' if dataset.packed else ''}, {args.num_points} points",
        **run_rows(args, process, len(sampler)),
        "best": f"models/best_model.pth is {best}",
    }


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), DataError, checkpoint.CheckpointError, DivergenceError)
