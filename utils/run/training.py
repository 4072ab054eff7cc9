"""What the training scripts share around their step: the loop itself stays theirs.

Precision, optimiser, learning rate, the loader, starting or resuming a run, and the
bookkeeping of an epoch: progress, records, divergence, checkpoints.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.parallel import distributed
from utils.run import checkpoint, interrupts
from utils.run.checkpoint import Progress
from utils.run.logger import RunLogger, ThroughputMeter, progress
from utils.run.run_folder import continues, open_run_folder, run_folder

LAST = Path("models", "checkpoint_last.pth")
BEST = Path("models", "best_model.pth")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_LR = {"adam": 1e-3, "sgd": 0.1}


class DivergenceError(Exception):
    """A loss or a weight is no longer a finite number."""

    def __init__(self, step: int, what: str, args: argparse.Namespace) -> None:
        super().__init__(
            f"{what} is not finite at step {step}, or was so since the last check "
            f"(every {args.print_freq} steps). Nothing was written since. Look at "
            f"metrics.jsonl, then try a lower --lr (now {args.lr:g})"
            + ("" if args.precision in ("fp32", "fp64") else " or --precision fp32")
        )


def all_finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every number of the parameters is finite."""
    return bool(torch.stack([p.detach().isfinite().all() for p in parameters]).all())


class Precision:
    """``--precision``: the dtype of parameters, autocast, and fp16's loss scaling.

    Args:
        name: ``fp32``, ``fp64``, ``bf16`` or ``fp16``; the last two keep float32
            parameters and use autocast.
        device: where the model is.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self._autocast = _AUTOCAST.get(name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context in which the model and the loss are computed."""
        return torch.autocast(
            self.device.type, dtype=self._autocast, enabled=self._autocast is not None
        )

    def backward_and_step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Gradients and one update; fp16 scales the loss and skips overflown steps."""
        self._scaler.scale(loss).backward()
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)


def build_optimizer(
    parameters: Iterable[nn.Parameter], args: argparse.Namespace
) -> torch.optim.Optimizer:
    """Adam or SGD with ``args.lr``, ``args.weight_decay`` and ``args.momentum``.

    The update of all numbers is one pass over memory (``fused``). A state that is
    loaded is laid out in memory as its parameter is.
    """
    common = {"weight_decay": args.weight_decay, "fused": True}
    made: torch.optim.Optimizer
    if args.optimizer == "sgd":
        made = torch.optim.SGD(parameters, args.lr, momentum=args.momentum, **common)
    else:
        made = torch.optim.Adam(parameters, args.lr, **common)
    made.register_load_state_dict_post_hook(_lay_out_as_parameters)
    return made


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    # The fused kernels pair numbers by their place in memory, not by their index:
    # with a state from a run of another memory format they would be silently wrong.
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def cosine(start: float, epoch: int, epochs: int, end: float = 0.0) -> float:
    """The learning rate of an epoch: half a cosine from ``start`` towards ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def scheduled(scheduler: str, start: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch by ``--scheduler`` of part segmentation.

    ``cos`` goes to 1e-3 by half a cosine, ``step`` halves every 20 epochs but not below
    1e-5. Neither rises: a start below its end stays where it is.
    """
    if scheduler == "cos":
        return cosine(start, epoch, epochs, min(start, 1e-3))
    if scheduler == "step":
        return max(start * 0.5 ** (epoch // 20), min(start, 1e-5))
    raise ValueError(f"--scheduler is cos or step, got {scheduler!r}")


def data_loader(
    dataset: Dataset,
    sampler: Sampler,
    args: argparse.Namespace,
    device: torch.device,
) -> DataLoader:
    """This rank's batches by ``--num_workers`` processes, pinned for a GPU."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=args.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=interrupts.leave_to_parent,
        persistent_workers=args.num_workers > 0,
    )


def is_resumed(args: argparse.Namespace) -> bool:
    """Whether there is a checkpoint to go on from, and it is wanted: one answer for
    all ranks, or they would part here."""
    return distributed.run_on_main(
        lambda: continues(args.resume) and (run_folder(args.exp_name) / LAST).is_file()
    )


def open_training(
    args: argparse.Namespace, resumed: bool, inputs: Sequence[str], **parts: Any
) -> tuple[Path, Progress, Callable[[], None]]:
    """The run folder, where the run stands, and what writes its checkpoint.

    Args:
        args: of the script.
        resumed: :func:`is_resumed`; then ``parts`` are restored.
        inputs: files that the run reads; empty names are passed over.
        parts: model, optimizer, ...: whatever has a ``state_dict``.

    Raises:
        UsageError: if the folder holds another run, or a checkpoint that is damaged or
            of other arguments, or if the disk has no room for its checkpoints.
    """
    existing = [path for path in inputs if path]
    needed = _bytes_of_checkpoints(**parts)
    folder = open_run_folder(
        args.exp_name, args.overwrite, args.resume, existing, needed
    )
    state = Progress()
    if resumed:
        state = distributed.run_everywhere(
            lambda: checkpoint.load_training_state(folder / LAST, vars(args), **parts),
            checkpoint.CheckpointError,
        )

    def save() -> None:
        checkpoint.save_training_state(folder / LAST, vars(args), state, **parts)

    return folder, state, save


def _bytes_of_checkpoints(model: nn.Module, **_: Any) -> int:
    weights = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    # Adam keeps two numbers a weight. Two whole files and one being written, and the
    # weights of the best epoch twice.
    return (3 * 3 + 2) * weights


@dataclass
class Training:
    """What the loop of a training script works with.

    ``model`` is wrapped for all ranks; ``save`` writes the training state.
    """

    args: argparse.Namespace
    model: nn.Module
    loader: DataLoader
    optimizer: torch.optim.Optimizer
    precision: Precision
    state: Progress
    logger: RunLogger
    save: Callable[[], None]


def _moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A nested batch on the device, floating-point tensors in the given dtype."""
    if isinstance(batch, Tensor):
        return batch.to(device, dtype if batch.is_floating_point() else None, True)
    moved = [_moved(part, device, dtype) for part in batch]
    return type(batch)(*moved) if hasattr(batch, "_fields") else moved


class Epoch:
    """The bookkeeping around the steps of one epoch, or of what a resume left of it.

        epoch = Epoch(run, ["loss"], rate)
        for points, labels in epoch:                 # this rank's rows, on the device
            ...                                      # loss, backward, update
            epoch.finish_step(torch.stack([loss]) / world_size)
        mean_loss = epoch.sums[0] / epoch.steps

    Args:
        run: what the loop works with.
        names: of the values that a step's record shows, ``loss`` first.
        rate: learning rate of the epoch.
        others: number of further values that are only summed.
    """

    def __init__(
        self, run: Training, names: Sequence[str], rate: float, others: int = 0
    ) -> None:
        self.run, self.names, self.rate = run, names, rate
        args, state = run.args, run.state
        sampler: Any = run.loader.batch_sampler  # a GlobalBatchSampler
        sampler.set_epoch(state.epoch, state.step_in_epoch)
        self.steps = len(sampler)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        # Sums of the epoch so far over all ranks, and of this rank since the last
        # checkpoint: a resumed run then adds the same numbers in the same order.
        before = state.sums or (0.0,) * (len(names) + others)
        device = run.precision.device
        self._total = torch.tensor(before, dtype=torch.float64, device=device)
        self._own = torch.zeros_like(self._total)
        self._meter = ThroughputMeter(args.batch_size, device)
        self._bar = progress(
            total=self.steps,
            initial=state.step_in_epoch,
            desc=f"epoch {state.epoch + 1}/{args.epochs}",
            unit="step",
        )

    def __iter__(self) -> Iterator[list[Any]]:
        """Batches on the device; floating-point tensors in the parameters' dtype."""
        device, dtype = self.run.precision.device, self.run.precision.dtype
        for batch in self._meter.waiting_for(self.run.loader):
            yield _moved(batch, device, dtype)
        self._bar.close()

    @property
    def sums(self) -> tuple[float, ...]:
        """Sums over the steps and ranks, complete after the last step."""
        return self.run.state.sums

    def finish_step(self, values: Tensor) -> None:
        """Count the step: record it, and checkpoint, where that is due.

        A signal to any rank ends the run on all of them, after a checkpoint.

        Args:
            values: what this rank adds to the global batch's values: a mean over the
                own rows divided by the world size, or a count.

        Raises:
            DivergenceError: if a loss is not finite, looked at every ``--print_freq``
                steps and before every checkpoint, or a weight, before every checkpoint.
            Interrupted: if a signal has come.
        """
        state, args, shown = self.run.state, self.run.args, len(self.names)
        values = values.detach().double()
        self._own += values
        if state.step % args.print_freq == 0:
            both = torch.cat([values[:shown], self._own[:1]])
            *means, loss_since = distributed.all_reduce_sum(both).tolist()
            if not math.isfinite(means[0] + loss_since):
                raise DivergenceError(state.step, "the loss", args)
            speed = self._meter.read()
            record = {"step": state.step, "epoch": state.epoch}
            record |= dict(zip(self.names, means, strict=True))
            self.run.logger.record({**record, "lr": self.rate, **speed})
            self._bar.set_postfix_str(
                "loss {:.3f}, {samples_per_second:.1f}/s, wait {data_wait:.0%}".format(
                    means[0], **speed
                )
            )
        state.step += 1
        state.step_in_epoch += 1
        self._bar.update()
        at_end = state.step_in_epoch == self.steps
        due = args.checkpoint_steps and state.step % args.checkpoint_steps == 0
        signal = distributed.highest(interrupts.received())
        if at_end or due or signal:
            self._total += distributed.all_reduce_sum(self._own)
            self._own.zero_()
            state.sums = tuple(self._total.tolist())
            if not math.isfinite(state.sums[0]):
                raise DivergenceError(state.step - 1, "the loss", args)
            if not all_finite(self.run.model.parameters()):
                raise DivergenceError(state.step - 1, "a weight", args)
            if signal or not at_end:  # else when the script has judged the epoch
                self.run.save()
        if signal:
            raise interrupts.Interrupted(signal, f"after step {state.step - 1}")


def finish_epoch(
    run: Training,
    values: Mapping[str, float],
    best: Mapping[str, nn.Module],
    model: nn.Module,
) -> None:
    """Write the epoch's record and weights, and move on to the next epoch.

    Args:
        run: what the loop works with.
        values: of the epoch, as ``metrics.jsonl`` names them.
        best: files in ``models/`` to write now, and what goes into each; empty where
            the epoch is not the best so far.
        model: whose weights are kept every ``--save_freq`` epochs.
    """
    state, args, logger = run.state, run.args, run.logger
    logger.record({"epoch": state.epoch, "epoch_end": True, **values})
    done = state.epoch + 1
    logger.info(f"epoch {done}/{args.epochs}: {shown(values)}")
    if distributed.rank() == 0:
        folder = logger.folder / "models"
        for name, part in best.items():
            checkpoint.save_weights(part, folder / name)
        if done % args.save_freq == 0:
            checkpoint.save_weights(model, folder / f"ckpt_epoch_{done}.pth")
    state.next_epoch()


def shown(values: Mapping[str, float]) -> str:
    """Named figures as a line of the log."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
