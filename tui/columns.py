"""What a table's column is: its title and width, and when it goes. No Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tui.text import clip


@dataclass(frozen=True)
class Column:
    """A column of fixed width."""

    title: str
    width: int
    right: bool = False
    drop: int = 0
    """0 stays always; of the others the highest goes first when the table is too narrow."""
    grow: bool = False
    """Whether it takes the width that is left over."""
    short: Callable[[str, int], str] = clip
    """Cuts a text to a width."""
