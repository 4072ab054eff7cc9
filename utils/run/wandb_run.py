"""A run's record in W&B: always on disk, and on a server if one takes it.

Training never waits for W&B: a thread hands the values over, every wait is bounded, and
what goes wrong is said in one line, with the command that uploads the record later.
Keys come from ``WANDB_API_KEY`` or ``.netrc``, where W&B itself finds them: none passes
through this program.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

# Seconds: for the first answer of a server, to start on it, to upload the rest.
ANSWER, START, FINISH = 5.0, 15.0, 15.0

# Names of the epoch's values in W&B; values of single steps keep their own.
NAMES = {
    "train_loss": "Train Loss",
    "train_imid_loss": "Train IMID Loss",
    "train_cmid_loss": "Train CMID Loss",
    "svm_accuracy": "Overall Linear Accuracy",
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
) -> WandbRun | None:
    """Begin a run's record, or go on with it; None if there is to be none.

    Args:
        folder: the run folder; W&B writes into ``wandb/`` there.
        arguments: of the script; ``wandb``, ``wb_url`` and ``exp_name`` are used.
        config: what W&B shows as the run's configuration.
        resumed: the run goes on, so W&B goes on with the same run.
        say: gets a line if something is not as asked for.
    """
    if arguments["wandb"] == "disabled":
        return None
    try:
        return _open(folder, arguments, config, resumed, say)
    except Exception as error:  # watching must not stop training
        say(f"W&B is off for this run: {first_line(error)}")
        return None


def _open(
    folder: Path,
    arguments: dict[str, Any],
    config: dict[str, Any],
    resumed: bool,
    say: Callable[[str], None],
) -> WandbRun:
    # W&B's reports on itself go to the server too: where it hangs, so does the exit.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    url = arguments["wb_url"]
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

    def init(mode: Literal["online", "offline"]) -> Any:
        # `init` itself would print, and ask for a key, before it reads its settings.
        wandb.setup(wandb.Settings(silent=True))
        return wandb.init(mode=mode, **options)

    run = None
    if arguments["wandb"] == "online":
        try:
            _ask(url)
            run = init("online")
        except Exception as error:
            trouble = first_line(error)
            keyless = wandb.errors.UsageError, wandb.errors.AuthenticationError
            if isinstance(error, keyless):
                trouble += f" (set WANDB_API_KEY, or 'wandb login --host {url}')"
            parts = folder / "wandb" / "offline-run-*"  # one more with each resume
            later = f"WANDB_BASE_URL={url} wandb sync {parts}"
            say(f"W&B is offline for this run: {trouble}; to upload it later: {later}")
            with contextlib.suppress(SystemExit):
                wandb.teardown()  # its process may still hold the run's id
    if run is None:
        run = init("offline")
    place = folder / "wandb" / Path(run.dir).parent.name
    command = f"WANDB_BASE_URL={url} wandb sync --include-online {place}"
    return WandbRun(run, say, f"what is on disk can be uploaded: {command}")


def _run_id(folder: Path, resumed: bool) -> str:
    """The name by which W&B knows the run, kept in ``folder``."""
    path = folder / "run_id"
    name = path.read_text().strip() if resumed and path.is_file() else ""
    if not name:
        name = secrets.token_hex(4)
        folder.mkdir(exist_ok=True)
        path.write_text(name + "\n")
    return name


def _ask(url: str) -> None:
    """Ask a server for anything; W&B itself would try for long before it gave up.

    Raises:
        ConnectionError: if it does not answer, or with a failure of its own.
    """
    # As W&B does: no proxy is asked for what this machine serves itself.
    own = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({} if own else None)
    )
    try:
        request = urllib.request.Request(
            url.rstrip("/") + "/graphql",
            data=b'{"query": "{__typename}"}',
            headers={"Content-Type": "application/json"},
        )
        opener.open(request, timeout=ANSWER).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # below, it may just want a key
            raise ConnectionError(f"{url} answers {error}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = first_line(getattr(error, "reason", error))
        raise ConnectionError(f"{url} does not answer ({reason})") from error


def first_line(error: object) -> str:
    """What an error says first: W&B adds advice on settings in further lines."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class WandbRun:
    """Hands values to W&B in a thread of its own.

    Args:
        run: what ``wandb.init`` returned.
        say: gets one line if W&B fails.
        remedy: the end of that line.
    """

    def __init__(self, run: Any, say: Callable[[str], None], remedy: str) -> None:
        self._run = run
        self._say: Callable[[str], None] | None = say
        self._remedy = remedy
        self._trouble: BaseException | None = None
        # Values, and at the end the exit code.
        self._items: queue.SimpleQueue[dict[str, Any] | int] = queue.SimpleQueue()
        # A daemon: what W&B does not get done must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="W&B", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        step = None
        try:
            while isinstance(item := self._items.get(), dict):
                if step is None and "step" in item:
                    # A resumed run does some steps again: they fall on their places.
                    self._run.define_metric("*", step_metric="step")
                step = item.get("step", step)
                named = {NAMES.get(name, name): value for name, value in item.items()}
                self._run.log(named if step is None else {"step": step, **named})
            self._run.finish(exit_code=item)
        except Exception as error:
            self._trouble = error

    def log(self, values: dict[str, Any]) -> None:
        """A record of ``metrics.jsonl``, under W&B's names; returns at once."""
        self._items.put(values)
        self._tell()

    def finish(self, exit_code: int) -> None:
        """End the record; what is not uploaded after :data:`FINISH` seconds is left."""
        self._items.put(exit_code)
        self._thread.join(1.5 * FINISH)  # W&B keeps the time itself, if all is well
        if self._thread.is_alive():
            self._trouble = TimeoutError("it does not end")
        self._tell()

    def _tell(self) -> None:
        if self._trouble is not None and self._say is not None:
            self._say(f"W&B: {first_line(self._trouble)}; {self._remedy}")
            self._say = None
