"""Clouds as PLY files, ASCII or binary, read strictly and in bounded memory.

Nothing is allocated that the file's size does not back, whatever its header claims.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

import numpy as np

from datasets.files import fail, points_all_equal, read_bytes

MAX_HEADER = 1 << 20
MAX_BYTES = 1 << 30

# Types of the format and what `struct` and NumPy call them.
TYPES = {
    **dict.fromkeys((b"char", b"int8"), "b"),
    **dict.fromkeys((b"uchar", b"uint8"), "B"),
    **dict.fromkeys((b"short", b"int16"), "h"),
    **dict.fromkeys((b"ushort", b"uint16"), "H"),
    **dict.fromkeys((b"int", b"int32"), "i"),
    **dict.fromkeys((b"uint", b"uint32"), "I"),
    **dict.fromkeys((b"float", b"float32"), "f"),
    **dict.fromkeys((b"double", b"float64"), "d"),
}
ORDERS = {b"ascii": "", b"binary_little_endian": "<", b"binary_big_endian": ">"}


class Property(NamedTuple):
    """A column: its name, type, and for a list the type of its length, else ``""``."""

    name: bytes
    code: str
    length: str


class Element(NamedTuple):
    """A table of the file."""

    name: bytes
    rows: int
    properties: list[Property]

    def has_lists(self) -> bool:
        return any(p.length for p in self.properties)

    def least_bytes(self, ascii_format: bool) -> int:
        """The fewest bytes that its rows can take.

        A row of no properties counts as a byte, so that the number of rows is bounded.
        """
        if ascii_format:
            row = 2 * len(self.properties)  # a digit each, and what separates them
        else:
            row = sum(struct.calcsize(p.length or p.code) for p in self.properties)
        return self.rows * max(row, 1)


def read_ply(path: str | os.PathLike, archive: str | None = None) -> np.ndarray:
    """The vertices of a PLY file, ASCII or binary of either byte order.

    Other vertex properties and other elements are ignored, but have to be there.

    Returns:
        (N, 3) float32, N >= 1, in the file's units and order.

    Raises:
        DataError: if the file is missing, empty, truncated, no PLY, larger than
            `MAX_BYTES`, without vertices or without x, y and z, if a coordinate is not
            finite, or if all of several points are equal.
    """
    content = read_bytes(path, archive, MAX_BYTES)
    try:
        points = _vertices(content)
    except ValueError as error:
        fail(path, f"not a readable PLY file: {error}", archive)
    if len(points) == 0:
        fail(path, "holds no vertices", archive)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        fail(path, f"vertex {bad.argmax()} has a non-finite coordinate", archive)
    if points_all_equal(points):
        fail(path, f"all of its {len(points)} points are equal", archive)
    return points


def _vertices(content: bytes) -> np.ndarray:
    """x, y and z of a whole file as (N, 3) float32."""
    order, elements, start = _header(content)
    needed = sum(e.least_bytes(not order) for e in elements)
    needed -= not order  # the last line may lack its end
    if needed > len(content) - start:
        raise ValueError(
            f"the header claims at least {needed} bytes of data, "
            f"{len(content) - start} follow it: the file is truncated"
        )
    vertex = next((e for e in elements if e.name == b"vertex"), None)
    if vertex is None:
        raise ValueError("no element `vertex`")
    names = [p.name for p in vertex.properties]
    missing = [a for a in "xyz" if a.encode() not in names]
    if missing:
        raise ValueError(f"vertices lack {', '.join(missing)}")
    if vertex.has_lists():
        raise ValueError("vertices have a list, which is not supported")
    columns = [names.index(a.encode()) for a in "xyz"]
    # An overflow becomes an infinity, which the caller refuses.
    with np.errstate(over="ignore"):
        if order:
            return _binary(content, order, elements, start, columns)
        return _ascii(content[start:], elements, columns)


def _header(content: bytes) -> tuple[str, list[Element], int]:
    """Byte order ("" for ASCII), elements, and where the data begin."""
    begin = re.match(rb"ply[ \t]*(\r\n|\r|\n)", content)
    # The first line's end is that of all: data may begin with what looks like another.
    end = None
    if begin:
        last = rb"%b[ \t]*end_header[ \t]*(?:%b|\Z)" % (begin[1], begin[1])
        end = re.compile(last).search(content, begin.start(1), MAX_HEADER)
    if not begin or not end:
        raise ValueError("no complete PLY header")
    order, elements = None, []
    for line in content[begin.end() : end.start()].split(begin[1]):
        words = line.split()
        match words:
            case [] | [b"comment" | b"obj_info", *_]:
                pass
            case [b"format", kind, b"1.0"] if kind in ORDERS and order is None:
                order = ORDERS[kind]
            case [b"element", name, count] if re.fullmatch(rb"\d{1,99}", count):
                elements.append(Element(name, int(count), []))
            case [b"property", kind, name] if kind in TYPES and elements:
                elements[-1].properties.append(Property(name, TYPES[kind], ""))
            case [b"property", b"list", length, kind, name] if (
                TYPES.get(length, "f") not in "fd" and kind in TYPES and elements
            ):
                column = Property(name, TYPES[kind], TYPES[length])
                elements[-1].properties.append(column)
            case _:
                raise ValueError(f"unreadable header line {line[:80]!r}")
    if order is None:
        raise ValueError("the header names no format")
    for names in (
        [e.name for e in elements],
        *([p.name for p in e.properties] for e in elements),
    ):
        if len(set(names)) < len(names):
            raise ValueError("the header gives one name twice")
    return order, elements, end.end()


def _binary(
    content: bytes, order: str, elements: list[Element], start: int, columns: list[int]
) -> np.ndarray:
    points = np.empty((0, 3), np.float32)
    for element in elements:
        end = _end_of_rows(content, order, element, start)
        if end > len(content):
            raise ValueError("the file is truncated")
        if element.name == b"vertex":
            kinds = [
                (f"f{i}", order + p.code) for i, p in enumerate(element.properties)
            ]
            rows = np.frombuffer(content[start:end], kinds)
            points = np.stack([rows[f"f{i}"].astype(np.float32) for i in columns], 1)
        start = end
    return points


def _end_of_rows(content: bytes, order: str, element: Element, at: int) -> int:
    """Where an element's rows that begin at `at` end, be it beyond the file."""
    if not element.has_lists():
        row = struct.calcsize(order + "".join(p.code for p in element.properties))
        return at + element.rows * row
    columns = [
        (p.length and struct.Struct(order + p.length), struct.calcsize(p.code))
        for p in element.properties
    ]
    for _ in range(element.rows):
        for length, size in columns:
            if length:
                if at + length.size > len(content):
                    return len(content) + 1
                (count,) = length.unpack_from(content, at)
                if count < 0:
                    raise ValueError(f"a list of {count} entries")
                at += length.size + count * size
            else:
                at += size
    return at


def _ascii(body: bytes, elements: list[Element], columns: list[int]) -> np.ndarray:
    lines = body.splitlines()
    if sum(e.rows for e in elements) > len(lines):
        raise ValueError("lines are missing: the file is truncated")
    start, points = 0, np.empty((0, 3), np.float32)
    for element in elements:
        rows = lines[start : start + element.rows]
        if element.name == b"vertex":
            fields = [row.split() for row in rows]
            width = len(element.properties)
            for number, row in enumerate(fields):
                if len(row) != width:
                    raise ValueError(
                        f"vertex {number} has {len(row)} values instead of {width}"
                    )
            # As Python floats: an array of words would be as wide as the longest.
            values = [float(row[i]) for row in fields for i in columns]
            points = np.array(values, np.float64).astype(np.float32).reshape(-1, 3)
        elif element.has_lists():
            for line in rows:
                _check_list_row(line.split(), element.properties)
        start += element.rows
    return points


def _check_list_row(words: list[bytes], properties: list[Property]) -> None:
    """Refuse a line that ends before its lists do, the sign of a truncated file."""
    at = 0
    for column in properties:
        if column.length and at < len(words):
            count = int(words[at])
            if count < 0:
                raise ValueError(f"a list of {count} entries")
            at += count
        at += 1
    if at != len(words):
        raise ValueError(f"a list's line has {len(words)} values instead of {at}")
