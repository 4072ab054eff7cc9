"""Fine-tune an encoder for classification, from pre-trained weights or from scratch.

Every epoch is evaluated on the complete test split: each rank predicts its own share
and the logits are gathered, so the figures do not depend on the number of processes.

  one CPU     python finetune_cls.py --dataset scanobjectnn --batch_size 32 \\
                  --model_path checkpoints/crosspoint_cls/models/best_model.pth
  one GPU     torchrun --nproc_per_node=1 finetune_cls.py --model_path best_model.pth
  a node      torchrun --nproc_per_node=4 finetune_cls.py --from_scratch
  two nodes   torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d \\
                  --rdzv_endpoint=HOST:29500 finetune_cls.py --from_scratch
              (the same line on both nodes, HOST being one of them)
  evaluate    python finetune_cls.py --eval \\
                  --model_path checkpoints/finetune_modelnet40/models/best_model.pth
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial

from datasets import CLASSIFICATION, SCANOBJECTNN_VARIANTS
from models import CLASSIFIERS
from utils.run import cli, flags

PUBLISHED = {"num_points": 1024, "k": 20}


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of fine-tuning for classification."""
    parser = cli.Parser(__doc__)
    weights = "<run and file of the weights>"
    name = f"finetune_<data set>; with --eval eval_<data set>_{weights}"
    flags.add_run_flags(parser, name, resumable=True)
    flags.add_model_flags(parser, CLASSIFIERS, PUBLISHED, of_weights=flags.OF_WEIGHTS)
    flags.add_training_flags(parser, batch_size=600, epochs=300, weight_decay=1e-6)
    group = flags.add_downstream_flags(parser)
    flags.add_dataset_flags(group, CLASSIFICATION, SCANOBJECTNN_VARIANTS)
    group.add_argument(
        "--freeze_encoder",
        action="store_true",
        help="a linear probe: train one linear layer on the features of the frozen "
        "encoder (eval mode; its weights and running statistics do not change)",
    )
    group.add_argument(
        "--label_fraction",
        type=flags.positive_float,
        default=1.0,
        help="share of each class's training clouds to train on, in (0, 1], at least "
        "one cloud per class, chosen by --seed (default: 1)",
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
from datasets.labelled import LabelledClouds, labelled_share
from datasets.sampler import GlobalBatchSampler, shard_range
from models import trained_network
from models.dropout import set_dropout_step
from models.edgeconv import chosen_form
from utils.drawing.wandb_images import show_confusion
from utils.judging.features import FeatureSet, extract_features
from utils.judging.metrics import accuracies, confusion_counts, confusion_matrix
from utils.parallel import distributed
from utils.parallel.batchnorm import synchronise_batchnorm
from utils.run.bookkeeping import Run, parameters, shown
from utils.run.checkpoint import LoadReport, load_pretrained, run_name
from utils.run.logger import evaluation_logger
from utils.run.network import settle, write_network
from utils.run.run_folder import BEST, is_resumed
from utils.run.training import (
    DEFAULT_LR,
    Precision,
    TimedLoader,
    build_optimizer,
    cosine,
    data_loader,
    evaluation_batches,
    to_device,
)

Samples = LabelledClouds | FeatureSet


def main(args: argparse.Namespace, process: distributed.Process) -> None:
    """Read the data, build the model, train or evaluate it, write the run folder."""
    args.lr = args.lr or DEFAULT_LR[args.optimizer]
    name = f"finetune_{args.dataset}"
    if args.eval:
        name = f"eval_{args.dataset}_{run_name(args.model_path)}"
    args.exp_name = args.exp_name or name
    device, precision = process.device, Precision(args.precision, process.device)
    resumed = not args.eval and is_resumed(args.exp_name, args.resume)

    # Errors in flags and files surface here, before anything is written.
    with distributed.fail_together():
        check_flags(args, resumed)
        network = settle(args, PUBLISHED, resumed)
        form, reason = chosen_form(args.edgeconv, device)
        read = partial(
            labelled_clouds,
            args.dataset,
            args.data_root,
            num_points=args.num_points,
            variant=args.variant,
        )
        test = read("test", shard=process.shard)
        if not args.eval:
            train = read("train")
            rows = labelled_share(train.labels, args.label_fraction, args.seed)
            train.points, train.labels = train.points[rows], train.labels[rows]
            sampler = GlobalBatchSampler(
                len(train), args.batch_size, *process.shard, args.seed, last="fill"
            )
        torch.manual_seed(args.seed)
        head = "linear" if args.freeze_encoder else "classifier"
        model = trained_network(
            args.model,
            args.k,
            args.emb_dims,
            head,
            outputs=test.num_classes,
            edgeconv=args.edgeconv,
            dropout=args.dropout,
        )
        model.to(precision.dtype)  # first: loading rounds float64 weights otherwise
        report, start = None, args.model_path or f"random weights (seed {args.seed})"
        if args.model_path and not resumed:
            report = load_pretrained(model, args.model_path)
            check_weights(args, report, network.class_names, test.class_names)

    model.to(device)
    if args.eval:
        clouds = f"{args.dataset}, {test.total} test clouds"
        introduction = {
            "data": f"{clouds}, {args.num_points} points",
            "weights": str(report),
            "network": network.origin,
        }
        with evaluation_logger(args, introduction) as logger:
            values, _ = evaluate(model, test, precision, args)
            source = {"dataset": args.dataset, "model_path": args.model_path}
            logger.record({**source, "test_size": test.total, **values})
            logger.info(shown(values))
        return
    trained = model.get_submodule("linear") if args.freeze_encoder else model
    model.requires_grad_(False)
    trained.requires_grad_(True)
    synchronise_batchnorm(trained)
    parallel = distributed.data_parallel(trained, device)
    optimizer = build_optimizer(parallel.parameters(), args)

    run = Run(
        args,
        process,
        resumed,
        defaults=get_args_parser().parse_args([]),
        inputs=[args.model_path],
        weights={BEST.name: model},
        parts={"model": model, "optimizer": optimizer, "precision": precision.scaler},
    )
    write_network(run.folder / "models", args, head, test.num_classes, test.class_names)
    with run:
        samples: tuple[Samples, Samples] = (train, test)
        if args.freeze_encoder:  # its features do not change: compute them once
            samples = encode(model, train, test, args.test_batch_size, process.shard)
        loader = data_loader(samples[0], sampler, args.num_workers, device)
        run.introduce(
            {
                "model": f"{args.model} {parameters(model)} parameters, "
                f"{parameters(trained)} trained",
                "network": network.origin,
                "edgeconv": f"{form}: {reason}",
                "start": "its checkpoint" if resumed else start,
                "data": f"{args.dataset}, {len(train)} of {train.total} training and "
                f"{test.total} test clouds, {test.num_classes} classes, "
                f"{args.num_points} points",
                "best": f"{BEST} is chosen by the accuracy on the test split",
            },
            steps=len(sampler),
        )
        if report is not None:
            run.logger.info(str(report))
        last = ""
        for epoch in range(run.epoch, args.epochs):
            values = train_one_epoch(parallel, loader, optimizer, precision, run)
            figures, matrix = evaluate(trained, samples[1], precision, args)
            is_best = run.improves(figures["test_accuracy"])
            values |= figures | {"best_test_accuracy": run.state.best}
            run.end_epoch(values, is_best)
            with_images = run.logs_images(epoch)
            show_confusion(run.logger, epoch, with_images, matrix, test.class_names)
            last = f"last epoch: test accuracy {figures['test_accuracy']:.2%}; "
        run.logger.info(f"{last}best, chosen on the test split: {run.state.best:.2%}")
        run.logger.info(f"done; weights in {run.folder / BEST}")


def train_one_epoch(
    model: nn.Module,
    loader: TimedLoader,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    run: Run,
) -> dict[str, float]:
    """One pass over the clouds left of the epoch.

    Returns:
        The epoch's mean loss, and accuracies as predicted while training.
    """
    args, device, dtype = run.args, run.process.device, precision.dtype
    model.train()
    run.start_epoch(loader, cosine(args.lr, run.epoch, args.epochs))
    for points, labels in loader:  # (b, 3, N), (b,)
        points, labels = to_device((points, labels), device, dtype)
        set_dropout_step(model, args.seed, run.state.step)
        with precision.autocast():
            logits = model(points)  # (b, classes)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()
        run.step(loss=loss, sums=confusion_counts(labels, logits))
    means, counts = run.means_and_sums("train_loss")
    matrix = np.reshape(counts, (math.isqrt(len(counts)), -1))
    return {**means, **accuracies("train", matrix)}


@torch.no_grad()
def evaluate(
    model: nn.Module, samples: Samples, precision: Precision, args: argparse.Namespace
) -> tuple[dict[str, float], np.ndarray]:
    """Loss, accuracies and confusion matrix of the test split, every cloud once.

    Each rank predicts its own share, in eval mode and without autocast; the logits are
    gathered in the order of the data set, whatever the world size.
    """
    model.eval()
    device = next(model.parameters()).device
    local_logits = [torch.empty(0, samples.num_classes, device=device)]
    for rows in evaluation_batches(len(samples), args.test_batch_size):
        inputs = torch.stack([samples[i][0] for i in range(rows.start, rows.stop)])
        local_logits.append(model(inputs.to(device, precision.dtype)))
    logits = distributed.gather_array(torch.cat(local_logits).double().cpu().numpy())
    labels = distributed.gather_array(samples.labels)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    matrix = confusion_matrix(labels, logits.argmax(axis=1), samples.num_classes)
    return {"test_loss": loss, **accuracies("test", matrix)}, matrix


def check_flags(args: argparse.Namespace, resumed: bool) -> None:
    """Raise a ValueError for flags that contradict each other."""
    flags.check_fine_tuning(args, resumed)
    if args.label_fraction > 1:
        raise ValueError(f"--label_fraction {args.label_fraction:g} is more than 1")
    if args.eval and args.label_fraction < 1:
        raise ValueError("--eval takes the whole test split: no --label_fraction")


def check_weights(
    args: argparse.Namespace,
    report: LoadReport,
    trained_classes: Sequence[str] | None,
    names: Sequence[str],
) -> None:
    """Refuse weight files that leave required layers randomly initialised.

    For --eval their classes, ``trained_classes`` if known, must be the data set's,
    ``names``.
    """
    if args.eval and report.initialised:
        raise ValueError(
            "--eval needs the weights of a complete classifier; add --freeze_encoder "
            f"if they are a linear probe's. {report}"
        )
    missing = [n for n in report.initialised if n.split(".")[0] != "linear"]
    if args.freeze_encoder and missing:
        raise ValueError(
            f"--freeze_encoder would train on random layers, such as {missing[0]}: "
            f"{args.model_path} has no such entry"
        )

    if args.eval and trained_classes is not None and trained_classes != tuple(names):
        raise ValueError(
            f"{args.model_path} was trained on classes {', '.join(trained_classes)}; "
            f"--dataset {args.dataset} in {args.data_root} has {', '.join(names)}: use "
            "the data set it was trained on"
        )


def encode(
    model: nn.Module,
    train: LabelledClouds,
    test: LabelledClouds,
    batch_size: int,
    shard: tuple[int, int],
) -> tuple[FeatureSet, FeatureSet]:
    """Features of all training clouds and of this rank's test clouds."""
    local = shard_range(len(train), *shard)
    points = train.points[local.start : local.stop]
    features = extract_features(model, points, batch_size, "training features")
    # `test` is this rank's share already; each rank keeps the features of its own rows.
    all_test = extract_features(model, test.points, batch_size, "test features")
    local_test = all_test[test.start : test.start + len(test)]
    return (
        FeatureSet(features, train.labels, train.num_classes),
        FeatureSet(local_test, test.labels, test.num_classes),
    )


if __name__ == "__main__":
    cli.run(lambda: distributed.run(main, ARGS), ARGS.debug)
