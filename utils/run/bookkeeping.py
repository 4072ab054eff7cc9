"""State of a training run: records, sums, checkpoints, divergence, signals."""

import argparse
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError
from utils.parallel import distributed
from utils.run import checkpoint, signals
from utils.run.checkpoint import Progress
from utils.run.logger import RunLogger, progress
from utils.run.run_folder import BEST, LAST, PREVIOUS, open_run_folder
from utils.run.training import TimedLoader


class DivergenceError(UsageError):
    """A loss or a weight is no longer finite."""

    def __init__(self, step: int, what: str, args: argparse.Namespace) -> None:
        super().__init__(
            f"{what} is not finite at step {step}, or since the last check (every "
            f"{args.print_freq} steps). best_model.pth was not changed since. Look at "
            f"metrics.jsonl, then try a lower --lr (now {args.lr:g})"
            + ("" if args.precision in ("fp32", "fp64") else " or --precision fp32")
        )


class Run:
    """Records, checkpoints and signals of a training run; the script owns the loop.

        with Run(args, process, resumed, ..., parts={"model": model, ...}) as run:
            for epoch in range(run.epoch, args.epochs):
                run.start_epoch(loader, lr)
                for batch in loader:                  # steps left after a resume
                    ...                               # forward, loss, backward, update
                    run.step(loss=loss)
                run.end_epoch(figures, is_best)

    A checkpoint is written after an epoch's last step and again after its evaluation:
    a run that ends during the evaluation loses no training.

    Args:
        resumed: whether ``parts`` are restored from the checkpoint.
        defaults: of all flags; a checkpoint from before a flag existed has its default.
        inputs: files that the run reads; empty names are ignored.
        weights: file in ``models/`` -> module whose weights it gets in the best epoch;
            ``best_model.pth``'s are also kept every ``--save_freq`` epochs.
        last_weights: the same for the last epoch.
        parts: what a checkpoint holds: model, optimizer, ..., all with a state dict.

    Raises:
        UsageError: if the folder holds another run, or a checkpoint that is damaged or
            has other arguments, or if the disk has no room for its checkpoints.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        process: distributed.Process,
        resumed: bool,
        *,
        defaults: argparse.Namespace,
        inputs: Sequence[str] = (),
        weights: Mapping[str, nn.Module],
        last_weights: Mapping[str, nn.Module] | None = None,
        parts: Mapping[str, Any],
    ) -> None:
        self.args, self.process, self.resumed = args, process, resumed
        self.weights, self.last_weights, self.parts = weights, last_weights or {}, parts
        self.folder = open_run_folder(
            args.exp_name, args.overwrite, args.resume, inputs, self._sizes()
        )
        self.state = Progress()
        if resumed:
            with distributed.fail_together():
                self.state = checkpoint.load_training_state(
                    self.folder / LAST, vars(args), vars(defaults), **parts
                )

    def _sizes(self) -> dict[Path, int]:
        """Approximate bytes of all files that the run writes to ``models/``."""
        # Adam: two numbers per weight. During a write there are three checkpoints.
        names = (LAST.name, PREVIOUS, "a checkpoint being written")
        sizes = dict.fromkeys(names, 3 * _bytes_of(self.parts["model"]))
        for name, module in {**self.weights, **self.last_weights}.items():
            sizes[name] = _bytes_of(module)
        every = self.args.save_freq
        for done in range(every, self.args.epochs + 1, every):
            sizes[f"ckpt_epoch_{done}.pth"] = sizes[BEST.name]
        return {Path("models", name): size for name, size in sizes.items()}

    def __enter__(self) -> "Run":
        start = (self.state.epoch, self.state.step) if self.resumed else None
        self._exits = ExitStack()
        self._exits.enter_context(signals.listening())
        logger = RunLogger(self.folder, vars(self.args), start)
        self.logger = self._exits.enter_context(logger)
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    @property
    def epoch(self) -> int:
        """The epoch being trained or evaluated, from 0."""
        return self.state.epoch

    def logs_images(self, epoch: int) -> bool:
        """Whether an epoch logs images: every ``--save_freq`` epochs, and the last."""
        done = epoch + 1
        return done % self.args.save_freq == 0 or done == self.args.epochs

    def improves(self, value: float) -> bool:
        """Record a figure of merit; True if it beats those of all earlier epochs."""
        better = value > self.state.best
        self.state.best = max(value, self.state.best)
        return better

    def introduce(self, rows: Mapping[str, str], steps: int) -> None:
        """Log what is about to run; ``steps`` per epoch."""
        args, process, world = self.args, self.process, self.process.world_size
        many = args.epochs > 1
        self.logger.introduce(
            {
                **rows,
                "batch": f"{args.batch_size} global, {args.batch_size // world} a rank "
                f"on {world} process{'es' * (world > 1)}",
                "steps": f"{steps} an epoch, {args.epochs} epoch{'s' * many}",
                "device": f"{process.device.type}, backend {process.backend}, "
                f"{args.precision}",
            }
        )
        if self.resumed:
            self.logger.info(f"resuming from its checkpoint at step {self.state.step}")

    def start_epoch(self, loader: TimedLoader, lr: float) -> None:
        """Set the sampler to the steps that are left, and the learning rate."""
        sampler: Any = loader.batch_sampler  # a GlobalBatchSampler
        sampler.set_epoch(self.epoch, self.state.step_in_epoch)
        for group in self.parts["optimizer"].param_groups:
            group["lr"] = lr
        self._steps, self._loader = len(sampler), loader
        # This rank's sums since the last checkpoint. Totals over ranks are added up at
        # checkpoints alone, so that a resumed run adds the same numbers in this order.
        self._local: Tensor | None = None
        self._since, self._waited, self._counted = time.perf_counter(), loader.waited, 0
        self._bar = progress(
            total=self._steps,
            initial=self.state.step_in_epoch,
            desc=f"epoch {self.epoch + 1}/{self.args.epochs}",
            unit="step",
        )

    def step(
        self,
        epoch_means: Sequence[Tensor] = (),
        sums: Tensor | None = None,
        **means: Tensor,
    ) -> None:
        """Count a step; at the set intervals, record it and write a checkpoint.

        A signal to any rank ends the run on all ranks, after a checkpoint.

        Args:
            epoch_means: further means, which only the epoch's record has.
            sums: (n,) numbers of this rank that are added over the ranks and steps.
            means: over this rank's samples, ``loss`` first; recorded as means over the
                global batch.

        Raises:
            DivergenceError: if a loss is not finite, checked every ``--print_freq``
                steps and before every checkpoint, or a weight, before every checkpoint.
            Interrupted: if a signal has arrived.
        """
        state, args = self.state, self.args
        all_means = (*means.values(), *epoch_means)
        values = torch.stack([x.detach().double() for x in all_means])
        values /= self.process.world_size
        numbers = values if sums is None else torch.cat([values, sums.double()])
        self._local = numbers if self._local is None else self._local + numbers
        self._counted += 1
        if state.step % args.print_freq == 0:
            self._record(means, torch.cat([values[: len(means)], self._local[:1]]))
        state.step += 1
        state.step_in_epoch += 1
        self._bar.update()
        at_end = state.step_in_epoch == self._steps
        regular = args.checkpoint_steps and state.step % args.checkpoint_steps == 0
        signal = distributed.all_reduce_max(signals.received())
        if at_end or regular or signal:
            self._add_up(self._local)
            self.save()
        if at_end:
            self._bar.close()
        if signal:
            raise signals.Interrupted(signal, f"after step {state.step - 1}")

    def _record(self, names: Iterable[str], local: Tensor) -> None:
        """Record this rank's means of a step, then the loss since the last check."""
        *means, loss_since = distributed.all_reduce_sum(local).tolist()
        if not math.isfinite(means[0] + loss_since):
            raise DivergenceError(self.state.step, "the loss", self.args)
        now, waited = time.perf_counter(), self._loader.waited
        seconds = max(now - self._since, 1e-9)
        speed = self._counted * self.args.batch_size / seconds
        wait = (waited - self._waited) / seconds
        record: dict[str, Any] = {
            "step": self.state.step,
            "epoch": self.epoch,
            **dict(zip(names, means, strict=True)),
            "lr": self.parts["optimizer"].param_groups[0]["lr"],
            "samples_per_second": round(speed, 2),
            "data_wait": round(wait, 3),
        }
        device = self.process.device
        if device.type == "cuda":  # the allocator's own count: does not synchronise
            peak = torch.cuda.max_memory_allocated(device)
            record["gpu_memory_mib"] = round(peak / 2**20, 1)
            torch.cuda.reset_peak_memory_stats(device)
        self.logger.record(record)
        self._bar.set_postfix_str(
            f"loss {means[0]:.3f}, {speed:.1f}/s, wait {wait:.0%}"
        )
        self._since, self._waited, self._counted = now, waited, 0

    def _add_up(self, local: Tensor) -> None:
        """Add all ranks' sums since the last checkpoint to those of the epoch."""
        new = distributed.all_reduce_sum(local).tolist()
        self._local = None
        before = self.state.sums or (0.0,) * len(new)
        self.state.sums = tuple(a + b for a, b in zip(before, new, strict=True))
        if not math.isfinite(self.state.sums[0]):
            raise DivergenceError(self.state.step - 1, "the loss", self.args)
        weights = self.parts["model"].parameters()
        if not torch.stack([w.detach().isfinite().all() for w in weights]).all():
            raise DivergenceError(self.state.step - 1, "a weight", self.args)

    def means_and_sums(self, *names: str) -> tuple[dict[str, float], list[float]]:
        """The epoch's numbers after its last step, also when resumed there.

        Args:
            names: of the means that were given to :meth:`step`, in its order.

        Returns:
            The means over the epoch's global batches; the sums given to :meth:`step`.
        """
        means = zip(names, self.state.sums, strict=False)
        sums = list(self.state.sums[len(names) :])
        return {name: total / self._steps for name, total in means}, sums

    def save(self) -> None:
        """Write ``checkpoint_last.pth``."""
        path = self.folder / LAST
        checkpoint.save_training_state(path, vars(self.args), self.state, **self.parts)

    def end_epoch(self, values: Mapping[str, float], is_best: bool) -> None:
        """Write the epoch's record and weights, and a checkpoint at the next epoch.

        Raises:
            DivergenceError: if ``test_loss`` is not finite.
        """
        if not math.isfinite(values.get("test_loss", 0.0)):
            raise DivergenceError(self.state.step - 1, "the test loss", self.args)
        done = self.epoch + 1
        self.logger.record({"epoch": self.epoch, "epoch_end": True, **values})
        self.logger.info(f"epoch {done}/{self.args.epochs}: {shown(values)}")
        if distributed.rank() == 0:
            written = dict(self.weights) if is_best else {}
            if done == self.args.epochs:
                written |= self.last_weights
            if done % self.args.save_freq == 0:
                written[f"ckpt_epoch_{done}.pth"] = self.weights[BEST.name]
            for name, module in written.items():
                checkpoint.save_weights(module, self.folder / "models" / name)
        state = self.state
        state.epoch, state.step_in_epoch, state.sums = done, 0, ()
        self.save()


def _bytes_of(module: nn.Module) -> int:
    state = module.state_dict()
    entries = [*state.values(), *checkpoint.placeholders(state).values()]
    return sum(value.numel() * value.element_size() for value in entries)


def parameters(module: nn.Module) -> str:
    """How many numbers a module has, in millions."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


def shown(values: Mapping[str, float]) -> str:
    """Named figures as a line of the log."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
