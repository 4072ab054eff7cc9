"""Weight files and checkpoints: atomic writing, strict reading, exact resuming."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError
from utils.parallel import distributed
from utils.parallel.distributed import unwrap
from utils.run.cli import UNTRAINED
from utils.run.run_folder import PREVIOUS, replace_file

FORMAT = 1  # of checkpoint_last.pth

# Arguments that may differ when a run is resumed: they change only its output, its
# speed, or where its initial weights came from.
FREE_ARGUMENTS = (
    "model_path img_model_path from_scratch data_root exp_name overwrite resume "
    "num_workers packed edgeconv cuda_graph distinct_points dist_timeout debug "
    "wandb wb_url print_freq save_freq checkpoint_steps test_batch_size "
    "save_predictions"
).split()


class CheckpointError(UsageError):
    """A weight file cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_pretrained` did, as names of state-dict entries."""

    path: str
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]  # not in the model, or placeholders
    initialised: tuple[str, ...]  # in the model and not loaded: random

    def __str__(self) -> str:
        text = f"{self.path}: {len(self.loaded)} entries loaded"
        if self.left_out:
            text += f"; not used from the file: {_few(self.left_out)}"
        if self.initialised:
            text += f"; randomly initialised: {_few(self.initialised)}"
        return text


def run_name(path: str) -> str:
    """Short name of a weight file: ``<run>_best_model`` in a run folder."""
    file = Path(path)
    run = file.parent.parent.name if file.parent.name == "models" else ""
    return f"{run}_{file.stem}" if run else file.stem


def _few(names: tuple[str, ...]) -> str:
    """Names of modules rather than of tensors: ``linear1, bn6 (6 entries)``."""
    modules = dict.fromkeys(name.rsplit(".", 1)[0] for name in names)
    return f"{', '.join(modules)} ({len(names)} entries)"


def _save(value: Any, path: str | Path, previous: str = "") -> None:
    """``torch.save`` by :func:`replace_file`."""
    content = io.BytesIO()
    torch.save(value, content)
    replace_file(path, content.getbuffer(), previous)


def published_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict on the CPU, as the paper's code loads it strictly.

    Names are those inside DistributedDataParallel, with :func:`placeholders`.
    """
    state = unwrap(model).state_dict()
    # Contiguous: the memory format used in training does not belong in files.
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    return state | placeholders(state)


def placeholders(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of modules that the paper's network has and never uses in this form.

    Its strict loader expects them. In pre-training these are the ``bn7`` to ``bn10`` of
    the part-segmentation network; after fine-tuning, the projection head ``inv_head``.
    BatchNorms have their initial values and linear layers zeros, so no random numbers
    are drawn. :func:`load_pretrained` ignores all of them.
    """
    entries, norms = {}, {}
    # A trained head, the encoder's last layer, how many of its widths the feature has.
    for head, last, pooled in (("linear3", "conv5", 2), ("conv11", "conv6", 1)):
        # Without bn1 it is a PointNet, which the paper's code does not have.
        if {f"{head}.weight", f"{last}.0.weight", "bn1.weight"} <= state.keys():
            width = len(state[f"{last}.0.weight"])
            for layer, shape in (("0", (width, pooled * width)), ("3", (256, width))):
                entries[f"inv_head.{layer}.weight"] = torch.zeros(shape)
                entries[f"inv_head.{layer}.bias"] = torch.zeros(shape[0])
            norms = {"inv_head.1": width}
    if "transform_net.transform.weight" in state and not entries:
        norms = {"bn7": 64, "bn8": 256, "bn9": 256, "bn10": 128}
    for name, width in norms.items():
        initial = nn.BatchNorm1d(width).state_dict()
        entries |= {f"{name}.{key}": value for key, value in initial.items()}
    return entries


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write :func:`published_weights` atomically."""
    _save(published_weights(model), path)


def _read(path: str | Path) -> Any:
    """``torch.load`` without pickled code; a CheckpointError if it is damaged."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damaged files make PyTorch raise anything
        reason = re.split(r"\. |\n", str(error).strip())[0]
        raise CheckpointError(
            f"{path}: not a complete PyTorch weight file ({reason})"
        ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The entries of a weight file, without a ``module.`` prefix.

    Raises:
        CheckpointError: if the file cannot be read or is no flat state dict.
    """
    state = _read(path)
    flat = isinstance(state, Mapping)
    if flat and {"format", "arguments"} <= state.keys():
        raise CheckpointError(
            f"{path}: this is a checkpoint to --resume from; weights to start from are "
            "best_model.pth and ckpt_epoch_N.pth beside it"
        )
    if not flat or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a flat state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_pretrained(model: nn.Module, path: str | Path) -> LoadReport:
    """Load those entries of a flat state dict that the model has, and report on them.

    Files of the paper's code load too, with or without a ``module.`` prefix. The model
    may be wrapped in DistributedDataParallel.

    Raises:
        CheckpointError: if the file cannot be read, is no flat state dict, has no
            entry that the model has, or an entry of another shape.
    """
    state, inner = read_weights(path), unwrap(model)
    target = inner.state_dict()
    untrained = placeholders(state)
    common = [name for name in target if name in state and name not in untrained]
    if not common:
        raise CheckpointError(
            f"{path}: none of its {len(state)} entries is one of the model's "
            f"{len(target)}; it has {', '.join(list(state)[:3])}, ... and the model "
            f"{', '.join(list(target)[:3])}, ..."
        )
    for name in common:
        if state[name].shape != target[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the model's is "
                f"{tuple(target[name].shape)} (--model, --emb_dims, number of classes)"
            )
    inner.load_state_dict({name: state[name] for name in common}, strict=False)
    return LoadReport(
        str(path),
        tuple(common),
        tuple(name for name in state if name not in common),
        tuple(name for name in target if name not in common),
    )


def load_encoder(encoder: nn.Module, path: str, seed: int) -> str:
    """Load the weights of an encoder to evaluate, unless ``path`` is ``none``.

    Its projection head (``inv_head``), which is not evaluated, may be missing. Returns
    what was loaded, or the ``seed`` of an untrained encoder, for the log.

    Raises:
        CheckpointError: see :func:`load_pretrained`; also if a part of the encoder is
            not in the file.
    """
    if path == UNTRAINED:
        return f"an untrained {type(encoder).__name__} (seed {seed})"
    report = load_pretrained(encoder, path)
    missing = [n for n in report.initialised if not n.startswith("inv_head.")]
    if missing:
        raise CheckpointError(
            f"{path} does not hold this encoder's weights: {_few(tuple(missing))} "
            "would stay randomly initialised (--model)"
        )
    return str(report)


@dataclass
class Progress:
    """How far a run is; part of ``checkpoint_last.pth``."""

    epoch: int = 0
    step_in_epoch: int = 0  # steps of this epoch that are done
    step: int = 0  # steps of the whole run that are done
    best: float = -1.0  # highest figure of merit so far; it chooses best_model.pth
    sums: tuple[float, ...] = ()  # this epoch's sums so far, e.g. of losses


def save_training_state(
    path: str | Path, arguments: dict[str, Any], progress: Progress, **parts: Any
) -> None:
    """Rank 0 writes everything that resuming needs, and keeps the previous file.

    ``parts`` are model, optimizer, ...: anything with a ``state_dict``.
    """
    if distributed.rank() == 0:
        state = {
            "format": FORMAT,
            "arguments": arguments,
            "progress": vars(progress),
            "random": torch.get_rng_state(),
        }
        state |= {name: part.state_dict() for name, part in parts.items()}
        _save(state, path, PREVIOUS)


def _read_training_state(path: str | Path) -> dict[str, Any]:
    state = _read(path)
    known = isinstance(state, dict) and state.get("format") == FORMAT
    if not known or not {"arguments", "progress", "random"} <= state.keys():
        raise CheckpointError(
            f"{path}: not a training checkpoint of format {FORMAT}; "
            "start over with --overwrite instead of --resume"
        )
    return state


def load_training_state(
    path: str | Path,
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    **parts: Any,
) -> Progress:
    """Restore what :func:`save_training_state` wrote into the same ``parts``.

    ``arguments`` are those of the script now, ``defaults`` those of its flags, which a
    checkpoint from before a flag existed takes.

    Raises:
        CheckpointError: if the file is damaged or something else, naming the previous
            one if that is intact, or if an argument that matters has changed. Nothing
            is restored then.
    """
    try:
        state = _read_training_state(path)
    except CheckpointError as error:
        before = Path(path).with_name(PREVIOUS)
        try:
            step = _read_training_state(before)["progress"]["step"]
        except CheckpointError:
            raise error from None
        raise CheckpointError(
            f"{error}. The previous one is intact, after {step} steps. To continue "
            f"from there: mv {before} {path}"
        ) from error
    saved = {**defaults, **state["arguments"]}
    changed = [
        f"--{name} {saved.get(name)!r} -> {value!r}"
        for name, value in arguments.items()
        if name not in FREE_ARGUMENTS and saved.get(name) != value
    ]
    if changed:
        raise CheckpointError(
            f"{path}: the run had other arguments: {'; '.join(changed)}. "
            "Resume with those, or start over with --overwrite instead of --resume"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    return Progress(**state["progress"])
