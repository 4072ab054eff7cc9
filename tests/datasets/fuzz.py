"""Fuzzing of the readers: any bytes give valid arrays or a `DataError`.

    python -m tests.datasets.fuzz --cases 30000              # each reader
    python -m tests.datasets.fuzz --cases 30000 --reader hdf5 --seed 7

Each reader runs in a process of its own with an upper limit on its memory, so that a
file that claims more than it holds, a hang or a crash of a library ends that process
alone. The file it was reading is kept and named, to be a test.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from datasets.files import DataError
from datasets.hdf5 import POINTS, Field, read_hdf5
from datasets.ply import read_ply
from datasets.png import MAX_PIXELS, read_picture
from tests.datasets import fuzz_seeds

SECONDS = 20  # a case that takes longer hangs
# Above what the process has before the first case; a picture at the limit of pixels
# takes half of it.
ADDRESS_SPACE = 1 << 30
PEAK = 512 << 20
EDITS = (*["flip"] * 6, "cut", "insert", "erase", "put", "put", "copy")
BATCH = 1000  # cases of one run of hypothesis, whose memory of them is then dropped
FIELDS = {"data": POINTS, "label": Field("label", 40), "pid": Field("parts", 50)}


def check_ply(path: Path) -> None:
    points = read_ply(path)
    assert points.ndim == 2 and points.shape[1] == 3 and len(points) > 0
    assert points.dtype == np.float32 and np.isfinite(points).all()
    assert len(points) == 1 or (points != points[0]).any()


def check_png(path: Path) -> None:
    image = read_picture(path)
    pixels = np.asarray(image)
    assert image.mode == "RGB" and pixels.dtype == np.uint8
    assert pixels.shape == (*image.size[::-1], 3)
    assert 0 < image.size[0] * image.size[1] <= MAX_PIXELS


def check_hdf5(path: Path) -> None:
    arrays = read_hdf5([path], FIELDS)
    points, labels, parts = (arrays[key] for key in FIELDS)
    assert points.ndim == 3 and points.shape[2] == 3 and points.size > 0
    assert points.dtype == np.float32 and np.isfinite(points).all()
    assert labels.dtype == np.int64 and labels.shape == points.shape[:1]
    assert parts.dtype == np.int64 and parts.shape == points.shape[:2]
    assert labels.min() >= 0 and labels.max() < 40
    assert parts.min() >= 0 and parts.max() < 50


READERS: dict[str, Callable[[Path], None]] = {
    "ply": check_ply,
    "png": check_png,
    "hdf5": check_hdf5,
}


class Content(bytes):
    """A file, which hypothesis is not to print whole: it is kept."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """Arbitrary bytes, or a valid file after some edits."""
    if draw(st.integers(0, 9)) == 0:
        magic = draw(st.sampled_from([b"", *fuzz_seeds.MAGIC[name]]))
        return magic + draw(st.binary(max_size=300))
    content = bytearray(draw(st.sampled_from(fuzz_seeds.files(name))))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 8]))):
        kind = draw(st.sampled_from(EDITS))
        # From bytes: integers of hypothesis are mostly small, so only headers' places.
        at = int.from_bytes(draw(st.binary(min_size=4, max_size=4)), "big")
        at %= 1 + min(len(content), draw(st.sampled_from((200, len(content)))))
        if kind == "flip" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif kind == "erase":
            del content[at : at + draw(st.integers(1, 20))]
        elif kind == "copy":
            end = at + draw(st.integers(1, 64))
            content[at:at] = content[at:end]
        elif kind == "put":
            words = draw(st.sampled_from(fuzz_seeds.WORDS[name]))
            keep = draw(st.booleans())  # in place of as many bytes, or in between
            content[at : at + (len(words) if keep else 0)] = words
    if name == "ply" and draw(st.booleans()):
        old, new = draw(st.tuples(*[st.sampled_from(fuzz_seeds.WORDS["ply"])] * 2))
        content = content.replace(old, new, 1)
    if name == "png" and draw(st.integers(0, 3)):
        # Else nearly nothing would come past the checksums.
        return fuzz_seeds.with_checksums(bytes(content))
    return bytes(content)


def fuzz(name: str, cases: int, number: int, folder: Path) -> dict[str, float]:
    """Give a reader so many cases; an error is what hypothesis shrank it to.

    Returns:
        how many files were read and how many refused, and the seconds of the slowest.
    """
    path, count = folder / f"case.{name}", {"read": 0, "refused": 0, "slowest": 0.0}

    def one(content: bytes) -> None:
        path.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        try:
            READERS[name](path)
            count["read"] += 1
        except DataError as error:
            text = str(error)
            assert str(path) in text and "download_data.sh" in text, text
            count["refused"] += 1
        faulthandler.cancel_dump_traceback_later()
        count["slowest"] = max(count["slowest"], time.perf_counter() - start)

    for first in range(0, cases, BATCH):
        quiet = settings(
            max_examples=min(BATCH, cases - first),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        seed(number + first)(quiet(given(damaged(name).map(Content))(one)))()
    return count


def limit_memory() -> int:
    """Bound what the process may still allocate; its peak in bytes before that."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return peak()


def peak() -> int:
    """The most memory that this process had at once, in bytes.

    Not by `getrusage`, which counts that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def child(name: str, cases: int, number: int, folder: Path) -> None:
    """All cases of one reader, in this process, and a line that says how it went."""
    fuzz_seeds.files(name)
    before = limit_memory()
    count = fuzz(name, cases, number, folder)
    grown = peak() - before
    assert grown < PEAK, f"{name}: memory grew by {grown >> 20} MiB"
    done = count["read"] + count["refused"]
    print(
        f"{name}: {done} cases: {count['read']} read, {count['refused']} refused; "
        f"slowest {1000 * count['slowest']:.0f} ms, memory grew by {grown >> 20} MiB",
        flush=True,
    )
    assert done >= cases
    assert cases < 100 or min(count["read"], count["refused"]) > 0


def run(name: str, cases: int, number: int) -> bool:
    """One reader in a process of its own; whether every case ended as it must."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{name}_"))
    words = ["--cases", str(cases), "--seed", str(number), "--child", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.datasets.fuzz", "--reader", name, *words]
    )
    if done.returncode == 0:
        shutil.rmtree(folder)
        return True
    kept = folder / f"case.{name}"
    print(f"{name}: FAILED (exit {done.returncode}); the last file: {kept}", flush=True)
    return False


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000, help="of each reader")
    parser.add_argument("--reader", choices=READERS, help="one alone (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="other cases (default: 0)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.cases < 1 or args.seed < 0:
        parser.error("--cases is at least 1, --seed at least 0")
    names = [args.reader] if args.reader else list(READERS)
    if args.child:
        child(names[0], args.cases, args.seed, args.child)
        return
    print(f"fuzzing {', '.join(names)}: {args.cases} cases each, --seed {args.seed}")
    good = [run(name, args.cases, args.seed) for name in names]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
