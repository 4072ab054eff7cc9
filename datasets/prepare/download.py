"""Fetch the data sets and the published weights, each into its place, then check them.

    bash data/download_data.sh                                 everything
    bash data/download_data.sh --only modelnet40 weights       some of it
    bash data/download_data.sh --dry_run                       say what would be done

Needs gdown (pip install -U gdown). Archives are kept in DATA_ROOT/downloads until they
are unpacked; an archive put there by hand, under its name, is used as it is. An
interrupted download is resumed by the same command, and what exists already is left
alone. Exit status: 0 if everything is there and in order, 1 if not, 2 for wrong
arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.files import PACKED, RENDERINGS, SHAPENET
from datasets.prepare.archives import ArchiveError, check_archive, top_level, unpack
from datasets.prepare.sources import (
    ITEMS,
    NAMES,
    WEIGHTS,
    WEIGHTS_FOLDER,
    WEIGHTS_ID,
    WEIGHTS_URL,
    Item,
    Source,
)

DRIVE_ADVICE = """\
    Without a network, run the same command when there is one. Google Drive refuses a
    file that many have fetched, for up to 24 hours: run it later; or open {url}
    in a browser where you are signed in, save the file as {path},
    and run the same command again."""

WEIGHTS_ADVICE = """\
    Run the same command later; or open {url}
    in a browser, and save the .pth files in {folder}."""

INSTALL = f"{sys.executable} -m pip install -U gdown"


class Failed(Exception):
    """A source, or all of them, did not give what is wanted; the message says why."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder of downloads; it is removed if it ends up empty.

    Raises:
        Failed: if another run is using it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks: the run continues without.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed(f"{folder}: another download is running") from error
        yield
    finally:
        os.close(lock)
    with contextlib.suppress(OSError):
        folder.rmdir()


def run_gdown(name: str, **options: Any) -> None:
    """Call a function of gdown that resumes what was begun.

    Raises:
        Failed: if gdown is missing, or did not get the file.
    """
    try:
        import gdown

        function: Callable = getattr(gdown, name)
    except ImportError as error:
        raise Failed(f"gdown is missing: {INSTALL}") from error
    try:
        function(**options, resume=True, timeout=60, retries=5)
    except TypeError as error:  # an older release lacks an argument
        raise Failed(f"gdown is too old ({error}): {INSTALL}") from error
    except Exception as error:  # of the network, of Google Drive, of the disk
        raise Failed(f"{type(error).__name__}: {error}") from error


def fetch(source: Source, downloads: Path) -> Path:
    """Have an archive in `downloads`; it has its name only once it is complete.

    Raises:
        Failed: if gdown did not get it.
    """
    path = downloads / source.archive
    if path.is_file():
        return path
    try:
        run_gdown("download", url=source.url, output=str(path))
    except Failed as error:
        partial_files = sorted(downloads.glob(f"{source.archive}?*"))
        kept = "".join(
            f". Partial file {file} kept: rerun to resume, or delete it"
            for file in partial_files
        )
        raise Failed(f"{error}{kept}") from error
    return path


def obtain(source: Source, downloads: Path, folder: Path) -> None:
    """Fetch an archive and unpack it into the new folder `folder`.

    A damaged archive is removed, so that the next run fetches it again.

    Raises:
        Failed: if this source has no good archive of the data set.
        OSError: if the disk is full, say.
    """
    path = fetch(source, downloads)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        check_archive(path, source.size, source.sha256)
        unpack(path, folder)
    except ArchiveError as error:
        path.unlink()
        raise Failed(f"{path}: {error}; removed") from error
    if not (folder / source.inside).is_dir():
        raise Failed(
            f"{path} does not hold the folder {source.inside} but "
            f"{top_level(folder)}; delete it to fetch it again"
        )


def get(item: Item, root: Path) -> None:
    """Put a folder of ``--data_root`` into its place, by one rename.

    Raises:
        Failed: if no source gives it; the message says what to do.
    """
    downloads, place = root / "downloads", root / item.folder
    staging = downloads / f"{item.folder}.unpacked"
    for source in item.sources:
        print(f"{place}: from {source.url}", flush=True)
        try:
            obtain(source, downloads, staging)
            (staging / source.inside).rename(place)
        except (Failed, OSError) as error:
            print(f"  {error}", flush=True)
            continue
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for tried in item.sources:
            for left in downloads.glob(f"{tried.archive}*"):
                left.unlink()
        if item.by_hand:
            print(item.by_hand.format(root=root), flush=True)
        return
    lines = [f"{place}: no source gave it"]
    drive = next((source for source in item.sources if source.on_drive), None)
    if drive is not None:
        path = downloads / drive.archive
        lines.append(DRIVE_ADVICE.format(url=drive.url, path=path))
    if item.by_hand:
        lines.append(item.by_hand.format(root=root))
    raise Failed("\n".join(lines))


def get_weights(place: Path) -> None:
    """Fetch the published weights into `place`, each read once as evaluation reads it.

    Raises:
        Failed: if that did not succeed.
    """
    import torch

    print(f"{place}: from {WEIGHTS_URL}", flush=True)
    staging = place.with_name(f".{place.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    advice = WEIGHTS_ADVICE.format(url=WEIGHTS_URL, folder=place)
    try:
        run_gdown("download_folder", id=WEIGHTS_ID, output=f"{staging}{os.sep}")
    except Failed as error:
        raise Failed(f"{place}: {error}\n{advice}") from error
    files = sorted(staging.rglob("*.pth"))
    for path in files:
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes the reader raise
            path.unlink()
            reason = str(error).strip().split("\n")[0]
            raise Failed(
                f"{path}: no file of weights ({reason}); removed\n{advice}"
            ) from error
    if not files:
        raise Failed(f"{place}: no .pth file but {top_level(staging)}\n{advice}")
    staging.rename(place)
    names = ", ".join(str(path.relative_to(staging)) for path in files)
    print(f"  {names}: data/README.md says what they are for", flush=True)


def plan(items: Sequence[Item], root: Path, weights: Path | None) -> None:
    """Say what would be done."""
    for item in items:
        place = root / item.folder
        if os.path.lexists(place):
            print(f"{place}: there already")
            continue
        print(f"{place}: from the first of these that gives it")
        for source in item.sources:
            size = f"{source.size:,} bytes" if source.size else "size not published"
            sums = ", SHA-256 compared" if source.sha256 else ""
            print(f"  {source.url} ({source.archive}, {size}{sums})")
        if item.by_hand:
            print(item.by_hand.format(root=root))
    if weights is not None:
        there = "there already" if os.path.lexists(weights) else f"from {WEIGHTS_URL}"
        print(f"{weights}: {there}")


def download(items: Sequence[Item], root: Path, weights: Path | None) -> list[str]:
    """Fetch what is not there yet; what failed, in words."""
    missing = [item for item in items if not os.path.lexists(root / item.folder)]
    for item in items:
        if item not in missing:
            print(f"{root / item.folder}: there already")
    if weights is not None and os.path.lexists(weights):
        print(f"{weights}: there already")
        weights = None
    failures: list[str] = []
    if not missing and weights is None:
        return failures
    try:
        with locked(root / "downloads"):
            jobs = [partial(get, item, root) for item in missing]
            if weights is not None:
                jobs.append(partial(get_weights, weights))
            for job in jobs:
                try:
                    job()
                except (Failed, OSError) as error:
                    failures.append(str(error))
    except (Failed, OSError) as error:  # another run, or the folder is not writable
        failures.append(str(error))
    return failures


def offer_packing(root: Path) -> None:
    """Say how to make pre-training's data faster to read."""
    there = all((root / name).is_dir() for name in (SHAPENET, RENDERINGS))
    if there and not (root / PACKED).exists():
        print(
            "\npre-training reads packed data several times as fast: "
            f"python -m datasets.packed --data_root {root}"
        )


def check(items: Sequence[Item], root: Path) -> int:
    """Verify the data sets of which all is there; the exit status of that."""
    absent = {item.name for item in items if not os.path.lexists(root / item.folder)}
    whole = [name for name in NAMES if name in {i.name for i in items} - absent]
    if not whole:
        return 0
    from datasets.prepare import verify  # loads PyTorch

    print("\nchecking what is there", flush=True)
    try:
        verify.main(["--data_root", str(root), "--dataset", *whole])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="download_data.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="NAME",
        help=f"some of {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done, and do nothing"
    )
    parser.add_argument(
        "--data_root",
        type=Path,
        default=Path("data"),
        help="where the data sets go (default: data)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = get_args_parser().parse_args(argv)
    items = [item for item in ITEMS if item.name in args.only]
    weights = Path(WEIGHTS_FOLDER) if WEIGHTS in args.only else None
    if args.dry_run:
        plan(items, args.data_root, weights)
        return
    try:
        failures = download(items, args.data_root, weights)
        status = check(items, args.data_root)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes here", file=sys.stderr)
        sys.exit(130)
    offer_packing(args.data_root)
    for failure in failures:
        print(f"\nerror: {failure}", file=sys.stderr)
    sys.exit(status or bool(failures))


if __name__ == "__main__":
    main()
