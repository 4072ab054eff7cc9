"""How large each data set is: as published, or as the generator's manifest says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from datasets.files import MODELNET40, SCANOBJECTNN, SHAPENETPART, fail

# Data set as ``data/download_data.sh --only`` calls it -> part -> number.
PUBLISHED = {
    "shapenet": {"categories": 13, "clouds": 43_783, "pictures": 24 * 43_783},
    "modelnet40": {"train": 9_840, "test": 2_468},
    "scanobjectnn": {
        **{f"{v} train": 2_309 for v in ("obj_bg", "obj_only")},
        **{f"{v} test": 581 for v in ("obj_bg", "obj_only")},
        "pb_t50_rs train": 11_416,
        "pb_t50_rs test": 2_882,
    },
    "shapenetpart": {"train": 12_137, "val": 1_870, "test": 2_874},
}
FOLDERS = {
    "modelnet40": MODELNET40,
    "scanobjectnn": SCANOBJECTNN,
    "shapenetpart": SHAPENETPART,
}
MANIFEST = "manifest.json"


class Expected:
    """What a data folder should hold.

    Args:
        data_root: the folder; it may have a manifest of `datasets.synthetic`. None for
            the published sizes alone.

    Attributes:
        files: data set -> entries of its files with "path", "bytes" and "sha256".

    Raises:
        DataError: if the manifest is damaged.
    """

    def __init__(self, data_root: str | os.PathLike | None) -> None:
        self.files: dict[str, list[dict[str, Any]]] = {}
        self._generated: dict[str, dict[str, int]] = {}
        path = None if data_root is None else Path(data_root) / MANIFEST
        if path is None or not path.exists():
            return
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest.get("generator") == "datasets.synthetic":
                self._read(manifest["datasets"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            fail(path, f"not a readable manifest of datasets.synthetic ({error})")

    def _read(self, trees: dict[str, Any]) -> None:
        counts = {
            "shapenet": {
                "clouds": int(trees["ShapeNet"]["counts"]["all"]),
                "pictures": int(trees["ShapeNetRendering"]["files"][0]["count"]),
            }
        }
        for name, folder in FOLDERS.items():
            splits = trees[folder]["counts"]
            counts[name] = {
                part: int(splits[part.split()[-1]]) for part in PUBLISHED[name]
            }
            self.files[name] = [
                {
                    "path": str(entry["path"]),
                    "bytes": int(entry["bytes"]),
                    "sha256": str(entry["sha256"]),
                }
                for entry in trees[folder]["files"]
            ]
        self._generated = counts

    def sizes(self, name: str, part: str) -> list[tuple[int, str]]:
        """The sizes that are right, each with who says so; none if nobody does."""
        generated = self._generated.get(name, {})
        if generated and part not in generated:
            return []
        found = [(generated[part], "generated")] if generated else []
        if part in PUBLISHED[name]:
            found.append((PUBLISHED[name][part], "published"))
        return found
