"""Where the time goes: one line of shares, under a bar that has a letter for each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from tui.glyphs import glyphs
from tui.text import clip, significant
from tui.widgets.paint import text

if TYPE_CHECKING:
    from tui.model import StudyView
    from tui.shares import TimeShares

Run = tuple[str, str]


class TimeBar(Static):
    """Shows the shares of the last trials' time."""

    _shares: TimeShares | None = None
    _tall = False

    def show(self, view: StudyView, tall: bool) -> None:
        """Show the shares of ``view``; ``tall`` has the bar as well."""
        if (view.shares, tall) != (self._shares, self._tall):
            changed = tall != self._tall or (view.shares is None) != (self._shares is None)
            self._shares, self._tall = view.shares, tall
            self.refresh(layout=changed)

    def render(self) -> Content:
        """Paint the lines."""
        return Content("\n").join(
            text(*line) for line in time_lines(self._shares, self._tall, self.size.width)
        )


def time_lines(shares: TimeShares | None, tall: bool, width: int) -> list[list[Run]]:
    """Return the bar (when ``tall``) and the words of the shares."""
    if shares is None:
        return [[(clip("where the time goes shows after two trials", width), "dim")]]
    signs = glyphs()
    parts = (("eval", shares.evaluation, signs.full, "bar"), ("sampler", shares.sampler, "s", "limit"),
             ("storage", shares.storage, "w", "path"), ("idle", shares.idle, signs.rest, "rest"))  # fmt: skip
    words = " ".join(f"{name} {100 * share:.0f}%" for name, share, *_ in parts)
    more = [] if shares.joules is None else [f"{significant(shares.joules)} J/trial"]
    more.append(f"{significant(shares.per_minute, 2)}/min")
    for extra in more:
        words = f"{words} {signs.dot} {extra}" if len(words) + len(extra) + 3 <= width else words
    line: list[Run] = [(clip(words, width), "dim")]
    return [_bar(parts, width), line] if tall else [line]


def _bar(parts: tuple[tuple[str, float, str, str], ...], width: int) -> list[Run]:
    """Return a bar of ``width`` cells: each part ends where its share of the whole does."""
    runs: list[Run] = []
    begin, total = 0, 0.0
    for _, share, sign, role in parts:
        total += share
        end = round(total * width)
        runs.append((sign * (end - begin), role))
        begin = end
    return [run for run in runs if run[0]]
