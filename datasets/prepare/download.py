"""Fetch the data sets and the published weights, each into its place, then check them.

    bash data/download_data.sh                                 everything
    bash data/download_data.sh --only modelnet40 weights       some of it
    bash data/download_data.sh --dry_run                       say what would be done

Needs gdown (pip install gdown). Archives lie in DATA_ROOT/downloads until they are
unpacked; an archive put there by hand, under its name, is taken as it is. What was
interrupted goes on where it stopped, and what is there already is left alone. Exit
status: 0 if all is there and in order, 1 if not, 2 for wrong arguments, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datasets.prepare.archives import (
    ArchiveError,
    Truncated,
    WebPage,
    check_archive,
    is_whole,
    page_in,
    top_level,
    unpack,
)
from datasets.prepare.gdown import Failed, Gdown, locked
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


def partly(downloads: Path, source: Source) -> dict[Path, int]:
    """What gdown has begun of an archive, and how many bytes of it."""
    found = downloads.glob(f"{source.archive}?*")
    return {path: path.stat().st_size for path in found if path.is_file()}


def fetch(source: Source, downloads: Path, gdown: Gdown) -> Path:
    """Have an archive in `downloads`, by its name only once gdown has all of it.

    Raises:
        Failed: if gdown did not get it.
    """
    path = downloads / source.archive
    for begun in downloads.glob(f"{source.archive}*"):
        if begun.is_file() and page_in(begun):  # nothing to go on with
            begun.unlink()
    if path.is_file():
        return path
    before = partly(downloads, source)
    if not gdown("-O", str(path), source.url) or not path.is_file():
        now = partly(downloads, source)
        # Killed after its last byte, before its last step: there is no more to ask for.
        if len(now) == 1 and now == before and is_whole(*now):
            return next(iter(now)).rename(path)
        kept = "".join(f"; {begun} is gone on with, or delete it" for begun in now)
        raise Failed(f"gdown did not get it (its message is above){kept}")
    return path


def obtain(source: Source, downloads: Path, folder: Path, gdown: Gdown) -> None:
    """Fetch an archive and unpack it into the new folder `folder`.

    One that ends too early is gone on with once. What is no use is removed, so that
    the next run begins anew.

    Raises:
        Failed: if there is no whole archive of the data set from this source.
        OSError: if the disk is full, say.
    """
    for again in (False, True):
        path = fetch(source, downloads, gdown)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            check_archive(path, source.size, source.sha256)
            unpack(path, folder)
        except Truncated as error:
            if not again:
                print(f"  {path}: {error}; going on with it", flush=True)
                for begun in partly(downloads, source):
                    begun.unlink()
                # gdown resumes NAME, 8 characters, ".part", if there is only one.
                path.rename(path.with_name(f"{path.name}.resumed.part"))
                continue
            path.unlink()
            raise Failed(f"{path}: {error}, fetched to the end; removed") from error
        except ArchiveError as error:
            path.unlink()
            raise Failed(f"{path}: {error}; removed") from error
        if not (folder / source.inside).is_dir():
            raise Failed(
                f"{path} does not hold the folder {source.inside} but "
                f"{top_level(folder)}; delete it to fetch it anew"
            )
        return


def get(item: Item, root: Path, gdown: Gdown) -> None:
    """Put a folder of ``--data_root`` into its place, by one rename.

    Raises:
        Failed: if no source gives it; the message says what to do.
    """
    downloads, place = root / "downloads", root / item.folder
    staging = downloads / f"{item.folder}.unpacked"
    for source in item.sources:
        print(f"{place}: from {source.url}", flush=True)
        try:
            obtain(source, downloads, staging, gdown)
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


def get_weights(place: Path, gdown: Gdown) -> None:
    """Fetch the published weights into `place`, each read once as evaluation reads it.

    Raises:
        Failed: if that did not succeed.
    """
    import torch

    print(f"{place}: from {WEIGHTS_URL}", flush=True)
    staging = place.with_name(f".{place.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    for path in staging.rglob("*"):
        if path.is_file() and page_in(path) is not None:
            path.unlink()
    advice = WEIGHTS_ADVICE.format(url=WEIGHTS_URL, folder=place)
    if not gdown("--folder", "-O", str(staging), WEIGHTS_ID):
        raise Failed(f"{place}: gdown did not get all of it\n{advice}")
    files = sorted(staging.rglob("*.pth"))
    for path in files:
        try:
            if page := page_in(path):
                raise WebPage(f"it is {page}")
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
        with locked(root / "downloads") as lock:
            gdown = Gdown(lock)
            jobs = [partial(get, item, root, gdown) for item in missing]
            if weights is not None:
                jobs.append(partial(get_weights, weights, gdown))
            for job in jobs:
                try:
                    job()
                except (Failed, OSError) as error:
                    failures.append(str(error))
    except (Failed, OSError) as error:  # gdown is missing, or the folder not writable
        failures.append(str(error))
    return failures


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
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    for failure in failures:
        print(f"\nerror: {failure}", file=sys.stderr)
    sys.exit(status or bool(failures))


if __name__ == "__main__":
    # A kill is to end gdown as well, which subprocess.run sees to in an exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
