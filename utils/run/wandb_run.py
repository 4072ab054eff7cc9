"""A run's record in W&B: always on disk, and on a server if one can be reached.

W&B's own process writes to disk first and uploads from there, so that training does not
wait for a server. Starting and finishing have time limits. An error is one line in the
log, with the command that uploads the record later, and training continues.
W&B finds the key in ``WANDB_API_KEY`` or ``.netrc``; this program never reads it.
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Seconds to wait for a server at the start, and for the upload of the rest at the end.
START, FINISH = 10.0, 15.0

# W&B's names for values of an epoch. Values of a step keep the names of metrics.jsonl.
NAMES = {
    "train_loss": "Train Loss",
    "train_imid_loss": "Train IMID Loss",
    "train_cmid_loss": "Train CMID Loss",
    "svm_accuracy": "Overall Linear Accuracy",
    "knn_accuracy": "Overall kNN Accuracy",
    "test_loss": "Test Loss",
    "train_accuracy": "Train Accuracy",
    "test_accuracy": "Test Accuracy",
    "best_test_accuracy": "Best Test Accuracy",
    "train_class_accuracy": "Train Per Class Accuracy",
    "test_class_accuracy": "Test Per Class Accuracy",
    "train_miou": "Train Mean IOU",
    "test_miou": "Test Mean IOU",
}


def start(
    folder: Path,
    arguments: dict[str, Any],
    config: dict[str, Any],
    resumed: bool,
    say: Callable[[str], None],
) -> "WandbRun | None":
    """Start or resume a run's record; None if W&B is disabled or cannot start.

    Args:
        folder: of the run; W&B writes into ``wandb/`` there.
        arguments: of the script; ``wandb``, ``wb_url`` and ``exp_name`` are used.
        config: what W&B shows as the run's configuration.
        say: called with one line if W&B does not do what was requested.
    """
    mode, url = arguments["wandb"], arguments["wb_url"]
    if mode == "disabled":
        return None
    # Otherwise W&B reports its own errors to a server, and may wait for it at the end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb

        options = {
            "project": "CrossPoint",
            "name": arguments["exp_name"],
            "id": _run_id(folder / "wandb", resumed),
            "resume": "allow" if resumed else None,
            "dir": str(folder.resolve()),
            "config": config,
            "settings": wandb.Settings(
                base_url=url,
                silent=True,
                init_timeout=START,
                finish_timeout=FINISH,
                finish_timeout_raises=True,
            ),
        }
        if mode == "online":
            try:
                return WandbRun(mode, options, say)
            except Exception as error:
                parts = folder / "wandb" / "offline-run-*"  # another with each resume
                say(
                    f"W&B is offline for this run: {_reason(error, url)}; to upload it "
                    f"later: WANDB_BASE_URL={url} wandb sync {parts}"
                )
                with contextlib.suppress(SystemExit):
                    wandb.teardown()  # W&B's process may still hold the run's id
        return WandbRun("offline", options, say)
    except Exception as error:  # a failure of W&B must not stop training
        say(f"W&B is off for this run: {first_line(error)}")
        return None


def _run_id(folder: Path, resumed: bool) -> str:
    """W&B's id of the run, kept in a file: `wandb sync --clean` deletes all others."""
    path = folder / "run_id"
    if not (resumed and path.is_file()):
        folder.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _reason(error: Exception, url: str) -> str:
    import wandb

    refused = wandb.errors.UsageError, wandb.errors.AuthenticationError
    if isinstance(error, refused) or "<no message>" in str(error):
        remedy = f"set WANDB_API_KEY, or run 'wandb login --host {url}'"
        return f"{url} needs a valid key: {remedy}"
    return f"cannot start a run on {url} ({first_line(error)})"


def first_line(error: object) -> str:
    """The first line of an error: W&B adds advice on its settings in further lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class WandbRun:
    """A W&B run of ``wandb.init(mode=mode, **options)``, to which values are logged.

    An error is one line, which ``say`` gets, and nothing is logged from then on.
    """

    def __init__(
        self, mode: Any, options: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        import wandb

        # Without this `init` prints, and asks for a key, before it reads its settings.
        wandb.setup(wandb.Settings(silent=True))
        self._run: Any = wandb.init(mode=mode, **options)
        self._say, self._step = say, None
        url, folder = options["settings"].base_url, Path(self._run.dir).parent
        self._remedy = (
            "to upload what is on disk: "
            f"WANDB_BASE_URL={url} wandb sync --include-online {folder}"
        )

    def log(self, values: dict[str, Any]) -> None:
        """Log a record of ``metrics.jsonl`` under W&B's names."""
        self._call(self._log, values)

    def _log(self, values: dict[str, Any]) -> None:
        if self._step is None and "step" in values:
            # The horizontal axis. W&B's own count continues when steps are repeated.
            self._run.define_metric("*", step_metric="step")
        self._step = values.get("step", self._step)
        named = {NAMES.get(name, name): value for name, value in values.items()}
        step = {} if self._step is None else {"step": self._step}
        self._run.log({**step, **named})

    def finish(self, exit_code: int) -> None:
        """End the record; an upload is waited for, but at most ``FINISH`` seconds."""
        self._call(lambda code: self._run.finish(exit_code=code), exit_code)

    def _call(self, action: Callable[[Any], None], value: Any) -> None:
        if self._run is None:
            return
        try:
            action(value)
        except Exception as error:
            self._run = None
            self._say(f"W&B: {first_line(error)}; {self._remedy}")
