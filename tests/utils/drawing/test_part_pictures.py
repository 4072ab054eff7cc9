"""Pictures of parts: colours, and what stands where on the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.shapenet_part import CATEGORIES, FIRST_PART, PARTS_PER_CATEGORY
from utils.drawing.part_pictures import (
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
    (axes,) = figure.axes
    clouds = [c for c in axes.collections if len(c.get_offsets()) == 20]
    assert len(clouds) == 6
    places = [np.mean(c.get_offsets(), axis=0) for c in clouds]
    for truth, guess in zip(places[::2], places[1::2], strict=True):
        assert guess[0] > truth[0] + 0.8  # to the right of it, at the same height
        assert guess[1] == pytest.approx(truth[1])
    assert places[0][1] < places[2][1] == pytest.approx(places[4][1], abs=0.3)
    # The nearest point has its colour whole; those behind are paler.
    nearest = [c.get_facecolors()[-1][:3] * 255 for c in clouds]
    wanted = [PALETTE[0], PALETTE[0], PALETTE[0], None, PALETTE[1], FOREIGN]
    for found, colour in zip(nearest, wanted, strict=True):
        assert colour is None or np.allclose(found, colour)
    mixed = clouds[3].get_facecolors()[:, :3]
    reddish = mixed[:, 0] > mixed[:, 2]  # the second colour, however pale
    assert reddish.sum() == 10
    texts = [text.get_text() for text in axes.texts]
    for said in ("airplane", "chair", "#2  IoU 100%", "#5  IoU 62%", "#7  IoU 75%"):
        assert said in texts


def test_only_empty_folders_are_written_to(tmp_path: Path) -> None:
    check_empty(tmp_path / "new", "--flag")
    check_empty(tmp_path, "--flag")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"--flag .* is not an empty folder"):
            check_empty(path, "--flag")
