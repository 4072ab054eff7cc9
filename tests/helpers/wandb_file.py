"""Reads a ``.wandb`` file: LevelDB's log, whose records are protocol buffers."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    content, whole = path.read_bytes(), b""
    place = 7  # after the file's own header
    while place + 7 <= len(content):
        left = 32768 - place % 32768  # in this block, which no header crosses
        if left < 7:
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), place + 6
        whole += content[place + 7 : place + 7 + size]
        if content[kind] in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(whole)
            whole = b""
        place += 7 + size


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """The values of items, nested as they were given, without W&B's own."""
    values: dict[str, Any] = {}
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = values
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)
    return {name: value for name, value in values.items() if name[0] != "_"}


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of values."""
    rows = [_values(record.history.item) for record in _records(path)]
    return [row for row in rows if row]


def config(path: Path) -> dict[str, Any]:
    """The run's configuration."""
    parts = [x for r in _records(path) for x in (r.run.config, r.config)]
    return _values(item for part in parts for item in part.update)
