"""A page of HTML in one file: no links, no scripts, pictures inside.

Made of elements of :mod:`xml.etree.ElementTree`, which escapes every text.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

_STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5b6570; --line: #d9dde2;
  --page: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a3adb8;
  --line: #3a424c; --page: #16191d; --card: #21262c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  background: var(--page); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Noto Sans",
  "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.lead, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
code { font: .86rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.whole { display: inline-block; }
summary { cursor: pointer; color: var(--soft); margin-top: .6rem; }
figure { margin: .9rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: .9rem; margin-top: .35rem; max-width: 60rem; }
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


def picture(png: bytes, width: int, alt: str, caption: str = "") -> Element:
    """A PNG file as part of the page.

    Args:
        png: the file.
        width: pixels of the page that it takes, if there is room.
        alt: what it shows, for those who do not see it.
        caption: below it.
    """
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    shown = element("img", src=source, alt=alt, width=str(width))
    below = [element("figcaption", caption)] if caption else []
    return element("figure", shown, *below)


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Element:
    """A table whose first column is a head too.

    Args:
        heads: of the columns; may be empty.
        rows: cells of each row.
    """
    top = element("tr", *(element("th", head, scope="col") for head in heads))
    body = [
        element(
            "tr",
            element("th", first, scope="row"),
            *(element("td", cell) for cell in others),
        )
        for first, *others in rows
    ]
    parts = [element("thead", top)] if heads else []
    whole = element("table", *parts, element("tbody", *body))
    return element("div", whole, class_="wide")


def page(title: str, lead: str, sections: Mapping[str, Sequence[Element]]) -> bytes:
    """The whole file, UTF-8.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: what is below each heading, in their order.
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
    whole = element("html", head, element("body", *body), lang="en")
    return b"<!DOCTYPE html>\n" + tostring(whole, encoding="utf-8", method="html")
