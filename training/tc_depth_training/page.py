"""
One HTML page that needs nothing but itself: the shell of all reports.

Functions take plain text and escape it; only ``markup`` parameters take what these return.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Cell = str | int | float | None  # texts stand left, numbers right; None: there is none
ABSENT = '–'

# Two columns of panels on a desk, one on a phone; on paper nothing is cut off or torn apart
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:76rem;margin:0 auto;padding:2rem 1rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;border-bottom:1px solid #ddd}
p,ul{max-width:44rem;overflow-wrap:anywhere}
img{max-width:100%;height:auto}
figure{margin:0 0 1rem}
figcaption{color:#555;font-size:.875rem;max-width:44rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));gap:1rem}
.number{border-left:3px solid #2b6cb0;padding-left:1rem}
.number b{display:block;font-size:1.5rem;line-height:1.3}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .75rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
th.n,td.n{text-align:right;white-space:nowrap}
.warnings{background:#fff8e1;border-left:3px solid #d69e2e;padding:.5rem 1rem .5rem 2rem}
pre{background:#f5f5f5;padding:1rem;overflow-x:auto;font-size:.85rem}
@media print{
body{font-size:10pt;max-width:none;padding:0}
h2{break-after:avoid}
figure,tr,.number{break-inside:avoid}
.wide{overflow:visible}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
}
"""


@dataclass(frozen=True)
class Table:
    """Rows of cells under titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def page(title: str, *markup: str) -> str:
    """Lay out a whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n' + '\n'.join(markup) + '\n</body></html>\n'
    )


def section(title: str, *markup: str) -> str:
    """A titled part; nothing, where there is nothing in it."""
    return f'<h2>{escape(title)}</h2>\n' + '\n'.join(markup) if any(markup) else ''


def paragraph(text: str) -> str:
    """A paragraph; nothing, where there is no text."""
    return f'<p>{escape(text)}</p>' if text else ''


def preformatted(text: str) -> str:
    """Text as it is, in a typewriter's letters."""
    return f'<pre>{escape(text)}</pre>'


def warnings(texts: Sequence[str]) -> str:
    """A list that catches the eye."""
    items = ''.join(f'<li>{escape(text)}</li>' for text in texts)
    return f'<ul class="warnings">{items}</ul>' if texts else ''


def number(value: str, meaning: str) -> str:
    """A headline number and what it means."""
    return f'<div class="number"><b>{escape(value)}</b>{escape(meaning)}</div>'


def grid(*markup: str) -> str:
    """Parts side by side, as many as fit."""
    return f'<div class="grid">{"".join(markup)}</div>' if any(markup) else ''


def picture(source: str, description: str, caption: str = '') -> str:
    """A picture: the name of a file beside the page, or :func:`data_uri`."""
    below = f'<figcaption>{escape(caption)}</figcaption>' if caption else ''
    return f'<figure><img src="{escape(source)}" alt="{escape(description)}">{below}</figure>'


def data_uri(data: bytes, kind: str) -> str:
    """
    Carry a file within the page.

    :param kind: its MIME type, such as ``image/png``
    """
    return f'data:{kind};base64,{b64encode(data).decode()}'


def table(content: Table) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    columns = list(zip(*content.rows, strict=True)) or [()] * len(content.titles)
    right = [bool(c) and not any(isinstance(cell, str) for cell in c) for c in columns]

    def row(tag: str, texts: Sequence[str]) -> str:
        cells = (
            f'<{tag} class="n">{escape(text)}</{tag}>' if n else f'<{tag}>{escape(text)}</{tag}>'
            for text, n in zip(texts, right, strict=True)
        )
        return f'<tr>{"".join(cells)}</tr>'

    body = ''.join(row('td', [written(cell) for cell in cells]) for cells in content.rows)
    head = row('th', content.titles)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def written(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return ABSENT
    return f'{cell:.3f}' if isinstance(cell, float) else str(cell)
