"""Where the texts of a figure stand, for tests of figures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def assert_readable(figure: Figure, texts: Iterable[Text]) -> None:
    """Draw the figure: no text covers another or leaves the page."""
    FigureCanvasAgg(figure).draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (a, b)
    width, height = figure.bbox.size
    for name, box in boxes:
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height, name
