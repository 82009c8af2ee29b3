"""Pieces of HTML. Every text is escaped here, once; what is markup already is of type ``Markup``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from qslm_opt.cli.output import json_line
from qslm_opt.safe import printable

_SHORT = 36
"""Longer words of a table wrap."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as HTML; control characters are shown, not obeyed."""
    return value if isinstance(value, Markup) else Markup(escape(printable(str(value)), quote=True))


def join(parts: Iterable[object]) -> Markup:
    """Return parts one after the other, each escaped unless it is markup."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, *parts: object, **attributes: object) -> Markup:
    """Return an element; a trailing underscore of an attribute's name is left out (``class_``)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(parts)}</{name}>")


def items(lines: Iterable[object], kind: str = "ul", **attributes: object) -> Markup:
    """Return a list."""
    return tag(kind, *(tag("li", line) for line in lines), **attributes)


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[str] = ()
) -> Markup:
    """Return a table with a caption and headers; columns in ``words`` hold text, the others numbers.

    The first cell of a row is its header. It scrolls by itself where the page is narrow.
    """
    left = [column in words for column in columns]
    named = zip(columns, left, strict=True)
    head = tag("tr", *(tag("th", name, scope="col", class_=_side(words)) for name, words in named))
    body = [
        tag("tr", *(
            tag("td" if i else "th", cell, class_=_side(left[i], cell), scope=None if i else "row")
            for i, cell in enumerate(row)
        ))
        for row in rows
    ]  # fmt: skip
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _side(words: bool, cell: object = "") -> str | None:
    if not words:
        return None
    return "w" if len(str(cell)) <= _SHORT or isinstance(cell, Markup) else "w long"


def facts(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> Markup:
    """Return a list of names and values."""
    rows = pairs.items() if isinstance(pairs, Mapping) else pairs
    return tag("dl", *(join((tag("dt", name), tag("dd", value))) for name, value in rows))


def data_block(value: Mapping[str, Any], identity: str) -> Markup:
    """Return JSON for programs, infinite numbers as null; no text in it can end the element."""
    whole = printable(json_line(value))
    for sign in "<>&":
        whole = whole.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{identity}">{whole}</script>')
