"""Valid files that fuzzing damages, and words that mean something to each format."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

NUMBERS = (0, 1, 127, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
BINARY = [n.to_bytes(8, end) for n in NUMBERS for end in ("little", "big")] + [
    n.to_bytes(4, "big") for n in NUMBERS[:7]
]
MAGIC = {
    "ply": [b"ply\n", b"ply\nformat ascii 1.0\n", b"ply\r\n"],
    "png": [
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"P6 9 9 9 ",
    ],
    "hdf5": [
        b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x08\x08\x00",
    ],
}
WORDS = {
    "ply": [
        *(b"element vertex 1000000000000\n", b"element vertex 0\n", b"element vertex"),
        *(
            b"property list uint double q\n",
            b"property list char char q\n",
            b"999999999",
        ),
        *(b"property float x\n", b"property double x\n", b"element face", b"binary"),
        *(b"ascii", b"binary_little_endian", b"binary_big_endian", b"end_header\n"),
        *(
            b"\r\n",
            b"\n",
            b"nan",
            b"inf",
            b"-1",
            b"1e400",
            b"float",
            b"uchar",
            b"comment",
        ),
        *(b"element e 4000000000\n", b"\xff\xfe", b" ", b"1" * 5000, b"vertex", b"int"),
    ],
    "png": [
        *(
            b"IHDR",
            b"IDAT",
            b"IEND",
            b"PLTE",
            b"tRNS",
            b"zTXt",
            b"iTXt",
            b"iCCP",
            b"acTL",
        ),
        *(b"fcTL", b"fdAT", b"pHYs", b"gAMA", b"eXIf", b"sRGB", b"cHRM", *BINARY),
    ],
    "hdf5": [
        *(
            b"TREE",
            b"HEAP",
            b"SNOD",
            b"OHDR",
            b"OCHK",
            b"FRHP",
            b"BTHD",
            b"FADB",
            *BINARY,
        ),
        *(b"data\0", b"label\0", b"pid\0", b"/etc/hostname\0"),
    ],
}


@cache
def files(name: str) -> list[bytes]:
    """Files of a format, each valid for some reader of it but for a few bombs."""
    return {"ply": _ply, "png": _png, "hdf5": _hdf5}[name]()


def _ply() -> list[bytes]:
    points = np.random.default_rng(0).normal(size=(6, 3))
    found = []
    for kind, code in (
        *(("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")),
    ):
        for real in ("float", "double"):
            for lists in (False, True):
                lines = ["ply", f"format {kind} 1.0", "comment a"]
                if lists:
                    lines += ["element camera 2", "property list uint short ids"]
                lines += [f"element vertex {len(points)}"]
                lines += [f"property {real} {axis}" for axis in "xyz"]
                lines += ["property uchar red"]
                if lines and lists:
                    lines += [
                        "element face 2",
                        "property list uchar int vertex_indices",
                    ]
                head = ("\n".join([*lines, "end_header"]) + "\n").encode()
                found.append(head + _ply_body(points, code, real[0], lists))
    return found


def _ply_body(points: np.ndarray, code: str, real: str, lists: bool) -> bytes:
    if not code:
        lines = [f"{x:.6g} {y:.6g} {z:.6g} 7\n" for x, y, z in points]
        if lists:
            lines = ["1 5\n", "2 5 6\n", *lines, "3 0 1 2\n", "4 0 1 2 3\n"]
        return "".join(lines).encode()
    body = b"".join(struct.pack(f"{code}3{real}B", *row, 7) for row in points)
    if lists:
        body = struct.pack(f"{code}IhI2h", 1, 5, 2, 5, 6) + body
        body += struct.pack(f"{code}B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3)
    return body


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + _checksum(kind + data)


def _checksum(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes):
    """A PNG file of the given header, compressed pixels, and chunks between the two."""
    header = chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )
    body = b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def with_checksums(content: bytes) -> bytes:
    """The same chunks as long as they can be followed, each with the right checksum."""
    out, at = content[:8], 8
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + _checksum(body)
        at += 12 + length
    return out + content[at:]


def _png() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 9, 4), dtype=np.uint8)
    images = [Image.fromarray(pixels), Image.fromarray(pixels[..., :3])]
    images += [Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., :2])]
    images += [Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)]
    images += [Image.fromarray(pixels[..., :3]).quantize(8)]
    images += [Image.fromarray(pixels[..., 0] > 99)]
    found = []
    for image in images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        found.append(stream.getvalue())
    zeros = zlib.compress(bytes(10**6), 9)
    found += [
        png(9, 7, 16, 2, zlib.compress(rng.bytes(7 * (1 + 9 * 6)))),
        png(2000, 1000, 8, 2, zeros),  # fewer pixels than claimed
        png(2**31 - 1, 2**31 - 1, 8, 6, zeros),
        png(9, 7, 8, 0, zeros, chunk(b"zTXt", b"k\0\0" + zeros)),
        png(9, 7, 8, 0, zeros, chunk(b"iCCP", b"k\0\0" + zeros)),
        png(9, 7, 8, 3, zeros, chunk(b"PLTE", bytes(range(6)))),
    ]
    return found


def _hdf5() -> list[bytes]:
    rng = np.random.default_rng(0)
    content = {
        "data": rng.normal(size=(4, 5, 3)).astype("f4"),
        "label": np.arange(4, dtype="u1")[:, None],
        "pid": rng.integers(0, 50, (4, 5)).astype("u1"),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.h5"

        def add(libver=None, change=None, **options) -> None:
            with h5py.File(path, "w", libver=libver) as file:
                for key, value in content.items():
                    file.create_dataset(key, data=value, **options)
                if change:
                    change(file)
            found.append(path.read_bytes())

        add()
        add("latest")
        add(compression="gzip", shuffle=True, fletcher32=True)
        add("latest", compression="lzf")
        add(maxshape=None, chunks=True)
        add(change=_replace("data", shape=(4, 5, 3), dtype="f4", scaleoffset=3))
        add(change=_replace("data", shape=(10**9, 2048, 3), dtype="f4", chunks=True))
        add(change=_replace("data", data=content["data"].astype(">f8")))
        add(change=_replace("label", data=np.array([b"a", b"b", b"c", b"d"])))
        add(change=_replace("label", data=["chair"] * 4, dtype=h5py.string_dtype()))
        add(change=_links)
    return found


def _replace(key, **options):
    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, **options)

    return change


def _links(file: h5py.File) -> None:
    file["here"] = file["data"]
    del file["data"]
    file["data"] = h5py.ExternalLink(os.devnull, "/data")
    del file["label"]
    file["label"] = h5py.SoftLink("/here")
    layout = h5py.VirtualLayout((4, 5), "u1")
    layout[:] = h5py.VirtualSource(os.devnull, "pid", (4, 5))
    del file["pid"]
    file.create_virtual_dataset("pid", layout)
