"""An HTML page in one file: no links, no scripts, images inside.

The functions return HTML that is XML, too; the texts that they are given are escaped.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem;
  font: 1rem/1.5 system-ui, sans-serif; }
h2 { margin-top: 2.5rem; padding-top: .9rem; border-top: 1px solid #8886; }
p { max-width: 46rem; }
section { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #8886; }
th { white-space: nowrap; }
pre { white-space: pre-wrap; }
.lead, thead, tbody th { opacity: .75; }
figure { margin: .9rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
"""


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def text(words: str, tag: str = "p") -> str:
    """A paragraph, or another element that holds nothing but a text."""
    return f"<{tag}>{escape(words)}</{tag}>\n"


def image(figure: Figure, alt: str) -> str:
    """A figure, at most 96 pixels to the inch; ``alt`` says what it shows, for readers
    who cannot see it."""
    png = base64.b64encode(png_bytes(figure)).decode("ascii")
    attributes = f'width="{round(96 * figure.get_figwidth())}" alt="{escape(alt)}"'
    return f'<figure><img src="data:image/png;base64,{png}" {attributes}/></figure>\n'


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table whose first column, and row of ``heads`` if any, are headings."""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    top = f"<thead><tr>{top}</tr></thead>" if heads else ""
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    return f"<table>{top}<tbody>\n{body}</tbody></table>\n"


def page(title: str, lead: str, sections: Mapping[str, Sequence[str]]) -> bytes:
    """The complete file, in UTF-8.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: an introduction and HTML below each heading, in this order.
    """
    body = "".join(
        f"<section>{text(heading, 'h2')}{text(words)}{''.join(parts)}</section>\n"
        for heading, (words, *parts) in sections.items()
    )
    html = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>
{body}</body></html>
"""
    return html.encode("utf-8")
