"""Fetch the data sets and the published weights, each into its place, then check them.

    bash data/download_data.sh                                 everything
    bash data/download_data.sh --only modelnet40 weights       some of it
    bash data/download_data.sh --dry_run                       print what would be done

Needs gdown (pip install -U gdown). Archives are kept in DATA_ROOT/downloads until they
are unpacked; an archive placed there manually, under its name, is used. The same
command resumes an interrupted download, and skips what already exists. Exit status: 0
if everything is complete and passed the checks, 1 if not, 2 for wrong arguments, 130
after Ctrl-C.
"""

import argparse
import contextlib
import fcntl
import gzip
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.files import PACKED, RENDERINGS, SHAPENET
from datasets.packed import checksum
from datasets.prepare import sources
from datasets.prepare.sources import ITEMS, NAMES, WEIGHTS, WEIGHTS_URL, Item, Source

DRIVE_ADVICE = """\
    Without a network, run the same command when there is one. Google Drive refuses a
    file that many have fetched, for up to 24 hours: run it later; or open {url}
    in a browser where you are signed in, save the file as {path},
    and run the same command again."""

WEIGHTS_ADVICE = """\
    Run the same command later; or open {url}
    in a browser, and save the .pth files in {folder}."""

INSTALL = f"{sys.executable} -m pip install -U gdown"

# What a damaged or unsafe archive makes its reader raise. RuntimeError: it is
# encrypted, or of an unknown kind; ValueError: a name is not valid, or lies outside.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError),
    *(RuntimeError, ValueError),
)


class Failed(Exception):
    """One source, or every source, failed; the message says why."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder of downloads, or raise `Failed` if one uses it.

    The folder is removed if it ends up empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Failed(f"{folder}: another download is running") from error
    except OSError:
        pass  # Some network file systems have no locks: the run continues without.
    try:
        yield
    finally:
        os.close(lock)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def run_gdown(name: str, **options: Any) -> None:
    """Call a function of gdown, which resumes a partial download, or raise `Failed`."""
    try:
        import gdown

        getattr(gdown, name)(**options, resume=True, timeout=60, retries=5)
    except ImportError as error:
        raise Failed(f"gdown is missing: {INSTALL}") from error
    except TypeError as error:  # an older release lacks an argument
        raise Failed(f"gdown is too old ({error}): {INSTALL}") from error
    except Exception as error:  # of the network, of Google Drive, of the disk
        raise Failed(f"{type(error).__name__}: {error}") from error


def unpack(path: Path, folder: Path, sha256: str | None = None) -> None:
    """Unpack a tar.gz or zip into a new folder, and nothing outside of it.

    Raises `Failed` if it is another file, damaged, incomplete, or unsafe to unpack.
    """
    with open(path, "rb") as file:
        start = file.read(300)
    if not start.startswith((b"\x1f\x8b", b"PK")):
        # Google Drive sends a page where it refuses a file: its title says why.
        text = " ".join(start.decode("utf-8", "replace").split())
        raise Failed(f"not a tar.gz or zip; starts with {text!r}")
    if sha256 is not None and (actual := checksum(path)) != sha256:
        raise Failed(f"SHA-256 mismatch: {actual}, expected {sha256}")
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            # Those that shutil would skip silently.
            unsafe = [x for x in names if x.startswith("/") or ".." in x]
            if unsafe:
                raise ValueError(f"{unsafe[0]!r} would land outside")
            shutil.unpack_archive(path, folder, "zip")
        else:
            with gzip.open(path) as stream:
                with tarfile.open(fileobj=stream, mode="r:") as members:
                    members.extractall(folder, filter="data")  # refuses unsafe members
                while stream.read(1 << 20):  # gzip's checksum is at the very end
                    pass
    except DAMAGE as error:
        raise Failed(f"damaged, incomplete or unsafe to unpack ({error})") from error


def top_level(folder: Path) -> str:
    """The names in a folder, for a message."""
    names = sorted(os.listdir(folder))
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing"


def obtain(source: Source, downloads: Path, folder: Path) -> None:
    """Fetch an archive, unless it is there, and unpack it into the new folder `folder`.

    Raises `Failed` if this source has no good archive of the data set. A damaged one is
    removed, so that the next run fetches it again.
    """
    path = downloads / source.archive  # has this name only once it is complete
    if not path.is_file():
        run_gdown("download", url=source.url, output=str(path))
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        unpack(path, folder, source.sha256)
    except Failed as error:
        path.unlink()
        raise Failed(f"{path}: {error}; removed") from error
    if not (folder / source.inside).is_dir():
        raise Failed(
            f"{path} does not hold the folder {source.inside} but "
            f"{top_level(folder)}; delete it to fetch it again"
        )


def get(item: Item, root: Path, dry_run: bool) -> None:
    """Put a folder into its place by one rename; `Failed` says what to do otherwise."""
    downloads, target = root / "downloads", root / item.folder
    instructions = item.by_hand.format(root=root)
    if dry_run:
        print(f"{target}: from the first of these that works")
        for source in item.sources:
            size = f"{source.size:,} bytes" if source.size else "size not published"
            sums = ", SHA-256 compared" if source.sha256 else ""
            print(f"  {source.url} ({source.archive}, {size}{sums})")
        if instructions:
            print(instructions)
        return
    staging = downloads / f"{item.folder}.unpacked"
    for source in item.sources:
        print(f"{target}: from {source.url}", flush=True)
        try:
            obtain(source, downloads, staging)
            (staging / source.inside).rename(target)
        except (Failed, OSError) as error:
            print(f"  {error}", flush=True)
            for file in sorted(downloads.glob(f"{source.archive}?*")):
                print(f"  Partial file {file} kept: rerun to resume, or delete it")
            continue
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for archive in {source.archive for source in item.sources}:
            for leftover in downloads.glob(f"{archive}*"):
                leftover.unlink()
        if instructions:
            print(instructions, flush=True)
        return
    advice = [
        DRIVE_ADVICE.format(url=source.url, path=downloads / source.archive)
        for source in item.sources
        if source.url.startswith(sources.DRIVE)
    ]
    lines = [f"{target}: every source failed", *advice, instructions]
    raise Failed("\n".join(filter(None, lines)))


def get_weights(target: Path, dry_run: bool) -> None:
    """Fetch the published weights into `target`, each read once as evaluation reads it.

    Raises:
        Failed: if that did not succeed.
    """
    print(f"{target}: from {WEIGHTS_URL}", flush=True)
    if dry_run:
        return
    import torch

    staging = target.with_name(f".{target.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    try:
        run_gdown("download_folder", id=sources.WEIGHTS_ID, output=f"{staging}{os.sep}")
        files = sorted(staging.rglob("*.pth"))
        if not files:
            raise Failed(f"no .pth file but {top_level(staging)}")
        for path in files:
            try:
                torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged file makes torch raise
                path.unlink()
                text = str(error).strip().split("\n")[0]
                raise Failed(f"{path}: not a weight file ({text}); removed") from error
    except Failed as error:
        advice = WEIGHTS_ADVICE.format(url=WEIGHTS_URL, folder=target)
        raise Failed(f"{target}: {error}\n{advice}") from error
    staging.rename(target)
    names = ", ".join(str(path.relative_to(staging)) for path in files)
    print(f"  {names}: data/README.md says what they are for", flush=True)


def check(names: Sequence[str], root: Path) -> int:
    """Verify the data sets that are complete; return the exit status."""
    absent = {item.name for item in ITEMS if not os.path.lexists(root / item.folder)}
    ready = [name for name in NAMES if name in names and name not in {*absent, WEIGHTS}]
    if not ready:
        return 0
    from datasets.prepare import verify  # loads PyTorch

    print("\nchecking what is there", flush=True)
    try:
        verify.main(["--data_root", str(root), "--dataset", *ready])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "download_data.sh", description=__doc__, formatter_class=formatter
    )
    add = parser.add_argument
    text, names = f"some of {', '.join(NAMES)} (default: all)", list(NAMES)
    add("--only", nargs="+", choices=NAMES, default=names, metavar="NAME", help=text)
    text = "only print what would be done"
    add("--dry_run", action="store_true", help=text)
    text = "where the data sets go (default: data)"
    add("--data_root", type=Path, default=Path("data"), help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = get_args_parser().parse_args(argv)
    root = args.data_root
    jobs = {
        root / item.folder: partial(get, item, root, args.dry_run)
        for item in ITEMS
        if item.name in args.only
    }
    if WEIGHTS in args.only:
        weights = Path(sources.WEIGHTS_FOLDER)
        jobs[weights] = partial(get_weights, weights, args.dry_run)
    failures = []
    try:
        for target, job in jobs.items():
            if os.path.lexists(target):
                print(f"{target}: already exists, skipped")
                continue
            dry = contextlib.nullcontext()
            try:
                with dry if args.dry_run else locked(root / "downloads"):
                    job()
            except (Failed, OSError) as error:
                failures.append(str(error))
        if args.dry_run:
            return
        status = check(args.only, root)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes here", file=sys.stderr)
        sys.exit(130)
    shapes = all((root / name).is_dir() for name in (SHAPENET, RENDERINGS))
    if shapes and not (root / PACKED).exists():
        print(
            "\npre-training reads packed data several times as fast: "
            f"python -m datasets.packed --data_root {root}"
        )
    for failure in failures:
        print(f"\nerror: {failure}", file=sys.stderr)
    sys.exit(status or bool(failures))
