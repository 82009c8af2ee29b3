"""Printing: data to stdout, narration to stderr, and how numbers are written for people.

Colour is Rich's own rule: only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from qslm_opt.figures import digits as digits
from qslm_opt.figures import metric_change as metric_change
from qslm_opt.figures import metric_value as metric_value
from qslm_opt.figures import size as size
from qslm_opt.figures import total_text as total_text
from qslm_opt.figures import watts as watts
from qslm_opt.safe import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

SCHEMA = 1
"""Version of every JSON object that the commands print."""
_PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe: none is cut."""

_WIDEST = 1000
"""More columns than any table has."""


def narrate(text: str) -> None:
    """Print one line for people to stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def print_line(text: str) -> None:
    """Print one line of data to stdout."""
    sys.stdout.write(printable(text) + "\n")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout; infinite and missing numbers are null."""
    whole = {"schema": SCHEMA, **value}
    try:
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # another mapping than a dict, or a number that JSON has not
        text = json.dumps(_finite(whole), indent=2, ensure_ascii=False)
    print_line(text)


def json_line(value: Mapping[str, Any]) -> str:
    """Return one object as one line of JSON; infinite and missing numbers are null."""
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))


def console(*, stderr: bool = False) -> Console:
    """Return a Rich console on stdout or stderr that never cuts a table on a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH

    class PlainConsole(Console):
        """Shows control characters of a text, such as a study's name, instead of obeying them."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return PlainConsole(
        stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
    )


def table(*columns: str, left: int = 0, text: Sequence[str] = (), title: str | None = None) -> Table:
    """Return an empty table: the first ``left`` columns and those in ``text`` are words, others numbers."""
    from rich import box
    from rich.table import Table

    found = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    found.pad_edge = False
    for place, name in enumerate(columns):
        words = place < left or name in text
        found.add_column(name, justify="left" if words else "right", no_wrap=True)
    return found


def table_width(out: Console, found: Table) -> int:
    """Return the columns that a table needs to be whole."""
    return found.__rich_measure__(out, out.options.update(max_width=_WIDEST)).maximum


def print_table(out: Console, found: Table) -> None:
    """Print a table whole: on a terminal that is too narrow its lines wrap, but no number is cut."""
    wide, out.width = out.width, max(out.width, table_width(out, found))
    out.print(found)
    out.width = wide


def interval(found: tuple[float, float] | None) -> str:
    """Return the λ that a candidate wins, such as ``0.12–0.5`` or ``≥ 0.5``; a dash for none."""
    if found is None:
        return "–"
    low, high = found
    if not isfinite(high):
        return f"≥ {low:.4g}" if low else "any"
    return f"{low:.4g}–{high:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
