"""Fine-tune the part-segmentation DGCNN on ShapeNetPart.

It starts from weights that pre-training wrote, or from scratch, and is judged by the
IoU of parts. The number of processes changes the time, nothing else.

  one CPU     python train_partseg.py --data_root data/synthetic --batch_size 4 \\
                  --model_path checkpoints/crosspoint_partseg/models/best_model.pth
  one GPU     torchrun --nproc_per_node=1 train_partseg.py --model_path best_model.pth
  a node      torchrun --nproc_per_node=4 train_partseg.py --from_scratch
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 train_partseg.py --from_scratch
              (the same line on both nodes, HOST being one of them)
  to judge    python train_partseg.py --eval --model_path best_model.pth \\
                  --save_predictions pictures
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sized
from typing import cast

from utils.run import cli, flags

SHOWN = 3  # shapes of a category that --save_predictions writes


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of part segmentation."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(
        parser,
        exp_name="",
        resumable=True,
        naming="partseg; with --eval eval_shapenetpart_<run and file of the weights>",
    )
    flags.add_model_flags(parser, num_points=2048, k=40, models=("dgcnn_seg",))
    training = flags.add_training_flags(
        parser, batch_size=32, epochs=300, weight_decay=1e-4, optimizer="sgd"
    )
    training.add_argument(
        "--scheduler",
        choices=("cos", "step"),
        default="cos",
        help="cos: cosine to 1e-3; step: halved every 20 epochs, not below 1e-5 "
        "(default: cos)",
    )
    group = flags.add_downstream_flags(parser)
    group.add_argument(
        "--class_choice",
        default=None,
        metavar="NAME",
        help="only shapes of this category, such as chair (default: all)",
    )
    group.add_argument(
        "--save_predictions",
        default="",
        metavar="DIR",
        help=f"write the first {SHOWN} test shapes of each category into this empty or "
        "new folder: PLY files coloured by part, predicted and true, and a contact "
        "sheet; after training by the best weights",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from datasets.files import DataError
from datasets.sampler import GlobalBatchSampler
from datasets.shapenet_part import NUM_PARTS, ShapeNetPart
from datasets.transforms import shuffle_points
from models.dropout import set_dropout_step
from models.edgeconv import chosen_form
from models.losses import smoothed_cross_entropy
from models.partseg import NUM_CATEGORIES, DGCNNPartSeg
from utils.drawing.part_pictures import check_empty, save_part_examples
from utils.judging.metrics import part_figures, shape_iou
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.parallel.seed import seed_torch
from utils.run import checkpoint
from utils.run.checkpoint import LoadReport
from utils.run.interrupts import listening
from utils.run.logger import RunLogger, progress, run_rows
from utils.run.run_folder import open_run_folder
from utils.run.training import (
    BEST,
    DEFAULT_LR,
    DivergenceError,
    Epoch,
    Precision,
    Training,
    build_optimizer,
    data_loader,
    finish_epoch,
    is_resumed,
    open_training,
    scheduled,
    shown,
)


def main(args: argparse.Namespace) -> None:
    process = distributed.start(args.dist_timeout)
    segment(args, process)
    distributed.stop()


def segment(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data and the weights, then fine-tune, or only judge with ``--eval``."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]
    judged = f"eval_shapenetpart_{checkpoint.run_name(args.model_path)}"
    args.exp_name = args.exp_name or (judged if args.eval else "partseg")
    precision = Precision(args.precision, process.device)
    resumed = not args.eval and is_resumed(args)
    loader, test, model, start = distributed.run_everywhere(
        lambda: prepare(args, process, precision, resumed),
        DataError,
        checkpoint.CheckpointError,
        ValueError,
    )
    model.to(process.device)
    if args.eval:
        folder = open_run_folder(args.exp_name, args.overwrite, None, [args.model_path])
        with RunLogger(folder, vars(args)) as logger:
            judge(model, start, test, precision, args, logger)
        return
    synchronise_batchnorm(model, process.device)
    parallel = distributed.data_parallel(model, process.device)
    optimizer = build_optimizer(parallel.parameters(), args)
    parts = {"model": model, "optimizer": optimizer, "precision": precision}
    folder, state, save = open_training(args, resumed, [args.model_path], **parts)

    done_before = (state.epoch, state.step) if resumed else None
    with listening(), RunLogger(folder, vars(args), done_before) as logger:
        logger.introduce(description(args, process, model, loader, test))
        if not resumed:
            logger.info(str(start))
        else:
            logger.info(f"going on from its checkpoint at step {state.step}")
        values = {}
        run = Training(
            args, parallel, loader, optimizer, precision, state, logger, save
        )
        while state.epoch < args.epochs:
            values = train_one_epoch(run)
            values = judge_epoch(run, values, model, test)
            save()
        if "test_miou" in values:
            logger.info(f"last epoch: test_miou {values['test_miou']:.4f}")
        logger.info(
            f"best epoch: test_miou {state.best:.4f}, chosen on the test split; "
            f"weights in {folder / BEST}"
        )
        if args.save_predictions:
            distributed.run_on_main(lambda: None)  # rank 0 has written the weights
            checkpoint.load_pretrained(model, folder / BEST)
            predicted = evaluate(model, test, precision, args)[2]
            save_part_examples(args.save_predictions, test, predicted, SHOWN)
            logger.info(f"pictures in {args.save_predictions}")


def judge(
    model: DGCNNPartSeg,
    start: LoadReport | str,
    test: ShapeNetPart,
    precision: Precision,
    args: argparse.Namespace,
    logger: RunLogger,
) -> None:
    """``--eval``: figures of the test split, in the log and as one record."""
    data = f"{test.total} test shapes in {args.data_root}, {args.num_points} points"
    logger.introduce({"model": str(start), "data": data, "k": str(args.k)})
    values, by_category, predicted = evaluate(model, test, precision, args)
    logger.info(shown(values))
    logger.info(f"IoU by category: {shown(by_category)}")
    record = {"model_path": args.model_path, "test_size": test.total}
    logger.record({**record, **values, "category_iou": by_category})
    if args.save_predictions:
        save_part_examples(args.save_predictions, test, predicted, SHOWN)
        logger.info(f"pictures in {args.save_predictions}")


def prepare(
    args: argparse.Namespace,
    process: distributed.Process,
    precision: Precision,
    resumed: bool,
) -> tuple[DataLoader | None, ShapeNetPart, DGCNNPartSeg, LoadReport | str]:
    """Everything that can be wrong with flags and files, before anything is written."""
    flags.check_fine_tuning(args)
    chosen_form(args.edgeconv, process.device)
    if args.save_predictions:
        check_empty(args.save_predictions, "--save_predictions")
    data = {"num_points": args.num_points, "class_choice": args.class_choice}
    shard = (process.rank, process.world_size)
    test = ShapeNetPart(args.data_root, "test", shard=shard, **data)
    loader = None
    if not args.eval:
        more = {"transform": shuffle_points, "seed": args.seed}
        train = ShapeNetPart(args.data_root, "trainval", **data, **more)
        sampler = GlobalBatchSampler(
            len(train), args.batch_size, *shard, seed=args.seed, last="fill"
        )
        loader = data_loader(train, sampler, args, process.device)
    seed_torch(args.seed)
    model = DGCNNPartSeg(
        k=args.k,
        emb_dims=args.emb_dims,
        num_parts=NUM_PARTS,
        dropout=args.dropout,
        edgeconv=args.edgeconv,
    )
    model.to(precision.dtype)
    if args.from_scratch or resumed:
        return loader, test, model, f"random weights (seed {args.seed})"
    report = checkpoint.load_pretrained(model, args.model_path)
    if args.eval and report.initialised:
        raise ValueError(f"--eval needs weights that were fine-tuned: {report}")
    return loader, test, model, report


def train_one_epoch(run: Training) -> dict[str, float]:
    """One pass over the shapes, or what is left of it after a resume.

    Returns:
        Loss, instance mIoU and accuracy, means over the global batches as trained on.

    Raises:
        DivergenceError: see :meth:`Epoch.finish_step`.
    """
    model, precision, args = run.model, run.precision, run.args
    model.train()
    rate = scheduled(args.scheduler, args.lr, run.state.epoch, args.epochs)
    epoch = Epoch(run, ["loss"], rate, others=2)
    for points, category, target in epoch:  # (b, 3, N), (b,), (b, N)
        set_dropout_step(model, args.seed, run.state.step)
        with precision.autocast():
            logits = model(points, F.one_hot(category, NUM_CATEGORIES))  # (b, 50, N)
            loss = part_loss(logits, target)
        run.optimizer.zero_grad(set_to_none=True)
        precision.backward_and_step(loss, run.optimizer)
        predicted = logits.detach().argmax(dim=1)
        iou = shape_iou(predicted, target, category).mean()
        right = (predicted == target).double().mean()
        # Each rank has means over its own shapes; their mean is the global batch's.
        values = torch.stack([loss.detach().double(), iou, right])
        epoch.finish_step(values / distributed.world_size())
    names = ("train_loss", "train_miou", "train_accuracy")
    return {n: x / epoch.steps for n, x in zip(names, epoch.sums, strict=True)}


def part_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Smoothed cross-entropy of logits (B, 50, N) and parts (B, N), a mean."""
    rows = logits.transpose(1, 2).reshape(-1, NUM_PARTS)
    return smoothed_cross_entropy(rows, target.reshape(-1))


@torch.no_grad()
def evaluate(
    model: DGCNNPartSeg,
    test: ShapeNetPart,
    precision: Precision,
    args: argparse.Namespace,
) -> tuple[dict[str, float], dict[str, float], np.ndarray]:
    """Figures of the whole test split, in the parameters' precision.

    Each rank predicts its own shapes, none twice; values of single shapes are gathered
    and counts of points summed, so the number of ranks does not show.

    Returns:
        The figures; IoU by category; this rank's predicted parts (m, N).
    """
    model.eval()
    own = max(1, args.test_batch_size // distributed.world_size())
    losses, predicted = [np.empty(0)], [np.empty((0, args.num_points), np.int64)]
    bar = progress(total=len(test), desc="test", unit="shape")
    for first in range(0, len(test), own):
        points, category, target = (
            torch.from_numpy(x[first : first + own]).to(precision.device)
            for x in (test.points, test.labels, test.parts)
        )
        points = points.transpose(1, 2).to(precision.dtype)
        logits = model(points, F.one_hot(category, NUM_CATEGORIES))
        shapes = zip(logits.split(1), target.split(1), strict=True)
        loss = torch.stack([part_loss(*shape) for shape in shapes])
        losses.append(loss.double().cpu().numpy())
        predicted.append(logits.argmax(dim=1).cpu().numpy())
        bar.update(len(points))
    bar.close()
    parts = np.concatenate(predicted)
    values, by_category = part_figures(parts, test.parts, test.labels, test.class_names)
    loss_of_all = distributed.gather_array(np.concatenate(losses)).mean()
    return {"test_loss": float(loss_of_all), **values}, by_category, parts


def judge_epoch(
    run: Training, values: dict[str, float], model: DGCNNPartSeg, test: ShapeNetPart
) -> dict[str, float]:
    """Judge the test split, and keep the weights if they are the best so far."""
    figures, by_category, _ = evaluate(model, test, run.precision, run.args)
    state = run.state
    if not math.isfinite(figures["test_loss"]):
        raise DivergenceError(state.step - 1, "the test loss", run.args)
    is_best = figures["test_miou"] > state.best
    state.best = max(figures["test_miou"], state.best)
    values = {**values, **figures, "best_test_miou": state.best}
    finish_epoch(run, values, {BEST.name: model} if is_best else {}, model)
    if is_best:
        run.logger.info(f"best so far; IoU by category: {shown(by_category)}")
    return values


def description(
    args: argparse.Namespace,
    process: distributed.Process,
    model: DGCNNPartSeg,
    loader: DataLoader,
    test: ShapeNetPart,
) -> dict[str, str]:
    """What the log says before the first step."""
    size = sum(p.numel() for p in model.parameters()) / 1e6
    shapes = len(cast(Sized, loader.dataset))
    return {
        "model": f"{args.model} {size:.2f} M parameters, k {args.k}",
        "edgeconv": "{}: {}".format(*chosen_form(args.edgeconv, process.device)),
        "data": f"{shapes} training and {test.total} test shapes in "
        f"{args.data_root} ({args.class_choice or 'all categories'}), "
        f"{args.num_points} points",
        **run_rows(args, process, len(loader)),
        "best": f"{BEST} is chosen by instance mIoU on the test split",
    }


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), DataError, checkpoint.CheckpointError, DivergenceError)
