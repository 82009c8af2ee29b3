"""The study's screens by name, each imported when it is first shown: opening waits for one of them only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.screens.study import Pane

_WHERE: Mapping[str, tuple[str, str]] = {
    "overview": ("tui.screens.overview", "OverviewPane"),
    "rank": ("tui.screens.rank", "RankPane"),
    "model": ("tui.screens.model", "ModelPane"),
    "trials": ("tui.screens.trials", "TrialsPane"),
    "power": ("tui.screens.power", "PowerPane"),
}
PANES = tuple(_WHERE)
"""Names of the screens, in the order of their keys."""


def pane_class(name: str) -> type[Pane]:
    """Return the class of a screen."""
    module, attribute = _WHERE[name]
    found: type[Pane] = getattr(import_module(module), attribute)
    return found
