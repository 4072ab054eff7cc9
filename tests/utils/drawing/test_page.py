"""A page that needs nothing but itself, whatever the texts on it are."""

import base64
import io
from xml.etree import ElementTree

from matplotlib.figure import Figure
from PIL import Image

from utils.drawing.page import image, page, table


def read(whole: bytes) -> ElementTree.Element:
    """The page, of which nothing is fetched, linked or run."""
    result = ElementTree.fromstring(whole)
    for element in result.iter():
        assert element.tag not in {"script", "link", "iframe", "object", "embed", "a"}
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name not in {"href", "srcset", "action", "style"}
            assert name != "src" or value.startswith("data:")
    for style in texts(result, "style"):
        assert "url(" not in style and "@import" not in style
    return result


def texts(tree: ElementTree.Element, tag: str) -> list[str]:
    """What stands in every such element."""
    return ["".join(element.itertext()) for element in tree.iter(tag)]


def images(tree: ElementTree.Element) -> list[Image.Image]:
    """All images, decoded."""
    sources = [element.attrib["src"].split(",", 1) for element in tree.iter("img")]
    assert {head for head, _ in sources} == {"data:image/png;base64"}
    data = [base64.b64decode(code, validate=True) for _, code in sources]
    return [Image.open(io.BytesIO(png)).convert("RGB") for png in data]


def test_texts_stay_texts() -> None:
    nasty = "<script>alert('1')</script> & \"a\" </style>"
    figure = Figure((3, 2), dpi=120, facecolor="#010203")
    parts = image(figure, nasty), table([(nasty, nasty)], (nasty,))
    whole = page(nasty, nasty, {nasty: (nasty, *parts)})
    assert whole.startswith(b"<!DOCTYPE html>\n<html")
    tree = read(whole)
    for tag in ("title", "h1", "h2", "td"):
        assert texts(tree, tag) == [nasty]
    assert texts(tree, "p") == texts(tree, "th") == [nasty, nasty]
    (shown,) = tree.iter("img")
    assert (shown.attrib["alt"], shown.attrib["width"]) == (nasty, "288")
    (png,) = images(tree)
    assert png.size == (360, 240) and png.getpixel((0, 0)) == (1, 2, 3)
    assert {"charset": "utf-8"} in [meta.attrib for meta in tree.iter("meta")]


def test_tables_have_their_parts_in_order() -> None:
    whole = table([("r", "1", "2"), ("q", "3", "4")], ("a", "b", "c"))
    tree = read(page("t", "l", {"s": ("words", whole)}))
    scopes = [head.get("scope") for head in tree.iter("th")]
    assert scopes == ["col"] * 3 + ["row"] * 2
    assert texts(tree, "th") == ["a", "b", "c", "r", "q"]
    assert texts(tree, "td") == ["1", "2", "3", "4"]
    assert "thead" not in table([("r", "1")])
