"""A page that needs nothing but itself, whatever the texts on it are."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from matplotlib.figure import Figure
from PIL import Image

from utils.drawing.page import folded, image, page, table, text

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would find: elements in order, and the texts of each tag."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html.decode("utf-8"))
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such element."""
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self) -> list[Image.Image]:
        """All images, decoded."""
        found = []
        for attributes in self.of("img"):
            head, data = (attributes["src"] or "").split(",", 1)
            assert head == "data:image/png;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            image.load()
            found.append(image)
        return found


def assert_self_contained(found: Page) -> None:
    """Nothing is fetched, linked or run."""
    for tag, attributes in found.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "a", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"href", "srcset", "action", "style"}
            assert name != "src" or (value or "").startswith("data:")
    for style in found.texts["style"]:
        assert "url(" not in style
        assert "@import" not in style


def test_texts_stay_texts() -> None:
    nasty = "<script>alert('1')</script> & \"a\" </style>"
    figure = Figure((3, 2), dpi=120, facecolor="#010203")
    rows = table([(nasty, nasty)], (nasty,))
    parts = [text(nasty), image(figure, nasty), folded(nasty, rows)]
    whole = page(nasty, nasty, {nasty: parts})
    found = Page(whole)
    assert whole.startswith(b"<!DOCTYPE html>\n<html")
    assert_self_contained(found)
    for tag in ("title", "h1", "h2", "summary", "td"):
        assert found.texts[tag] == [nasty]
    assert found.texts["p"] == [nasty, nasty]
    assert found.texts["th"] == [nasty, nasty]
    (shown,) = found.of("img")
    assert shown["alt"] == nasty
    assert shown["width"] == "288"
    (png,) = found.images()
    assert png.size == (360, 240)
    assert png.convert("RGB").getpixel((0, 0)) == (1, 2, 3)
    assert {"charset": "utf-8"} in found.of("meta")


def test_tables_have_their_parts_in_order() -> None:
    whole = table([("r", "1", "2"), ("q", "3", "4")], ("a", "b", "c"))
    found = Page(page("t", "l", {"s": [whole]}))
    scopes = [head.get("scope") for head in found.of("th")]
    assert scopes == ["col"] * 3 + ["row"] * 2
    assert found.texts["th"] == ["a", "b", "c", "r", "q"]
    assert found.texts["td"] == ["1", "2", "3", "4"]
    assert "thead" not in Page(page("t", "l", {"s": [table([("r", "1")])]})).texts
