"""Archives from the internet: is it one, is it complete, and safe unpacking."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from datasets.packed import checksum

GZIP, ZIP = b"\x1f\x8b", b"PK"
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError),
    *(RuntimeError, ValueError),  # encrypted, or of an unknown kind; names
)


class ArchiveError(Exception):
    """A file is not the archive it should be; the message says what is wrong."""


def check_archive(
    path: Path, size: int | None = None, sha256: str | None = None
) -> None:
    """Look at the first bytes, the size and the checksum.

    Args:
        path: the file.
        size: how many bytes it must have; None if that is not known.
        sha256: its checksum; None if that is not known.

    Raises:
        ArchiveError: if it is no tar.gz or zip (a web page, say), or not the expected
            file.
    """
    with open(path, "rb") as file:
        start = file.read(300)
    if start[:2] not in (GZIP, ZIP):
        # Google Drive sends a page where it refuses a file: its title says why.
        text = " ".join(start.decode("utf-8", "replace").split())
        raise ArchiveError(f"it is no tar.gz or zip, but begins with {text!r}")
    if size is not None and path.stat().st_size != size:
        raise ArchiveError(f"it has {path.stat().st_size:,} bytes, expected {size:,}")
    if sha256 is not None and (found := checksum(path)) != sha256:
        raise ArchiveError(f"its SHA-256 is {found}, expected {sha256}")


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar.gz or zip into a new folder, nothing outside of it.

    Reads to the end, so that the archive's own checksums are compared.

    Raises:
        ArchiveError: if it is damaged or incomplete, or if a member is unsafe.
        OSError: if the disk is full, or the folder exists or cannot be written.
    """
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    target = (folder / member.filename).resolve()
                    if not target.is_relative_to(folder.resolve()):
                        raise ValueError(f"{member.filename!r} would land outside")
                    if member.is_dir():
                        target.mkdir(parents=True, exist_ok=True)
                        continue
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # A link in a zip is a file that holds a path: it stays a file.
                    with archive.open(member) as content, open(target, "wb") as copy:
                        shutil.copyfileobj(content, copy)
            return
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as members:
                members.extractall(folder, filter="data")  # refuses unsafe members
            while stream.read(1 << 20):  # gzip's checksum is at the very end
                pass
    except DAMAGE as error:
        problem = f"it is damaged, incomplete or unsafe to unpack ({error})"
        raise ArchiveError(problem) from error


def top_level(folder: Path) -> str:
    """The names in an unpacked archive, for a message."""
    names = sorted(os.listdir(folder))
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing"
