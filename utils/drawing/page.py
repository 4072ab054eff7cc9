"""An HTML page in one file: no links, no scripts, images inside.

Made from elements of :mod:`xml.etree.ElementTree`, which escapes every text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem;
  font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; padding-top: .9rem; border-top: 1px solid #8886; }
p, figcaption { max-width: 46rem; }
section { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #8886; }
th { white-space: nowrap; }
code { overflow-wrap: anywhere; }
.word { display: inline-block; }
.lead, figcaption, thead, tbody th, summary { opacity: .75; }
figure { margin: .9rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
"""

Child = Element | str


def element(name: str, /, *children: Child, **attributes: str) -> Element:
    """An element with texts and elements in it; ``class_`` is the attribute class."""
    made = Element(name, {key.rstrip("_"): text for key, text in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def picture(figure: Figure, alt: str, caption: str = "") -> Element:
    """A figure on the page, at most 96 pixels to the inch.

    Args:
        figure: to be drawn.
        alt: what it shows, for readers who cannot see it.
        caption: below it.
    """
    png = base64.b64encode(png_bytes(figure)).decode("ascii")
    width = str(round(96 * figure.get_figwidth()))
    source = f"data:image/png;base64,{png}"
    shown = element("img", src=source, alt=alt, width=width)
    below = [element("figcaption", caption)] if caption else []
    return element("figure", shown, *below)


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Element:
    """A table whose first column holds the headings of the rows.

    Args:
        heads: of the columns; may be empty.
        rows: cells of each row.
    """
    top = element("tr", *(element("th", head, scope="col") for head in heads))
    body = []
    for first, *others in rows:
        cells = (element("td", cell) for cell in others)
        body.append(element("tr", element("th", first, scope="row"), *cells))
    parts = [element("thead", top)] if heads else []
    return element("table", *parts, element("tbody", *body))


def page(title: str, lead: str, sections: Mapping[str, Sequence[Element]]) -> bytes:
    """The complete file, in UTF-8.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: the content below each heading, in this order.
    """
    body = [element("h1", title), element("p", lead, class_="lead")]
    for heading, parts in sections.items():
        body.append(element("section", element("h2", heading), *parts))
    view = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **view),
        element("title", title),
        element("style", _STYLE),
    )
    html = element("html", head, element("body", *body), lang="en")
    return b"<!DOCTYPE html>\n" + tostring(html, encoding="utf-8", method="html")
