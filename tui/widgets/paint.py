"""Colour roles: what a colour means, once, for text and for widgets that paint their own lines.

Only theme variables are used, and each role goes with a sign or a word, never alone. Names, reasons and
hosts come from other programs: no control character of theirs passes through here.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.content import Content
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from qslm_opt.safe import printable
from tui.glyphs import HEAT_LEVELS

ROLES: dict[str, str] = {
    "": "$foreground",
    "dim": "$foreground 60%",
    "bold": "bold $foreground",
    "head": "bold $foreground 60%",
    "feasible": "$text-primary",
    "infeasible": "$text-warning",
    "pruned": "$foreground 60%",
    "failed": "$text-error",
    "running": "bold $text-accent",
    "best": "bold $text-success",
    "limit": "$text-warning",
    "path": "$primary",
    "axis": "$foreground 40%",
    "bar": "$primary",
    "high": "$accent",
    "rest": "$foreground 25%",
    "key": "bold $text-accent",
}
"""Role → style of text, in theme variables."""


_BREAKS = str.maketrans("\n\t", "  ")


def one_line(words: str) -> str:
    """Return words that cannot steer a terminal or leave their line: newlines and tabs become spaces."""
    return words if words.isprintable() else printable(words).translate(_BREAKS)


def text(*parts: str | tuple[str, str]) -> Content:
    r"""Return content from texts and (text, role) pairs; nothing in them is read as markup.

    Newlines stay; other control characters are shown as ``\u001b``.
    """
    runs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Content.assemble(*((printable(words), ROLES[role]) for words, role in runs))


def line(*parts: str | tuple[str, str]) -> Content:
    """Return a panel's content of one line; nothing in it is read as markup."""
    runs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Content.assemble(*((one_line(words), ROLES[role]) for words, role in runs))


def caption(words: str) -> Content:
    """Return a title of a border, in the border's own colours; nothing in it is read as markup."""
    return Content(one_line(words))


CURSOR = "$block-cursor-foreground on $block-cursor-background bold"
CURSOR_IDLE = "$foreground on $block-cursor-blurred-background"
_SURFACES = {
    "cursor": CURSOR,
    "cursor-idle": CURSOR_IDLE,
    **{f"heat{level}": f"on $primary {8 + 16 * level}%" for level in range(HEAT_LEVELS)},
    **{f"warm{level}": f"on $warning {8 + 16 * level}%" for level in range(HEAT_LEVELS)},
}
"""Role → style of cells that have a background of their own."""


class Painter(Widget):
    """A widget that paints strips from (text, role) runs.

    Roles are resolved once per theme, not through component classes, which cost a style sheet pass each.
    """

    _resolved: dict[str, RichStyle] | None = None

    def notify_style_update(self) -> None:
        """Forget the colours of the theme before."""
        self._resolved = None
        super().notify_style_update()

    def role(self, name: str) -> RichStyle:
        """Return the style of a role on this widget's background."""
        if self._resolved is None:
            self._resolved = {}
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name)
        return self._resolved[name]

    def _resolve(self, name: str) -> RichStyle:
        wanted = Style.parse(ROLES[name] if name in ROLES else _SURFACES[name])
        surface = self.background_colors[1] + wanted.background
        color = wanted.foreground or surface.get_contrast_text(0.9)
        return (Style(surface, color) + Style(bold=wanted.bold)).rich_style

    def strip(self, runs: Iterable[tuple[str, str]], width: int, over: str | None = None) -> Strip:
        """Return a strip of exactly ``width`` cells; ``over`` is a role that takes the whole line."""
        segments = [Segment(one_line(part), self.role(over or role)) for part, role in runs if part]
        return Strip(segments).adjust_cell_length(width, self.role(over or ""))
