"""The figure of a confusion matrix: what it says, and where."""

from __future__ import annotations

import numpy as np
import pytest

from tests.utils.drawing.overlaps import assert_readable
from utils.drawing.confusion import confusion_figure


def test_counts_names_accuracies_and_shares_are_in_their_places() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 6]])
    (axes,) = confusion_figure(matrix, ["ant", "bee", "cat"], "a title").axes
    assert axes.get_title() == "a title"
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert (axes.get_xlabel(), ticks) == ("predicted", ["ant", "bee", "cat"])
    ticks = [t.get_text().split() for t in axes.get_yticklabels()]
    assert ticks == [["ant", "75%"], ["bee", "–"], ["cat", "75%"]]
    counts = {t.get_position(): t.get_text() for t in axes.texts}
    # (column, row): predicted and true class
    assert counts == {(0, 0): "3", (1, 0): "1", (0, 2): "2", (2, 2): "6"}
    (image,) = axes.images
    shares = [[0.75, 0.25, 0], [0, 0, 0], [0.25, 0, 0.75]]
    assert np.allclose(image.get_array(), shares)


@pytest.mark.parametrize("classes", [10, 40])
def test_it_stays_readable(classes: int) -> None:
    matrix = 100 * np.eye(classes, dtype=int)
    matrix[:3] = 100
    names = [f"a_long_name_{i}" for i in range(classes)]
    figure = confusion_figure(matrix, names, "title")
    (axes,) = figure.axes
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.title]
    assert min(t.get_fontsize() for t in texts) >= 6.5
    assert_readable(figure, texts)


def test_a_wrong_number_of_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\) does not fit 2 class names"):
        confusion_figure(np.eye(3, dtype=int), ["a", "b"])
