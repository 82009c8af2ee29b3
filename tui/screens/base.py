"""What every full screen has: a plain sentence when the terminal is too small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from tui.glyphs import ascii_wanted

if TYPE_CHECKING:
    from tui.app import QslmApp

MIN_WIDTH, MIN_HEIGHT = 80, 24


def dash_of(widget: Widget) -> QslmApp:
    """Return the app by its own type."""
    from tui.app import QslmApp

    assert isinstance(widget.app, QslmApp)
    return widget.app


class SizedScreen(Screen[None]):
    """A screen that says so, plainly, when the terminal is below 80x24."""

    DEFAULT_CSS = """
    SizedScreen > #too-small { display: none; width: 100%; height: 100%; content-align: center middle; }
    SizedScreen.-too-small > * { display: none; }
    SizedScreen.-too-small > #too-small { display: block; }
    """
    AUTO_FOCUS = ""
    NOTES: ClassVar[tuple[str, ...]] = ()
    """Sentences about the screen, for the help."""

    @property
    def dash(self) -> QslmApp:
        """The app, by its own type."""
        return dash_of(self)

    def compose(self) -> ComposeResult:
        """Yield the sentence for small terminals, then the rest."""
        yield Static(id="too-small")
        yield from self.content()

    def content(self) -> Iterable[Widget]:
        """Return the screen's widgets."""
        return ()

    def refresh_view(self) -> None:
        """Show what the app knows now."""

    def tick(self) -> None:
        """Show the passing of time; called every second."""

    def on_mount(self) -> None:
        """Choose ASCII borders where asked for."""
        self.set_class(ascii_wanted(), "-ascii")

    def on_resize(self, event: events.Resize) -> None:
        """Show or hide the sentence."""
        width, height = event.size
        small = width < MIN_WIDTH or height < MIN_HEIGHT
        self.set_class(small, "-too-small")
        if small:
            self.query_one("#too-small", Static).update(
                f"This terminal is {width}x{height}.\nThe dashboard needs {MIN_WIDTH}x{MIN_HEIGHT}.\n"
                "Make it larger, or press q: the search goes on."
            )
        self.call_after_refresh(self.refresh_view)
