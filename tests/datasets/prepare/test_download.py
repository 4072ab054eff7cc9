"""data/download_data.sh with a stand-in for gdown: all that can go wrong on the way."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datasets.prepare import download, sources
from tests.datasets.conftest import Place, files
from tests.datasets.prepare.test_archives import QUOTA, tar, zipped

ROOT = Path(__file__).resolve().parents[3]
MODELNET = next(item for item in sources.ITEMS if item.name == "modelnet40")
PART = next(item for item in sources.ITEMS if item.name == "shapenetpart")
WEIGHTS = Path(sources.WEIGHTS_FOLDER)
DRIVE = MODELNET.sources[0].url
ONLY = ("--only", "modelnet40")
HELD = {
    f"{MODELNET.folder}/ply_data_train0.h5": os.urandom(20_000),
    f"{MODELNET.folder}/shape_names.txt": b"chair\n",
}


@pytest.fixture
def modelnet(tmp_path: Path) -> bytes:
    """An archive of the authors' form."""
    return tar(tmp_path / "archive", HELD).read_bytes()


def arrived(place: Place) -> bool:
    """Whether ModelNet40 is whole, and nothing else lies beside it."""
    found = {name: (place.data / name).read_bytes() for name in files(place.data)}
    return found == HELD and len(list(place.data.iterdir())) == 1


@pytest.mark.parametrize("verdict", [0, 1])
def test_an_archive_arrives_and_is_checked(place, modelnet, verdict):
    place.serve(DRIVE, modelnet)
    place.verdict = verdict
    status, output = place.run(*ONLY)
    assert arrived(place) and status == verdict, output
    assert place.checked == [["modelnet40"]]
    (call,) = place.calls
    assert "--continue" in call and "--timeout 60" in call
    assert "no-check-certificate" not in call


def test_all_that_is_there_is_checked_without_a_download(place):
    for item in sources.ITEMS[1:]:
        (place.data / item.folder).mkdir(parents=True)
    (place.folder / WEIGHTS).mkdir(parents=True)
    names = ["modelnet40", "scanobjectnn", "shapenetpart"]
    status, output = place.run("--only", *names, "weights")
    assert status == 0 and output.count("there already") == 4, output
    assert place.calls == [] and place.checked == [names]
    # Half of a data set fails, and the others are checked nevertheless.
    assert place.run()[0] == 1 and place.checked[1] == names


def test_the_check_is_that_of_the_data(place, modelnet):
    place.serve(DRIVE, modelnet)
    place.verdict = None
    status, output = place.run(*ONLY)
    assert status == 1 and "not a readable HDF5 file" in output, output


def test_a_cut_download_goes_on(place, modelnet):
    place.serve(DRIVE, modelnet)
    place.limit(1000)
    status, output = place.run(*ONLY)
    assert status == 1 and "no source gave it" in output and "24 hours" in output
    assert files(place.data) == {"downloads/modelnet40.tar.gz12345678.part": 1000}
    place.limit(None)
    place.serve(DRIVE, bytes(1000) + modelnet[1000:])  # the begin is not fetched again
    assert place.run(*ONLY)[0] == 0 and arrived(place)


@pytest.mark.parametrize("came", [1000, 10**9], ids=["some", "all"])
def test_a_killed_run_goes_on(place, modelnet, came):
    place.serve(DRIVE, modelnet)
    place.limit(came, kill=True)
    process = place.start(*ONLY)
    process.communicate(timeout=60)
    assert process.returncode == -9
    place.limit(None)
    assert place.run(*ONLY)[0] == 0 and arrived(place)


def test_one_killed_while_unpacking_leaves_nothing_half_written(place, modelnet):
    downloads = place.data / "downloads"
    left = downloads / f"{MODELNET.folder}.unpacked" / MODELNET.folder
    left.mkdir(parents=True)
    (left / "ply_data_train0.h5").write_bytes(b"half")
    (downloads / "modelnet40.tar.gz").write_bytes(
        modelnet
    )  # or put there by hand: gdown has nothing to do
    place.run(*ONLY)
    assert arrived(place) and place.calls == []


def test_a_quota_page_is_named_and_not_gone_on_with(place, modelnet):
    place.serve(DRIVE, QUOTA)
    status, output = place.run(*ONLY)
    assert status == 1 and "quota exceeded" in output and "removed" in output
    assert "24 hours" in output and DRIVE in output
    assert files(place.data) == {}
    # One that an older gdown has left half-written
    begun = place.data / "downloads" / "modelnet40.tar.gz12345678.part"
    begun.parent.mkdir(exist_ok=True)
    begun.write_bytes(QUOTA[:70])
    place.serve(DRIVE, modelnet)
    place.run(*ONLY)
    assert arrived(place)


@pytest.mark.parametrize("kept", [0, 1, 5000])
def test_a_truncated_archive_is_gone_on_with(place, modelnet, kept):
    place.serve(DRIVE, modelnet)
    begun = place.data / "downloads" / "modelnet40.tar.gz"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(modelnet[:kept])
    begun.with_name(f"{begun.name}abcdefgh.part").write_bytes(b"another's")
    _, output = place.run(*ONLY)
    assert "going on with it" in output and len(place.calls) == 1
    assert arrived(place)


def test_one_that_stays_truncated_is_removed(place, modelnet):
    place.serve(DRIVE, modelnet[:5000])
    begun = place.data / "downloads" / "modelnet40.tar.gz"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(modelnet[:1000])
    status, output = place.run(*ONLY)
    assert status == 1 and "ends too early, fetched to the end; removed" in output
    assert files(place.data) == {}


def test_one_that_the_source_has_no_more_of_is_named(place, modelnet):
    place.serve(DRIVE, modelnet[:5000])
    status, output = place.run(*ONLY)
    (left,) = files(place.data)
    assert status == 1 and f"data/{left} is gone on with, or delete it" in output


def test_a_member_outside_is_refused(place, modelnet):
    evil = tar(place.folder / "evil", {f"{MODELNET.folder}/a": b"a", "../../x": b"x"})
    place.serve(DRIVE, evil.read_bytes())
    status, output = place.run(*ONLY)
    assert status == 1 and "not safe to unpack" in output and "../../x" in output
    assert files(place.data) == {} and not (place.folder / "x").exists()


def test_another_content_is_refused_and_named(place):
    other = tar(place.folder / "other", {"something/a": b"a", "read.me": b"b"})
    place.serve(DRIVE, other.read_bytes())
    status, output = place.run(*ONLY)
    assert status == 1
    assert f"the folder {MODELNET.folder} but read.me, something" in output
    assert list(files(place.data)) == ["downloads/modelnet40.tar.gz"]


def test_mirrors_are_asked_in_order_and_their_bytes_compared(place):
    _, face, github, stanford = MODELNET.sources
    place.serve(face.url, zipped(place.folder / "a", {"x": b"x"}).read_bytes() + b"PK")
    place.serve(github.url, b"<html><title>Not Found</title></html>")
    status, output = place.run(*ONLY)
    asked = [call.split()[-1] for call in place.calls]
    # The first mirror's file is too short, so it is asked for the rest of it.
    assert asked == [s.url for s in (MODELNET.sources[0], face, face, github, stanford)]
    assert status == 1 and "of 435,212,151" in output and "Not Found" in output
    assert files(place.data) == {}


def test_the_second_source_serves_where_the_first_is_dead(place):
    dead, mirror = PART.sources
    content = {"hdf5_data/ply_data_val0.h5": b"parts", "__MACOSX/x": b"x"}
    place.serve(mirror.url, zipped(place.folder / "a", content).read_bytes())
    status, output = place.run("--only", "shapenetpart")
    assert [call.split()[-1] for call in place.calls] == [dead.url, mirror.url]
    assert status == 0 and place.checked == [["shapenetpart"]], output
    assert files(place.data) == {f"{PART.folder}/ply_data_val0.h5": 5}


def test_a_wrong_checksum_is_refused(place):
    path = zipped(place.folder / "a", {"x/y": b"y"})
    size = path.stat().st_size
    source = sources.Source("https://a.org/a", "a.zip", "x", size, "0" * 64)
    item = sources.Item("modelnet40", "x", (source,))
    (place.data / "downloads").mkdir(parents=True)

    def gdown(*words: str) -> bool:
        shutil.copy(path, words[words.index("-O") + 1])
        return True

    with pytest.raises(download.Failed, match="no source gave it"):
        download.get(item, place.data, gdown)
    assert files(place.data) == {}
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    source = sources.Source("https://a.org/a", "a.zip", "x", size, right)
    download.get(sources.Item("modelnet40", "x", (source,)), place.data, gdown)
    assert files(place.data) == {"x/y": 1}


def test_a_dry_run_does_nothing(place):
    download.main(["--dry_run"])
    output = place.output()
    assert place.calls == [] and not place.data.exists()
    for item in sources.ITEMS:
        assert f"data/{item.folder}: from" in output
        assert all(source.url in output for source in item.sources)
    assert sources.WEIGHTS_URL in output and str(WEIGHTS) in output
    (place.data / "ShapeNet").mkdir(parents=True)
    download.main(["--dry_run", "--only", "shapenet"])
    output = place.output()
    assert output.startswith("data/ShapeNet: there already\n")
    assert "modelnet" not in output and files(place.folder / "data") == {}


def test_only_asks_for_nothing_else_and_the_steps_by_hand_are_said(place):
    status, output = place.run("--only", "scanobjectnn")
    assert len(place.calls) == 1 and status == 1
    assert "https://forms.gle/" in output and "unzip h5_files.zip -d data/" in output


def test_a_folder_that_is_there_is_left_alone(place):
    mine = place.data / MODELNET.folder / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert place.run(*ONLY)[0] == 0 and place.calls == []
    assert files(place.data) == {f"{MODELNET.folder}/mine.txt": 4}


def test_missing_gdown_is_said(place):
    (place.folder / "modules" / "gdown.py").write_text("raise ImportError")
    status, output = place.run(*ONLY)
    assert (
        status == 1 and "-m pip install -U gdown" in output and files(place.data) == {}
    )


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_second_run_is_kept_out_and_a_kill_ends_gdown(place, modelnet):
    place.serve(DRIVE, modelnet)
    place.limit(1000, slow=True)
    first = place.start(*ONLY)
    begun = place.data / "downloads" / "modelnet40.tar.gz12345678.part"
    wait_for(lambda: begun.exists() and begun.stat().st_size == 1000)
    status, output = place.run("--only", "shapenetpart")
    assert status == 1 and "another download is at work" in output
    first.terminate()
    assert first.wait(timeout=30) == 143  # and its pipe is closed: gdown has ended
    first.communicate(timeout=30)
    place.limit(None)
    assert place.run(*ONLY)[0] == 0 and arrived(place)


def test_weights_arrive_and_are_read(place):
    folder = place.folder / "served"
    folder.mkdir()
    for name in ("dgcnn_cls_best.pth", "dgcnn_partseg_best.pth"):
        torch.save({"conv1.0.weight": torch.zeros(2)}, folder / name)
    place.serve(sources.WEIGHTS_ID, folder)
    status, output = place.run("--only", "weights")
    assert status == 0 and "dgcnn_cls_best.pth" in output, output
    assert len(files(place.folder / WEIGHTS)) == 2
    assert place.run("--only", "weights")[0] == 0 and len(place.calls) == 1


@pytest.mark.parametrize("content", [QUOTA, b"", b"PK\x03\x04 half of it"])
def test_damaged_weights_are_removed(place, content):
    folder = place.folder / "served"
    folder.mkdir()
    (folder / "dgcnn_cls_best.pth").write_bytes(content)
    place.serve(sources.WEIGHTS_ID, folder)
    status, output = place.run("--only", "weights")
    assert status == 1 and "no file of weights" in output and "removed" in output
    assert ("quota" in output) == (content == QUOTA)
    assert not (place.folder / WEIGHTS).exists()
    assert files(place.folder / "checkpoints") == {}


def test_the_script_passes_its_flags_and_finds_its_folder(tmp_path):
    words = ["bash", str(ROOT / "data" / "download_data.sh")]
    done = subprocess.run(
        [*words, "--dry_run", "--only", "scanobjectnn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "ScanObjectNN: " in done.stdout, done.stderr
    done = subprocess.run([*words, "--only", "no"], capture_output=True, text=True)
    assert done.returncode == 2 and "shapenetpart" in done.stderr


def test_every_source_is_https_and_the_documents_name_every_name():
    every = [source for item in sources.ITEMS for source in item.sources]
    assert all(source.url.startswith("https://") for source in every)
    assert all((s.size is None) == (s.sha256 is None) for s in every)
    assert all(re.fullmatch("[0-9a-f]{64}", s.sha256) for s in every if s.sha256)
    help_text = (ROOT / "data" / "download_data.sh").read_text()
    readme = (ROOT / "data" / "README.md").read_text()
    for name in sources.NAMES:
        assert name in help_text and f"`{name}`" in readme
