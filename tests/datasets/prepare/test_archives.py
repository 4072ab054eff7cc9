"""Archives from elsewhere: what they are taken for, and what unpacking them can do."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.prepare.archives import (
    ArchiveError,
    Truncated,
    WebPage,
    check_archive,
    is_whole,
    page_in,
    unpack,
)

QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>"
    b"<body>Sorry, you can&#39;t view or download this file at this time.</body></html>"
)
CONTENT = {"set/a.h5": os.urandom(200_000), "set/deep/b.txt": b"b\n"}


def tar(path: Path, content: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A tar.gz of files, or of members given whole."""
    with tarfile.open(path, "w:gz") as archive:
        for name, value in content.items():
            if isinstance(value, tarfile.TarInfo):
                archive.addfile(value)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
    return path


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    """A zip of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


WRITERS = pytest.mark.parametrize("write", [tar, zipped])


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@WRITERS
def test_a_whole_archive_is_unpacked(write, tmp_path):
    path = write(tmp_path / "a", CONTENT)
    content = path.read_bytes()
    check_archive(path, len(content), hashlib.sha256(content).hexdigest())
    assert is_whole(path)
    unpack(path, tmp_path / "out")
    for name, value in CONTENT.items():
        assert (tmp_path / "out" / name).read_bytes() == value


@WRITERS
@pytest.mark.parametrize("kept", [1, 40, 0.5, 0.9, -60, -1])
def test_one_that_ends_early_is_told_from_one_that_is_damaged(write, kept, tmp_path):
    path = write(tmp_path / "a", CONTENT)
    content = path.read_bytes()
    kept = int(kept * len(content)) if isinstance(kept, float) else kept
    path.write_bytes(content[:kept])
    assert not is_whole(path)
    with pytest.raises(Truncated, match="ends"):
        check_archive(path, len(content))
    with pytest.raises(Truncated, match="ends"):
        check_archive(path)
        unpack(path, tmp_path / "out")


@WRITERS
def test_a_flipped_bit_is_found(write, tmp_path):
    path = write(tmp_path / "a", CONTENT)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_archive(path)
    with pytest.raises(ArchiveError, match="damaged") as error:
        unpack(path, tmp_path / "out")
    assert not isinstance(error.value, Truncated)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (w, name)
        for w in (tar, zipped)
        for name in ("../x", "set/../../x", "/etc/x", "..\\x")
    ],
)
def test_no_member_lands_outside(write, name, tmp_path):
    path = write(tmp_path / "a", {**CONTENT, name: b"x"})
    with pytest.raises(ArchiveError, match="not safe"):
        unpack(path, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "out"]


@pytest.mark.parametrize(
    "member",
    [
        link("set/way", "../../.."),
        link("set/way", "/etc"),
        link("set/way", "../../x", tarfile.LNKTYPE),
        link("set/pipe", "", tarfile.FIFOTYPE),
    ],
    ids=["up", "absolute", "hard", "pipe"],
)
def test_no_link_leads_outside(member, tmp_path):
    path = tar(tmp_path / "a", {**CONTENT, "link": member})
    with pytest.raises(ArchiveError, match="not safe"):
        unpack(path, tmp_path / "out")


def test_a_zip_larger_than_the_disk_is_not_begun(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a", {"set/zeros": bytes(10**6)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**5))
    with pytest.raises(OSError, match="1,000,000 bytes to unpack, 100,000 free"):
        unpack(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (QUOTA, "quota exceeded"),
        (b"\n\n<html><head><TITLE>Sign\n in</TITLE>", r"a web page \(Sign in\)"),
        (b"\xef\xbb\xbf<!doctype HTML>", "it is a web page"),
        (b'<?xml version="1.0"?><Error>', "it is a web page"),
    ],
)
def test_a_page_is_known_for_one(content, said, tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(WebPage, match=said):
        check_archive(path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'{"error": 1}')
    assert page_in(path) is None
    with pytest.raises(ArchiveError, match="neither a tar"):
        check_archive(path)
    path.write_bytes(gzip.compress(b"no tar" * 1000))
    check_archive(path)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(path, tmp_path / "out")


def test_size_and_checksum_are_compared(tmp_path):
    path = zipped(tmp_path / "a", CONTENT)
    size = path.stat().st_size
    with pytest.raises(ArchiveError, match=f"{size:,} bytes, not {size - 1:,}"):
        check_archive(path, size - 1)
    with pytest.raises(ArchiveError, match=r"SHA-256 is .*, not 00ff"):
        check_archive(path, size, "00ff")
