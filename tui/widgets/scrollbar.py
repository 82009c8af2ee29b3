"""Scroll bars without block characters, for terminals that have ASCII only."""

from __future__ import annotations

from typing import ClassVar

from textual.scrollbar import ScrollBarRender
from textual.widget import Widget

from tui.glyphs import ascii_wanted


class AsciiScrollBar(ScrollBarRender):
    """Draws the thumb by its background alone, in whole cells."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


def fit_scrollbar(widget: Widget) -> None:
    """Give a scrolling widget the scroll bar that the terminal can show."""
    if ascii_wanted():
        widget.vertical_scrollbar.renderer = AsciiScrollBar  # type: ignore[misc]
