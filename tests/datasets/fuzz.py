"""Fuzzing of the readers: a damaged file gives valid arrays or a `DataError`.

python -m tests.datasets.fuzz [--cases 10000] [--seed 0]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from datasets.files import DataError
from datasets.hdf5 import POINTS, Field, read_hdf5
from datasets.ply import read_ply
from datasets.png import read_image

FIELDS = {"data": POINTS, "label": Field("label", 40), "pid": Field("parts", 50)}
HEADER = (
    "ply\nformat {}\nelement vertex 3\nproperty float x\nproperty float y\n"
    "property float z\nelement face 1\nproperty list uchar int v\nend_header\n"
)


def check_ply(path: Path) -> None:
    points = read_ply(path)
    assert points.ndim == 2 and points.shape[1] == 3 and len(points) > 0
    assert points.dtype == np.float32 and np.isfinite(points).all()
    assert len(points) == 1 or (points != points[0]).any()


def check_png(path: Path) -> None:
    image = read_image(path)
    assert image.mode == "RGB" and min(image.size) > 0


def check_hdf5(path: Path) -> None:
    arrays = read_hdf5([path], FIELDS)
    assert np.isfinite(arrays["data"]).all() and arrays["data"].shape[2] == 3
    assert ((arrays["label"] >= 0) & (arrays["label"] < 40)).all()
    assert ((arrays["pid"] >= 0) & (arrays["pid"] < 50)).all()


CHECKS: dict[str, Callable[[Path], None]] = {
    "ply": check_ply,
    "png": check_png,
    "hdf5": check_hdf5,
}


def good_files(folder: Path) -> dict[str, list[Path]]:
    """Files that are read, to be damaged."""
    random = np.random.default_rng(0)
    text, binary = folder / "ascii.ply", folder / "binary.ply"
    text.write_text(HEADER.format("ascii 1.0") + "1 2 3\n4 5 6\n7 8 9\n3 0 1 2\n")
    points = np.arange(9, dtype="<f4").tobytes()
    face = b"\3" + np.arange(3, dtype="<i4").tobytes()
    header = HEADER.format("binary_little_endian 1.0").encode()
    binary.write_bytes(header + points + face)
    pixels = random.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "rgba.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    with h5py.File(folder / "all.h5", "w") as file:
        file["data"] = random.normal(size=(5, 6, 3)).astype("f4")
        file["label"] = np.arange(5, dtype="u1")[:, None]
        file["pid"] = random.integers(0, 50, (5, 6)).astype("u1")
    pictures = [folder / "rgba.png", folder / "grey.png"]
    return {"ply": [text, binary], "png": pictures, "hdf5": [folder / "all.h5"]}


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, a piece cut out or repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        start, end = np.sort(random.integers(0, len(data) + 1, 2)).tolist()
        match random.integers(6):
            case 0:
                del data[start:]
            case 1:
                del data[start : min(end, start + 8)]
            case 2:
                data[start:start] = data[start : min(end, start + 8)]
            case _:
                at = min(start, len(data) - 1)
                data[at : at + 1] = bytes([random.integers(256)])
    return bytes(data)


def fuzz(cases: int, seed: int) -> dict[str, tuple[int, int]]:
    """How many files of each format were read, and how many refused.

    Whatever else a reader does ends the run, and the file is named and kept.
    """
    counts = {}
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    files = good_files(folder)
    for name, check in CHECKS.items():
        contents = [path.read_bytes() for path in files[name]]
        random, refused = np.random.default_rng(seed), 0
        case = folder / f"case.{name}"
        for number in range(cases):
            case.write_bytes(damaged(contents[number % len(contents)], random))
            try:
                check(case)
            except DataError as error:
                assert str(case) in str(error)
                refused += 1
            except BaseException:
                print(f"{name}: case {number} of --seed {seed} is kept as {case}")
                raise
        counts[name] = (cases - refused, refused)
    shutil.rmtree(folder)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = ", ".join(CHECKS)
    print(f"fuzzing {names}: {args.cases} cases each, --seed {args.seed}")
    for name, (read, refused) in fuzz(args.cases, args.seed).items():
        print(f"{name}: {args.cases} cases: {read} read, {refused} refused")


if __name__ == "__main__":
    main()
