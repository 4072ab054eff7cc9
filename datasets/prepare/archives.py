"""Archives from elsewhere: is it one, is it whole, and unpacking it into one folder.

Nothing in an archive is believed: a member that would land outside the folder, or that
is neither a file nor a folder, ends the unpacking.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

GZIP, ZIP = b"\x1f\x8b", b"PK"


class ArchiveError(Exception):
    """A file is not the archive it should be; the message says what it is instead."""


class WebPage(ArchiveError):
    """The file is a page, which says that there is no file to be had."""


class Truncated(ArchiveError):
    """The file ends too early: the rest of it may still be fetched."""


def page_in(path: Path) -> str | None:
    """What a web page that was saved as `path` says; None if it is no page."""
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not re.match(r"<(!doctype html|!--|html|head|\?xml)", text, re.IGNORECASE):
        return None
    if re.search(r"quota|too many users", text, re.IGNORECASE):
        return "a page that says: too many downloads of this file (quota exceeded)"
    title = re.search(r"<title[^>]*>\s*([^<]{1,100})", text, re.IGNORECASE)
    return "a web page" + (f" ({' '.join(title[1].split())})" if title else "")


def check_archive(
    path: Path, size: int | None = None, sha256: str | None = None
) -> None:
    """Look at the first bytes, the size and the checksum.

    Args:
        path: the file.
        size: how many bytes it must have; None if that is not known.
        sha256: its checksum; None if that is not known.

    Raises:
        WebPage: if it is a page.
        Truncated: if it is shorter than `size`, or empty.
        ArchiveError: if it is neither tar.gz nor zip, too long, or another file.
    """
    if page := page_in(path):
        raise WebPage(f"it is {page}")
    with open(path, "rb") as file:
        start = file.read(2)
    if len(start) == 2 and start not in (GZIP, ZIP):
        raise ArchiveError("it is neither a tar.gz nor a zip")
    found = path.stat().st_size
    if len(start) < 2 or (size is not None and found < size):
        of = "" if size is None else f" of {size:,}"
        raise Truncated(f"it ends after {found:,} bytes{of}")
    if size is not None and found > size:
        raise ArchiveError(f"it has {found:,} bytes, not {size:,}")
    if sha256 is not None:
        from datasets.packed import checksum  # loads PyTorch

        if (is_now := checksum(path)) != sha256:
            raise ArchiveError(f"its SHA-256 is {is_now}, not {sha256}")


def is_whole(path: Path) -> bool:
    """Whether a tar.gz or zip has its end; what is in it is not looked at."""
    try:
        check_archive(path)
        if zipfile.is_zipfile(path):
            return True
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except (ArchiveError, EOFError, OSError, zlib.error):
        return False
    return True


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar.gz or zip that :func:`check_archive` found good into a new folder.

    Reads to the end, so that the archive's own checksums have been compared.

    Raises:
        Truncated: if the archive ends too early.
        ArchiveError: if it is damaged, or a member would land outside the folder.
        OSError: if the disk is full, or the folder is there or cannot be written.
    """
    folder.mkdir(parents=True)
    with open(path, "rb") as file:
        is_zip = file.read(2) == ZIP
    try:
        (_unpack_zip if is_zip else _unpack_tar)(path, folder)
    except EOFError as error:
        raise Truncated("it ends too early") from error
    except (
        *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error),
        *(RuntimeError, ValueError),  # encrypted, or of an unknown kind; names
    ) as error:
        raise ArchiveError(f"it is damaged ({error})") from error


def _unpack_tar(path: Path, folder: Path) -> None:
    # Not `extractall`, whose filters the Python of some systems in use lacks.
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            target = _place(folder, member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise ArchiveError(
                    f"it is not safe to unpack: {member.name!r} is a link or a device"
                )
            _write(content, target)
        while stream.read(1 << 20):  # gzip's checksum is at the very end
            pass


def _unpack_zip(path: Path, folder: Path) -> None:
    if not zipfile.is_zipfile(path):  # its table of contents is at the end
        raise Truncated("it ends before its table of contents")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        needed = sum(member.file_size for member in members)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(f"{needed:,} bytes to unpack, {free:,} free on the disk")
        for member in members:
            target = _place(folder, member.filename)
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            # Links in a zip are files that hold a path: they stay files here.
            with archive.open(member) as content:
                _write(content, target)


def _place(folder: Path, name: str) -> Path:
    """Where a member goes. Nothing unpacked is a link: names alone lead outside."""
    root = folder.resolve()
    target = (root / name).resolve()
    if "\\" in name or not target.is_relative_to(root):
        raise ArchiveError(f"it is not safe to unpack: {name!r} would land outside")
    return target


def _write(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as copy:
        shutil.copyfileobj(content, copy, 1 << 20)


def top_level(folder: Path) -> str:
    """The names in an unpacked archive, for a message."""
    names = sorted(os.listdir(folder))
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing"
