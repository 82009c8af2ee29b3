"""The keys: bindings with ids, so that a keymap can move them, and how help and palette name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand
from textual.binding import Binding, BindingType

from tui.glyphs import plain

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen

APP_KEYS: list[BindingType] = [
    Binding("1", "show('overview')", "Overview", show=False, id="show.overview", tooltip="Show the overview"),
    Binding("2", "show('rank')", "Rank", show=False, id="show.rank", tooltip="Show the ranked candidates"),
    Binding("3", "show('model')", "Model", show=False, id="show.model", tooltip="Show the model's bits"),
    Binding("4", "show('trials')", "Trials", show=False, id="show.trials", tooltip="Show all trials"),
    Binding("5", "show('power')", "Power", show=False, id="show.power", tooltip="Show power over time"),
    Binding("o", "studies", "studies", show=False, id="app.studies",
            tooltip="Open another study of the storage"),
    Binding("y", "copy_command", "copy CLI", id="app.copy", tooltip="Copy the equal qslm-opt command line"),
    Binding("e", "export", "export", show=False, id="app.export",
            tooltip="Write what is shown as JSON, CSV or SVG"),
    Binding("X", "stop", "stop", show=False, id="app.stop", tooltip="Stop the search, after asking when"),
    Binding("R", "resume", "resume", show=False, id="app.resume", tooltip="Go on with a stopped search"),
    Binding("S", "save_svg", "SVG", show=False, id="app.svg", tooltip="Save this screen as an SVG picture"),
    Binding("question_mark", "help", "help", key_display="?", id="app.help", tooltip="Show keys and signs"),
    Binding("q", "quit", "quit", id="app.quit", tooltip="Close the dashboard; the search goes on"),
    Binding("ctrl+c", "interrupt", "stop", show=False, id="app.interrupt",
            tooltip="Twice: stop the search, after asking when"),
]  # fmt: skip
"""Keys of the whole app."""

_FINE = Binding.Group("fine", compact=True)
_COARSE = Binding.Group("coarse", compact=True)
LAM_KEYS: list[BindingType] = [
    Binding("[", "app.turn(False,False)", "lower λ a little", id="lam.down", group=_FINE,
            tooltip="Lower λ by one in its second digit"),
    Binding("]", "app.turn(True,False)", "raise λ a little", id="lam.up", group=_FINE,
            tooltip="Raise λ by one in its second digit"),
    Binding("{", "app.turn(False,True)", "lower λ", id="lam.down_coarse", group=_COARSE,
            tooltip="Lower λ by one in its first digit"),
    Binding("}", "app.turn(True,True)", "raise λ", id="lam.up_coarse", group=_COARSE,
            tooltip="Raise λ by one in its first digit"),
    Binding("=", "app.ask_lam", "exact", id="lam.exact", tooltip="Type λ exactly"),
    Binding("L", "app.next_winner", "next", id="lam.next",
            tooltip="Move λ to where the next candidate wins"),
]  # fmt: skip
"""Keys of the panes on which λ is live; the actions are the app's."""
PIN_KEYS: list[BindingType] = [
    Binding("p", "app.pin", "pin", id="pin.set",
            tooltip="Pin the chosen candidate to compare others with it, or let it go"),
    Binding("d", "app.diff", "diff", id="pin.diff",
            tooltip="Show what differs from the pinned candidate"),
]  # fmt: skip
"""Keys of the panes on which a candidate is chosen; the actions are the app's."""


def key_lines(app: App[None], screen: Screen[object]) -> list[tuple[str, str]]:
    """Return (keys, what they do): those of the screen first, those that move a cursor last."""
    found: dict[str, tuple[list[str], str]] = {}
    moves: dict[str, tuple[list[str], str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.id:
            group = found if binding.tooltip else moves
            keys, _ = group.setdefault(binding.action, ([], binding.tooltip or binding.description))
            keys.append(app.get_key_display(binding))
    return [(" ".join(keys), words) for keys, words in (*found.values(), *moves.values())]


def action_ids(panes: Iterable[type]) -> set[str]:
    """Return the ids of all actions: those of the app, of ``panes`` and of all that they import."""
    from textual.dom import DOMNode

    kinds = [*panes, *_all_kinds(DOMNode)]
    return {
        binding.id
        for bindings in (APP_KEYS, *(vars(kind).get("BINDINGS", ()) for kind in kinds))
        for binding in bindings
        if isinstance(binding, Binding) and binding.id
    }


def app_keys() -> dict[str, str]:
    """Return key → id of the actions that are the same on every screen."""
    return {b.key: b.id for b in APP_KEYS if isinstance(b, Binding) and b.id}


def _all_kinds(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("tui."):
            yield below
        yield from _all_kinds(below)


def commands(app: App[None], screen: Screen[object]) -> Iterator[SystemCommand]:
    """Yield a palette entry for every action that says what it does."""
    seen = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.id and binding.tooltip and binding.action not in seen:
            seen.add(binding.action)
            act = partial(app.run_action, binding.action, active.node)
            yield SystemCommand(plain(binding.tooltip), f"key {app.get_key_display(binding)}", act)
