"""Clouds coloured by part, and what stands where on the contact sheet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.shapenet_part import CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY
from utils.drawing import parts
from utils.drawing.parts import (
    FOREIGN,
    PALETTE,
    check_empty,
    part_colours,
    save_part_examples,
)


def test_parts_of_a_category_differ_and_foreign_ones_are_grey() -> None:
    for category, (first, count) in enumerate(
        zip(FIRST_PART, PARTS_PER_CATEGORY, strict=True)
    ):
        colours = part_colours(np.arange(50), category)
        assert len({tuple(c) for c in colours[first : first + count].tolist()}) == count
        others = np.delete(colours, range(first, first + count), axis=0)
        assert (others == FOREIGN).all()


def test_the_sheet_shows_truth_beside_prediction(tmp_path: Path, monkeypatch) -> None:
    sheets = []

    def noted(rows, title):
        sheets.append(rows)
        return cloud_grid(rows, title)

    cloud_grid = parts.cloud_grid
    monkeypatch.setattr(parts, "cloud_grid", noted)
    test = SimpleNamespace(
        class_names=list(CATEGORIES),
        start=0,
        points=np.random.default_rng(0).normal(size=(3, 20, 3)).astype(np.float32),
        labels=np.array([4, 0, 4]),
        parts=np.array([[12] * 20, [0] * 20, [13] * 20]),
    )
    predicted = np.array([[12] * 10 + [13] * 10, [0] * 20, [40] * 20])
    save_part_examples(tmp_path, test, predicted, 2)
    assert (tmp_path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    ((planes, chairs),) = sheets
    assert [cell.text for cell in (*planes, *chairs)] == [
        *("airplane #1\ntrue", "predicted\nIoU 100%"),
        *("chair #0\ntrue", "predicted\nIoU 62%"),
        *("chair #2\ntrue", "predicted\nIoU 75%"),
    ]
    for cells, rows in ((planes, [1]), (chairs, [0, 2])):
        for i, row in enumerate(rows):
            for cell, own in zip(cells[2 * i :], (test.parts, predicted), strict=False):
                assert np.array_equal(cell.shown, test.points[row])
                colours = part_colours(own[row], test.labels[row]) / 255
                assert np.array_equal(cell.colours, colours)
    assert (chairs[1].colours * 255 == PALETTE[[0] * 10 + [1] * 10]).all()


def test_only_empty_folders_are_written_to(tmp_path: Path) -> None:
    check_empty(tmp_path / "new", "--flag")
    check_empty(tmp_path, "--flag")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"--flag .* is not an empty folder"):
            check_empty(path, "--flag")
