"""Fine-tune DGCNN for classification, from pre-trained weights or from scratch.

Every epoch is judged on the whole test split: each rank predicts its own share, and
exact counts are added. The number of processes changes the time, nothing else.

  one CPU     python finetune_cls.py --dataset scanobjectnn --batch_size 32 \\
                  --model_path checkpoints/crosspoint_cls/models/best_model.pth
  one GPU     torchrun --nproc_per_node=1 finetune_cls.py --model_path best_model.pth
  a node      torchrun --nproc_per_node=4 finetune_cls.py --from_scratch
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 finetune_cls.py --from_scratch
              (the same line on both nodes, HOST being one of them)
  judge only  python finetune_cls.py --eval \\
                  --model_path checkpoints/finetune_modelnet40/models/best_model.pth
"""

from __future__ import annotations

import argparse
import math
from typing import cast

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from utils.run import cli, flags


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of fine-tuning for classification."""
    parser = cli.Parser(__doc__)
    flags.add_run_flags(
        parser,
        exp_name="",
        resumable=True,
        naming="finetune_<data set>; with --eval "
        "eval_<data set>_<run and file of the weights>",
    )
    flags.add_model_flags(parser, num_points=1024, k=20, models=("dgcnn",))
    flags.add_training_flags(parser, batch_size=600, epochs=300, weight_decay=1e-6)
    group = flags.add_downstream_flags(parser)
    flags.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS)
    group.add_argument(
        "--freeze_encoder",
        action="store_true",
        help="a linear probe: one linear layer on the features of the encoder, which "
        "is in eval mode and keeps its weights and running statistics",
    )
    group.add_argument(
        "--label_fraction",
        type=flags.positive_float,
        default=1.0,
        help="share of every class's training clouds to train on, in (0, 1], at least "
        "one cloud a class, chosen by --seed (default: 1)",
    )
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets import labelled_clouds
from datasets.files import DataError
from datasets.labelled import LabelledClouds
from datasets.sampler import GlobalBatchSampler, labelled_share
from models.dgcnn import DGCNN
from models.dropout import set_dropout_step
from models.edgeconv import chosen_form
from utils.drawing.wandb_images import show_confusion
from utils.judging.metrics import confusion_matrix, mean_class_accuracy
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
    cosine,
    data_loader,
    finish_epoch,
    is_resumed,
    open_training,
    shown,
)


def main(args: argparse.Namespace) -> None:
    process = distributed.start(args.dist_timeout)
    finetune(args, process)
    distributed.stop()


def finetune(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data, build the model, train or judge it, leave a run folder behind."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]
    args.exp_name = args.exp_name or default_name(args)
    resumed = not args.eval and is_resumed(args)
    precision = Precision(args.precision, process.device)
    train, test, sampler, model, report = distributed.run_everywhere(
        lambda: prepare(args, process, precision, resumed),
        DataError,
        checkpoint.CheckpointError,
        ValueError,
    )
    model.to(process.device)
    if args.eval:
        folder = open_run_folder(args.exp_name, args.overwrite, None, [args.model_path])
        with RunLogger(folder, vars(args)) as logger:
            judge(model, test, precision, report, args, logger)
        return
    loader = data_loader(train, sampler, args, process.device)
    synchronise_batchnorm(model, process.device)
    parallel = distributed.data_parallel(model, process.device)
    trained = [p for p in parallel.parameters() if p.requires_grad]
    optimizer = build_optimizer(trained, args)
    parts = {"model": model, "optimizer": optimizer, "precision": precision}
    folder, state, save = open_training(args, resumed, [args.model_path], **parts)

    done_before = (state.epoch, state.step) if resumed else None
    with listening(), RunLogger(folder, vars(args), done_before) as logger:
        logger.introduce(description(args, process, model, train, test, len(sampler)))
        if report is not None:
            logger.info(str(report))
        if resumed:
            logger.info(f"going on from its checkpoint at step {state.step}")
        last = ""
        run = Training(
            args, parallel, loader, optimizer, precision, state, logger, save
        )
        while state.epoch < args.epochs:
            values = train_one_epoch(run)
            figures, matrix = evaluate(model, test, precision, args)
            judge_epoch(run, values | figures, model)
            save()
            due = state.epoch % args.save_freq == 0 or state.epoch == args.epochs
            show_confusion(logger, state.epoch - 1, due, matrix, test.class_names)
            last = f"last epoch: test accuracy {figures['test_accuracy']:.2%}; "
        logger.info(f"{last}best, chosen on the test split: {state.best:.2%}")
        logger.info(f"done; weights in {folder / BEST}")


def default_name(args: argparse.Namespace) -> str:
    """A run folder's name; for ``--eval`` it says what was judged on what."""
    if args.eval:
        return f"eval_{args.dataset}_{checkpoint.run_name(args.model_path)}"
    return f"finetune_{args.dataset}"


def prepare(
    args: argparse.Namespace,
    process: distributed.Process,
    precision: Precision,
    resumed: bool,
) -> tuple[
    LabelledClouds | None,
    LabelledClouds,
    GlobalBatchSampler | None,
    DGCNN,
    LoadReport | None,
]:
    """Everything that can be wrong with flags and files, before anything is written.

    The training split is whole on every rank and absent for ``--eval``; the test
    split is this rank's share.
    """
    flags.check_fine_tuning(args)
    chosen_form(args.edgeconv, process.device)
    if args.label_fraction > 1:
        raise ValueError(f"--label_fraction {args.label_fraction:g} is more than 1")
    if args.eval and args.label_fraction < 1:
        raise ValueError("--eval takes the whole test split: no --label_fraction")
    shard = (process.rank, process.world_size)
    place, points = (args.dataset, args.data_root), args.num_points
    test = labelled_clouds(*place, "test", points, shard, args.variant)
    if test.total == 0:
        raise ValueError(f"{args.dataset}'s test split is empty")
    train = sampler = report = None
    if not args.eval:
        train = labelled_clouds(*place, "train", points, variant=args.variant)
        kept = labelled_share(train.labels, args.label_fraction, args.seed)
        train.points, train.labels = train.points[kept], train.labels[kept]
        sampler = GlobalBatchSampler(
            len(train), args.batch_size, *shard, args.seed, last="fill"
        )
    seed_torch(args.seed)
    model = DGCNN(
        k=args.k,
        emb_dims=args.emb_dims,
        num_classes=test.num_classes,
        dropout=args.dropout,
        edgeconv=args.edgeconv,
        linear_head=args.freeze_encoder,
    )
    model.to(precision.dtype)  # before the weights, which may be float64 ones
    if args.model_path and not resumed:
        report = checkpoint.load_pretrained(model, args.model_path)
        if args.eval and report.initialised:
            raise ValueError(
                "--eval needs the weights of a whole classifier, and --freeze_encoder "
                f"for a linear probe's. {report}"
            )
        missing = [n for n in report.initialised if n.split(".")[0] != "linear"]
        if args.freeze_encoder and missing:
            raise ValueError(
                f"--freeze_encoder would judge random layers, such as {missing[0]}: "
                f"{args.model_path} has no such entry"
            )
    if args.freeze_encoder:
        for layer in encoder_layers(model):
            layer.requires_grad_(False)
    return train, test, sampler, model, report


def encoder_layers(model: DGCNN) -> list[nn.Module]:
    """The parts of the network before the pooled feature; all others are the head."""
    return [model.conv1, model.conv2, model.conv3, model.conv4, model.conv5]


def train_one_epoch(run: Training) -> dict[str, float]:
    """One pass over the training clouds, or what is left of it after a resume.

    Returns:
        The epoch's mean loss, and the accuracies over the samples of its batches as
        they were predicted while training.

    Raises:
        DivergenceError: see :meth:`Epoch.finish_step`.
    """
    model, precision, args = run.model, run.precision, run.args
    model.train()
    if args.freeze_encoder:
        for layer in encoder_layers(cast(DGCNN, distributed.unwrap(model))):
            layer.eval()
    classes = cast(LabelledClouds, run.loader.dataset).num_classes
    world = distributed.world_size()
    # Beside the loss: the cells of the confusion matrix.
    rate = cosine(args.lr, run.state.epoch, args.epochs)
    epoch = Epoch(run, ["loss"], rate, others=classes**2)
    for points, labels in epoch:  # (b, 3, N), (b,)
        set_dropout_step(model, args.seed, run.state.step)
        with precision.autocast():
            logits = model(points)  # (b, classes)
            loss = F.cross_entropy(logits, labels)
        run.optimizer.zero_grad(set_to_none=True)
        precision.backward_and_step(loss, run.optimizer)
        cells = labels * classes + logits.argmax(dim=1)
        ones = torch.ones_like(cells, dtype=torch.float64)
        matrix = ones.new_zeros(classes**2).index_add_(0, cells, ones)
        # Each rank has the mean over its own samples; their mean is the global loss.
        epoch.finish_step(torch.cat([loss.detach().double()[None] / world, matrix]))
    total, *counts = epoch.sums
    confusion = np.reshape(counts, (classes, classes))
    return {"train_loss": total / epoch.steps, **accuracies("train", confusion)}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    clouds: LabelledClouds,
    precision: Precision,
    args: argparse.Namespace,
) -> tuple[dict[str, float], np.ndarray]:
    """Loss, accuracies and confusion matrix of the test split, every cloud once.

    Each rank predicts its own clouds, in eval mode and without autocast; the logits
    are gathered in the order of the data set, whatever the world size.
    """
    model.eval()
    batch = max(1, args.test_batch_size // distributed.world_size())
    own = [torch.empty(0, clouds.num_classes, device=precision.device)]
    bar = progress(total=len(clouds), desc="test", unit="cloud")
    for first in range(0, len(clouds), batch):
        points = torch.from_numpy(clouds.points[first : first + batch]).transpose(1, 2)
        own.append(model(points.to(precision.device, precision.dtype)))
        bar.update(len(points))
    bar.close()
    logits = distributed.gather_array(torch.cat(own).double().cpu().numpy())
    labels = distributed.gather_array(clouds.labels)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    matrix = confusion_matrix(labels, logits.argmax(axis=1), clouds.num_classes)
    return {"test_loss": loss, **accuracies("test", matrix)}, matrix


def accuracies(split: str, matrix: np.ndarray) -> dict[str, float]:
    """Overall and balanced accuracy of a confusion matrix, named after the split."""
    return {
        f"{split}_accuracy": float(np.trace(matrix) / matrix.sum()),
        f"{split}_class_accuracy": mean_class_accuracy(matrix),
    }


def judge_epoch(run: Training, values: dict[str, float], model: DGCNN) -> None:
    """Keep the weights if they are the best so far, and write the epoch's record."""
    state = run.state
    if not math.isfinite(values["test_loss"]):
        raise DivergenceError(state.step - 1, "the test loss", run.args)
    is_best = values["test_accuracy"] > state.best
    state.best = max(values["test_accuracy"], state.best)
    values = {**values, "best_test_accuracy": state.best}
    finish_epoch(run, values, {BEST.name: model} if is_best else {}, model)


def judge(
    model: DGCNN,
    test: LabelledClouds,
    precision: Precision,
    report: LoadReport,
    args: argparse.Namespace,
    logger: RunLogger,
) -> None:
    """``--eval``: the test metrics of the loaded weights."""
    where = f"{args.dataset}, {test.total} test clouds, {args.num_points} points"
    logger.introduce({"data": where, "weights": str(report)})
    values, _ = evaluate(model, test, precision, args)
    source = {"dataset": args.dataset, "model_path": args.model_path}
    logger.record({**source, "test_size": test.total, **values})
    logger.info(shown(values))


def description(
    args: argparse.Namespace,
    process: distributed.Process,
    model: DGCNN,
    train: LabelledClouds,
    test: LabelledClouds,
    steps: int,
) -> dict[str, str]:
    """What the log says before the first step."""
    parameters, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or frozen) / 1e6
        for frozen in (True, False)
    )
    return {
        "model": f"{args.model} {parameters:.2f} M parameters, {trained:.2f} M trained",
        "edgeconv": "{}: {}".format(*chosen_form(args.edgeconv, process.device)),
        "start": args.model_path or f"random weights (seed {args.seed})",
        "data": f"{args.dataset}, {len(train)} of {train.total} training and "
        f"{test.total} test clouds, {train.num_classes} classes, "
        f"{args.num_points} points",
        **run_rows(args, process, steps),
        "best": "models/best_model.pth is chosen by the accuracy on the test split",
    }


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), DataError, checkpoint.CheckpointError, DivergenceError)
