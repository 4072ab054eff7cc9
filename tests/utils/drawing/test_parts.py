"""Pictures of parts: colours, and what stands where on the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.shapenet_part import CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY
from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.parts import (
    FOREIGN,
    PALETTE,
    check_empty,
    part_colours,
    part_sheet,
)


def test_parts_of_a_category_differ_and_foreign_ones_are_grey() -> None:
    for category, (first, count) in enumerate(
        zip(FIRST_PART, PARTS_PER_CATEGORY, strict=True)
    ):
        colours = part_colours(np.arange(50), category)
        assert len({tuple(c) for c in colours[first : first + count].tolist()}) == count
        others = np.delete(colours, range(first, first + count), axis=0)
        assert (others == FOREIGN).all()


def test_the_sheet_shows_truth_beside_prediction() -> None:
    random = np.random.default_rng(0)
    category = np.array([0, 4, 4])
    points = random.normal(size=(3, 20, 3)).astype(np.float32)
    target = np.array([[0] * 20, [12] * 20, [13] * 20])
    predicted = np.array([[0] * 20, [12] * 10 + [13] * 10, [40] * 20])
    rows = np.array([2, 5, 7])
    figure = part_sheet(list(CATEGORIES), rows, category, points, target, predicted)
    cells = np.array(figure.axes).reshape(2, 4)
    shown = [axes for axes in cells.ravel() if axes.get_visible()]
    assert len(shown) == 6
    assert [axes.get_title() for axes in cells[0, :2]] == ["true", "predicted"]
    assert [axes.get_xlabel() for axes in shown] == [
        *("airplane #2", "IoU 100%", "chair #5", "IoU 62%", "chair #7", "IoU 75%")
    ]
    # The nearest point has its full colour; those behind it are paler.
    clouds = [axes.collections[0] for axes in shown]
    nearest = [cloud.get_facecolors()[-1][:3] * 255 for cloud in clouds]
    wanted = [PALETTE[0], PALETTE[0], PALETTE[0], None, PALETTE[1], FOREIGN]
    for found, colour in zip(nearest, wanted, strict=True):
        assert colour is None or np.allclose(found, colour)
    mixed = clouds[3].get_facecolors()[:, :3]
    reddish = mixed[:, 0] > mixed[:, 2]  # the second colour, however pale
    assert reddish.sum() == 10
    assert_readable(figure, [t for a in shown for t in (a.title, a.xaxis.label)])


def test_only_empty_folders_are_written_to(tmp_path: Path) -> None:
    check_empty(tmp_path / "new", "--flag")
    check_empty(tmp_path, "--flag")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"--flag .* is not an empty folder"):
            check_empty(path, "--flag")
