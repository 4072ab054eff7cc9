"""Fine-tune the part-segmentation DGCNN on ShapeNetPart.

Every epoch is evaluated on the complete test split by the IoU of parts, each shape by
one rank. The number of processes changes the time, nothing else.

  one CPU     python train_partseg.py --data_root data/synthetic --batch_size 4 \\
                  --model_path checkpoints/crosspoint_partseg/models/best_model.pth
  one GPU     torchrun --nproc_per_node=1 train_partseg.py --model_path best_model.pth
  a node      torchrun --nproc_per_node=4 train_partseg.py --from_scratch
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 train_partseg.py --from_scratch
              (the same line on both nodes, HOST being one of them)
  evaluate    python train_partseg.py --eval --model_path best_model.pth \\
                  --save_predictions predictions
"""

import argparse
from typing import Any

from utils.run import cli, flags

PUBLISHED = {"num_points": 2048, "k": 40}
SHOWN = 3  # shapes of a category that --save_predictions writes


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of part segmentation."""
    parser = cli.Parser(__doc__)
    name = "partseg; with --eval eval_shapenetpart_<run and file of the weights>"
    flags.add_run_flags(parser, name, resumable=True)
    flags.add_model_flags(
        parser,
        ("dgcnn_seg",),
        PUBLISHED,
        of_weights=("emb_dims", "k", "num_points"),
        aliases={"dgcnn": "dgcnn_seg"},
    )
    training = flags.add_training_flags(
        parser, batch_size=32, epochs=300, weight_decay=1e-4, optimizer="sgd"
    )
    text = "cos: cosine to 1e-3; step: halved every 20 epochs, not below 1e-5"
    training.add_argument(
        "--scheduler", choices=("cos", "step"), default="cos", help=text
    )
    group = flags.add_downstream_flags(parser)
    only, same = "shapenetpart", "the only data set; accepted for compatibility"
    group.add_argument("--dataset", choices=(only,), default=only, help=same)
    group.add_argument(
        "--class_choice",
        type=lambda name: "motorbike" if name == "motor" else name,  # earlier code
        metavar="NAME",
        help="only shapes of this category, such as chair (default: all)",
    )
    group.add_argument(
        "--save_predictions",
        default="",
        metavar="DIR",
        help=f"write the first {SHOWN} test shapes of each category into this empty or "
        "new folder: PLY files coloured by part, predicted and true, and a contact "
        "sheet; after training with the best weights",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.sampler import GlobalBatchSampler
from datasets.shapenet_part import NUM_PARTS, ShapeNetPart
from datasets.transforms import shuffle_points
from models.dropout import set_dropout_step
from models.edgeconv import chosen_form
from models.losses import smoothed_cross_entropy
from models.partseg import NUM_CATEGORIES, DGCNNPartSeg
from utils.drawing.clouds import check_empty, save_part_examples
from utils.judging.metrics import part_figures, shape_iou
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.run.bookkeeping import Run, parameters, shown
from utils.run.checkpoint import load_pretrained, run_name
from utils.run.logger import evaluation_logger
from utils.run.network import settle, write_network
from utils.run.run_folder import BEST, is_resumed
from utils.run.training import (
    DEFAULT_LR,
    Precision,
    TimedLoader,
    build_optimizer,
    data_loader,
    evaluation_batches,
    scheduled,
    to_device,
)


def main(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data, build the model, train or evaluate it, write the run folder."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]
    name = "partseg"
    if args.eval:
        name = f"eval_{args.dataset}_{run_name(args.model_path)}"
    args.exp_name = args.exp_name or name
    device, precision = process.device, Precision(args.precision, process.device)
    resumed = not args.eval and is_resumed(args.exp_name, args.resume)

    # Errors in flags and files surface here, before anything is written.
    with distributed.fail_together():
        flags.check_fine_tuning(args, resumed)
        network = settle(args, PUBLISHED, resumed)
        form, reason = chosen_form(args.edgeconv, device)
        if args.save_predictions:
            check_empty(args.save_predictions, "--save_predictions")
        data = {"num_points": args.num_points, "class_choice": args.class_choice}
        test = ShapeNetPart(args.data_root, "test", shard=process.shard, **data)
        if not args.eval:
            train = ShapeNetPart(
                args.data_root,
                "trainval",
                transform=shuffle_points,
                seed=args.seed,
                **data,
            )
            sampler = GlobalBatchSampler(
                len(train), args.batch_size, *process.shard, args.seed, last="fill"
            )
        torch.manual_seed(args.seed)
        model = DGCNNPartSeg(
            k=args.k,
            emb_dims=args.emb_dims,
            num_parts=NUM_PARTS,
            dropout=args.dropout,
            edgeconv=args.edgeconv,
        )
        model.to(precision.dtype)  # first: loading rounds float64 weights otherwise
        report, start = None, args.model_path or f"random weights (seed {args.seed})"
        if args.model_path and not resumed:
            report = load_pretrained(model, args.model_path)
            if args.eval and report.initialised:
                raise ValueError(f"--eval needs fine-tuned weights: {report}")

    model.to(device)
    if args.eval:
        shapes = f"{test.total} test shapes in {args.data_root}"
        introduction = {
            "data": f"{shapes}, {args.num_points} points",
            "weights": str(report),
            "network": network.origin,
        }
        with evaluation_logger(args, introduction) as logger:
            values, predicted = evaluate(model, test, precision, args)
            source = {"model_path": args.model_path}
            logger.record({**source, "test_size": test.total, **values})
            by_category = values.pop("category_iou")
            logger.info(f"{shown(values)}\nIoU by category: {shown(by_category)}")
            if args.save_predictions:
                save_part_examples(args.save_predictions, test, predicted, SHOWN)
                logger.info(f"predictions in {args.save_predictions}")
        return
    synchronise_batchnorm(model)
    parallel = distributed.data_parallel(model, device)
    optimizer = build_optimizer(parallel.parameters(), args)
    loader = data_loader(train, sampler, args.num_workers, device)

    run = Run(
        args,
        process,
        resumed,
        defaults=get_args_parser().parse_args([]),
        inputs=[args.model_path],
        weights={BEST.name: model},
        parts={"model": model, "optimizer": optimizer, "precision": precision.scaler},
    )
    write_network(run.folder / "models", args, "parts", NUM_PARTS, test.class_names)
    with run:
        run.introduce(
            {
                "model": f"{args.model} {parameters(model)} parameters, k {args.k}",
                "network": network.origin,
                "edgeconv": f"{form}: {reason}",
                "start": "its checkpoint" if resumed else start,
                "data": f"{len(train)} training and {test.total} test shapes in "
                f"{args.data_root} ({args.class_choice or 'all categories'}), "
                f"{args.num_points} points",
                "best": f"{BEST} is chosen by instance mIoU on the test split",
            },
            steps=len(sampler),
        )
        if report is not None:
            run.logger.info(str(report))
        for epoch in range(run.epoch, args.epochs):
            values = train_one_epoch(parallel, loader, optimizer, precision, run)
            figures, _ = evaluate(model, test, precision, args)
            by_category = figures.pop("category_iou")
            is_best = run.improves(figures["test_miou"])
            values |= figures | {"best_test_miou": run.state.best}
            run.end_epoch(values, is_best)
            if is_best:
                run.logger.info(f"best so far; IoU by category: {shown(by_category)}")
            if epoch + 1 == args.epochs:
                run.logger.info(f"last epoch: test_miou {figures['test_miou']:.4f}")
        run.logger.info(
            f"best epoch: test_miou {run.state.best:.4f}, chosen on the test split; "
            f"weights in {run.folder / BEST}"
        )
        if args.save_predictions:
            distributed.barrier()  # rank 0 has written the weights
            load_pretrained(model, run.folder / BEST)
            _, predicted = evaluate(model, test, precision, args)
            save_part_examples(args.save_predictions, test, predicted, SHOWN)
            run.logger.info(f"predictions in {args.save_predictions}")


def train_one_epoch(
    model: nn.Module,
    loader: TimedLoader,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    run: Run,
) -> dict[str, float]:
    """One pass over the shapes left of the epoch.

    Returns:
        The epoch's mean loss, mIoU and accuracy as predicted while training.
    """
    args, device, dtype = run.args, run.process.device, precision.dtype
    model.train()
    run.start_epoch(loader, scheduled(args.scheduler, args.lr, run.epoch, args.epochs))
    for points, category, target in loader:  # (b, 3, N), (b,), (b, N)
        points, category, target = to_device((points, category, target), device, dtype)
        set_dropout_step(model, args.seed, run.state.step)
        with precision.autocast():
            logits = model(points, F.one_hot(category, NUM_CATEGORIES))  # (b, 50, N)
            loss = part_loss(logits, target)
        optimizer.zero_grad(set_to_none=True)
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()
        predicted = logits.detach().argmax(dim=1)  # (b, N)
        iou = shape_iou(predicted, target, category).mean()
        accuracy = (predicted == target).double().mean()
        run.step(loss=loss, epoch_means=(iou, accuracy))
    return run.means_and_sums("train_loss", "train_miou", "train_accuracy")[0]


def part_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Smoothed cross-entropy of logits (B, 50, N) and parts (B, N), a mean."""
    rows = logits.transpose(1, 2).reshape(-1, NUM_PARTS)
    return smoothed_cross_entropy(rows, target.reshape(-1))


@torch.no_grad()
def evaluate(
    model: DGCNNPartSeg,
    test: ShapeNetPart,
    precision: Precision,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of the test split, every shape once, without autocast.

    Each rank predicts its own share; values of single shapes are gathered and counts of
    points added, so that the figures do not depend on the number of ranks.

    Returns:
        The figures, ``category_iou`` being a dict; this rank's predicted parts (m, N).
    """
    model.eval()
    device = next(model.parameters()).device
    losses, predicted = [np.empty(0)], [np.empty((0, args.num_points), np.int64)]
    for rows in evaluation_batches(len(test), args.test_batch_size, unit="shape"):
        points, category, target = (
            torch.from_numpy(x[rows]).to(device)
            for x in (test.points, test.labels, test.parts)
        )
        points = points.transpose(1, 2).to(precision.dtype)
        logits = model(points, F.one_hot(category, NUM_CATEGORIES))
        shapes = zip(logits.split(1), target.split(1), strict=True)
        loss = torch.stack([part_loss(*shape) for shape in shapes])
        losses.append(loss.double().cpu().numpy())
        predicted.append(logits.argmax(dim=1).cpu().numpy())
    parts = np.concatenate(predicted)
    values, by_category = part_figures(parts, test.parts, test.labels, test.class_names)
    mean_loss = distributed.gather_array(np.concatenate(losses)).mean()
    figures = {"test_loss": float(mean_loss), **values, "category_iou": by_category}
    return figures, parts


if __name__ == "__main__":
    cli.run(lambda: distributed.run(main, ARGS), ARGS.debug)
