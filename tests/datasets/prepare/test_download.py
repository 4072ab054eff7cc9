"""Downloads by gdown itself, from a server on this machine, and what can go wrong."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import gdown
import pytest
import torch

from datasets.files import MODELNET40 as FOLDER
from datasets.prepare import download, sources, verify
from datasets.prepare.download import Failed, unpack
from tests.datasets.helpers import exit_status, files

ROOT = Path(__file__).resolve().parents[3]
CLOUDS, NAMES = f"{FOLDER}/ply_data_train0.h5", f"{FOLDER}/shape_names.txt"
HELD = {CLOUDS: os.urandom(3_000_000), NAMES: b"chair\n"}
FIRST = "modelnet40/0"  # where the server has the first source of it
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>"


def tar(content: dict[str, bytes | tuple[bytes, str]]) -> bytes:
    """A tar.gz of files, and of other members by type and target."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, value in content.items():
            member = tarfile.TarInfo(name)
            if isinstance(value, tuple):
                (member.type, member.linkname), value = value, b""
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
    return stream.getvalue()


def zipped(content: dict[str, bytes]) -> bytes:
    """A zip of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return stream.getvalue()


class Place:
    """A working folder, and a server in place of every source.

    Attributes:
        content: path -> what the server gives, ranges of it too.
        cut: after how many bytes the connection ends; None: never.
        asked: (path, first byte) of every request.
        checked: data sets that were verified in the end.
    """

    def __init__(self, folder: Path, capfd) -> None:
        self.folder, self.data, self.capfd = folder, folder / "data", capfd
        self.content: dict[str, bytes] = {}
        self.cut: int | None = None
        self.asked: list[tuple[str, int]] = []
        self.checked: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((request.path, start))
        body = self.content.get(request.path[1:])
        if body is None:
            request.send_error(404)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        part = f"bytes {start}-{len(body) - 1}/{len(body)}"
        request.send_header("Content-Range", part)
        request.end_headers()
        request.wfile.write(body[start : self.cut])
        request.close_connection = True

    def run(self, words: str = "--only modelnet40") -> tuple[int, str]:
        """The exit status of a run, and what it printed."""
        status = exit_status(download.main, *words.split())
        return status, "".join(self.capfd.readouterr())


@pytest.fixture
def place(tmp_path: Path, monkeypatch, capfd) -> Iterator[Place]:
    made, items = Place(tmp_path, capfd), []
    methods = {"do_GET": lambda request: made.answer(request)}
    handler = type("Handler", (BaseHTTPRequestHandler,), methods)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for item in sources.ITEMS:
        url = f"http://127.0.0.1:{server.server_port}/{item.name}"
        own = (x._replace(url=f"{url}/{n}") for n, x in enumerate(item.sources))
        items.append(item._replace(sources=tuple(own)))

    def checked(words: list[str]) -> None:
        made.checked = verify.get_args_parser().parse_args(words).dataset
        raise SystemExit(0)

    def impatient(*args, retries, **kwargs):
        return real(*args, retries=0, **kwargs)

    real = gdown.download
    monkeypatch.setattr(gdown, "download", impatient)
    monkeypatch.setattr(download, "ITEMS", tuple(items))
    monkeypatch.setattr(verify, "main", checked)
    monkeypatch.chdir(tmp_path)
    yield made
    server.shutdown()


def test_an_archive_arrives_and_is_checked(place: Place) -> None:
    place.content[FIRST] = tar(HELD)
    status, output = place.run()
    assert status == 0 and place.checked == ["modelnet40"], output
    assert files(place.data) == HELD
    assert [p.name for p in place.data.iterdir()] == [FOLDER]
    # What exists is left alone, and checked again.
    (place.data / NAMES).write_text("mine")
    place.checked, place.asked = [], []
    status, output = place.run()
    assert status == 0 and "already exists, skipped" in output
    assert place.checked and not place.asked
    assert (place.data / NAMES).read_text() == "mine"


def test_an_interrupted_download_is_resumed(place: Place) -> None:
    place.content[FIRST] = content = tar(HELD)
    place.cut = 2_000_000
    status, output = place.run()
    assert status == 1 and "every source failed" in output
    ((partial, received),) = files(place.data).items()
    assert f"Partial file data/{partial} kept: rerun to resume, or delete it" in output
    place.cut, kept = None, len(received)
    # Its beginning is not fetched again.
    place.content[FIRST] = bytes(kept) + content[kept:]
    status, output = place.run()
    assert kept > 0 and status == 0, output
    assert files(place.data) == HELD and (f"/{FIRST}", kept) in place.asked


def test_an_archive_put_there_by_hand_is_used(place: Place) -> None:
    downloads = place.data / "downloads"
    left = downloads / f"{FOLDER}.unpacked" / FOLDER / "half"  # of a killed run
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    (downloads / "modelnet40.tar.gz").write_bytes(tar(HELD))
    assert place.run()[0] == 0 and files(place.data) == HELD
    assert place.asked == []


@pytest.mark.parametrize(
    ("content", "message", "kept"),
    [
        (QUOTA, "Quota exceeded", False),
        (tar({**HELD, "../../x": b"x"}), "unsafe", False),
        (tar({"set/a": b"a", "b": b"b"}), f"the folder {FOLDER} but b, set", True),
    ],
    ids=["a page", "unsafe", "another layout"],
)
def test_a_bad_archive_is_named_and_removed(place, content, message, kept) -> None:
    place.content[FIRST] = content
    status, output = place.run()
    assert status == 1 and message in output and ("; removed" in output) != kept
    assert "24 hours" not in output  # its first source is not on Google Drive here
    assert list(files(place.data)) == ["downloads/modelnet40.tar.gz"] * kept
    assert not (place.folder / "x").exists()


def test_sources_are_asked_in_order_and_their_bytes_compared(place: Place) -> None:
    place.content["modelnet40/1"] = zipped({"x": b"x"})
    place.content["modelnet40/2"] = QUOTA
    status, output = place.run()
    asked = list(dict.fromkeys(path for path, _ in place.asked))
    assert asked == [f"/modelnet40/{number}" for number in range(4)]
    assert status == 1 and "expected 07670e237db72ece0f723b9abb571534c9" in output
    content = {"hdf5_data/ply_data_val0.h5": b"parts", "__MACOSX/x": b"x"}
    place.content["shapenetpart/1"] = zipped(content)
    status, output = place.run("--only shapenetpart")
    assert status == 0, output
    name = "shapenet_part_seg_hdf5_data/ply_data_val0.h5"
    assert files(place.data) == {name: b"parts"}


def test_google_drive_s_refusal_is_said_with_what_to_do(place, monkeypatch) -> None:
    refusal = gdown.exceptions.FileURLRetrievalError("Too many users have viewed it")
    monkeypatch.setattr(gdown, "download", Mock(side_effect=refusal))
    monkeypatch.setattr(download, "ITEMS", sources.ITEMS)
    status, output = place.run("--only scanobjectnn")
    assert status == 1 and "Too many users have viewed it" in output
    assert "24 hours" in output and "data/downloads/scanobjectnn.tar.gz" in output
    assert "https://forms.gle/" in output and "unzip h5_files.zip -d data/" in output


def test_gdown_missing_or_too_old(place, monkeypatch) -> None:
    monkeypatch.setattr(gdown, "download", lambda url, output: None)
    assert "gdown is too old" in place.run()[1]
    monkeypatch.setitem(sys.modules, "gdown", None)
    status, output = place.run()
    assert status == 1 and "gdown is missing: " in output
    assert "-m pip install -U gdown" in output and not files(place.data)


def test_a_dry_run_does_nothing(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(download, "ITEMS", sources.ITEMS)
    download.main(["--dry_run"])
    output = place.capfd.readouterr().out
    assert not place.data.exists() and sources.WEIGHTS_URL in output
    for item in sources.ITEMS:
        assert f"data/{item.folder}: from" in output
        assert all(source.url in output for source in item.sources)


def test_packing_is_offered(place: Place) -> None:
    for name in ("ShapeNet", "ShapeNetRendering"):
        (place.data / name).mkdir(parents=True)
    offer = "python -m datasets.packed --data_root data"
    assert offer in place.run("--only shapenet")[1]
    (place.data / "ShapeNetPacked").mkdir()
    assert offer not in place.run("--only shapenet")[1]


@pytest.mark.parametrize("content", [None, QUOTA, b""])
def test_weights_arrive_and_are_read(place: Place, monkeypatch, content) -> None:
    def serve(id: str, output: str, **_: object) -> None:
        path = Path(output, "dgcnn_cls_best.pth")
        assert id == sources.WEIGHTS_ID
        torch.save({"conv1.0.weight": torch.zeros(2)}, path)
        if content is not None:
            path.write_bytes(content)

    monkeypatch.setattr(gdown, "download_folder", serve)
    status, output = place.run("--only weights")
    weights = place.folder / sources.WEIGHTS_FOLDER / "dgcnn_cls_best.pth"
    assert (status, weights.is_file()) == ((0, True) if content is None else (1, False))
    if content is not None:
        assert "not a weight file" in output and "removed" in output
        assert "in a browser, and save the .pth files in checkpoints" in output
        assert not files(place.folder / "checkpoints")


@pytest.mark.parametrize("pack", [tar, zipped])
@pytest.mark.parametrize("change", ["cut", "last", "bit"])
def test_a_damaged_archive_is_refused(pack, change, tmp_path: Path) -> None:
    content = bytearray(pack(HELD))
    if change == "bit":
        content[len(content) // 2] ^= 1
    else:
        del content[-1 if change == "last" else len(content) // 2 :]
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Failed, match="damaged, incomplete"):
        unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        zipped({"set/../../x": b"x"}),
        zipped({"/etc/x": b"x"}),
        tar({"set/../../x": b"x"}),
        tar({"set/way": (tarfile.SYMTYPE, "../../.."), "set/way/x": b""}),
        tar({"set/way": (tarfile.SYMTYPE, "/etc")}),
        tar({"set/way": (tarfile.LNKTYPE, "../../x")}),
        tar({"set/way": (tarfile.FIFOTYPE, "")}),
    ],
    # Archives hold the time at which they were made: not for the name of a test.
    ids=["zip up", "zip root", "up", "link up", "link root", "hard link", "pipe"],
)
def test_nothing_lands_outside(content, tmp_path: Path) -> None:
    path, out = tmp_path / "a", tmp_path / "out"
    path.write_bytes(content)
    with contextlib.suppress(Failed):  # zipfile strips what would lead outside
        unpack(path, out)
    assert sorted(tmp_path.iterdir()) == [path, out]
    assert not any(p.is_symlink() or p.is_fifo() for p in out.rglob("*"))


@pytest.mark.parametrize("shell", ["bash", "-bash"])  # the second: a login shell
def test_sourced_it_leaves_the_shell_as_it_was(shell: str) -> None:
    """As both earlier READMEs say: `cd data; source download_data.sh`."""
    code = (
        "cd data; before=$-$PWD; source download_data.sh --dry_run --only shapenetpart;"
        "echo status $?; source download_data.sh --no;"
        'echo status $?; [ "$before" = "$-$PWD" ] && echo the same shell'
    )
    done = subprocess.run(
        [shell, "--noprofile", "-c", code],
        executable=shutil.which("bash"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    output = done.stdout.splitlines()
    assert output[0].startswith("data/shapenet_part_seg_hdf5_data: "), done.stderr
    assert output[-3:] == ["status 0", "status 2", "the same shell"], done.stderr


def test_every_source_is_https_and_the_documents_name_every_name() -> None:
    every = [source for item in sources.ITEMS for source in item.sources]
    assert all(source.url.startswith("https://") for source in every)
    assert all(re.fullmatch("[0-9a-f]{64}", s.sha256) for s in every if s.sha256)
    help_text = (ROOT / "data" / "download_data.sh").read_text()
    readme = (ROOT / "data" / "README.md").read_text()
    for name in sources.NAMES:
        assert name in help_text and f"`{name}`" in readme


def test_a_second_download_is_refused_while_one_runs(place: Place) -> None:
    place.content[FIRST] = tar(HELD)
    with download.locked(place.data / "downloads"):
        status, output = place.run()
    assert status == 1 and "another download is running" in output
    assert not (place.data / "downloads").exists()
