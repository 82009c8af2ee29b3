"""The footer: the keys that matter here. One widget, where Textual's Footer makes one for each key."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from tui.glyphs import plain
from tui.widgets.paint import text

_LAST_STAY = 2
"""Help and quit, which end the bar, are the last to go."""


@dataclass(frozen=True)
class _Item:
    shown: str
    words: str
    keys: tuple[str, ...]

    @property
    def width(self) -> int:
        return cell_len(self.shown) + cell_len(self.words) + 3


class KeyBar(Widget):
    """Shows the active bindings that want to be shown; a click presses the key."""

    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; background: $panel; padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__()
        self._offered: tuple[str, ...] = ()

    def offer(self, ids: tuple[str, ...]) -> None:
        """Show these actions too, and let them stay as long as help and quit."""
        if ids != self._offered:
            self._offered = ids
            self.refresh()

    def on_mount(self) -> None:
        """Follow the focus."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, _: Screen[object]) -> None:
        self.refresh()

    def _items(self) -> list[_Item]:
        """Return what fits: keys of one group are joined under its name."""
        items: dict[object, _Item] = {}
        offered: list[_Item] = []
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.id in self._offered:
                shown = self.app.get_key_display(binding)
                offered.append(_Item(shown, plain(binding.description), (binding.key,)))
                continue
            if not binding.show:
                continue
            shown = self.app.get_key_display(binding)
            words = binding.group.description if binding.group else binding.description
            before = items.get(binding.group or binding.action)
            if before is not None and not binding.group:
                continue
            keys = (*before.keys, binding.key) if before else (binding.key,)
            shown = before.shown + shown if before else shown
            items[binding.group or binding.action] = _Item(shown, plain(words), keys)
        found = list(items.values())
        found[len(found) - _LAST_STAY : len(found) - _LAST_STAY] = offered
        stay = _LAST_STAY + len(offered)
        while sum(item.width for item in found) > self.size.width + 1 and len(found) > stay:
            found.pop(-stay - 1)
        return found

    def render(self) -> Content:
        """Join keys and words."""
        return text(*(run for i in self._items() for run in ((i.shown, "key"), (f" {i.words}  ", ""))))

    def on_click(self, event: events.Click) -> None:
        """Press the key under the pointer."""
        place = event.x - 1
        for item in self._items():
            if 0 <= place < item.width - 1:
                self.app.simulate_key(item.keys[min(place, len(item.keys) - 1)])
                return
            place -= item.width
