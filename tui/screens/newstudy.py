"""The form of a new study: every line is a flag, and the equal command line is shown as it is written."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, Label, Select, Static

from tui.glyphs import ascii_wanted
from tui.newstudy import FIELDS, Field, command_of, problem_of, words_of
from tui.widgets.paint import text
from tui.widgets.scrollbar import fit_scrollbar

Made = tuple[str, list[str]]
_TALL = 28
"""Lines of a terminal that shows the whole form."""


class NewStudyDialog(ModalScreen["Made | None"]):
    """Returns (name, words of the command line), None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", id="newstudy.cancel", tooltip="Leave without a study"),
        Binding("ctrl+s", "create", "create", id="newstudy.create", tooltip="Create the study and run it"),
        Binding("down", "app.focus_next", "next", show=False, id="newstudy.next"),
        Binding("up", "app.focus_previous", "previous", show=False, id="newstudy.previous"),
    ]
    DEFAULT_CSS = """
    NewStudyDialog { align: center middle; }
    NewStudyDialog > .box {
        width: 78; max-width: 98%; height: auto; max-height: 98%; padding: 0 1;
        border: round $primary; background: $surface;
    }
    NewStudyDialog.-ascii > .box { border: ascii $primary; }
    NewStudyDialog VerticalScroll { height: auto; max-height: 12; }
    NewStudyDialog.-tall VerticalScroll { max-height: 24; }
    NewStudyDialog Horizontal { height: 1; }
    NewStudyDialog Label { width: 16; color: $text-muted; }
    NewStudyDialog Input, NewStudyDialog Select { width: 1fr; border: none; height: 1; padding: 0; }
    NewStudyDialog #command { height: auto; margin-top: 1; }
    NewStudyDialog #problem { height: auto; }
    """

    def __init__(self, url: str, names: Collection[str]) -> None:
        super().__init__()
        self._url, self._names = url, names

    def compose(self) -> ComposeResult:
        """Yield the fields, the command line and what is wrong."""
        with Vertical(classes="box") as box:
            box.border_title = "New study"
            box.border_subtitle = "tab: next line   enter or ctrl+s: create and run   escape leaves"
            with VerticalScroll(can_focus=False):
                for field in FIELDS:
                    with Horizontal():
                        yield Label(field.label)
                        yield _widget(field)
            yield Static(id="command")
            yield Static(id="problem")

    def on_mount(self) -> None:
        """Start with the name."""
        self.set_class(ascii_wanted(), "-ascii")
        fit_scrollbar(self.query_one(VerticalScroll))
        self.query_one("#field-name").focus()
        self._follow()

    def on_resize(self, event: events.Resize) -> None:
        """Show all lines at once where there is room for them."""
        self.set_class(event.size.height >= _TALL, "-tall")

    @property
    def values(self) -> dict[str, str]:
        """What is written in each field."""
        return {field.key: self._value(field) for field in FIELDS}

    def _value(self, field: Field) -> str:
        widget = self.query_one(f"#field-{field.key}")
        if isinstance(widget, Input):
            return widget.value
        return str(widget.value) if isinstance(widget, Select) else ""

    def on_input_changed(self) -> None:
        """Follow what is written."""
        self._follow()

    def on_select_changed(self) -> None:
        """Follow what is chosen."""
        self._follow()

    def on_input_submitted(self) -> None:
        """Enter creates the study."""
        self.action_create()

    def _follow(self) -> str:
        """Show the command line and what is wrong with it; return the latter."""
        values = self.values
        problem = problem_of(values, self._names)
        self.query_one("#command", Static).update(text((command_of(values, self._url), "bold")))
        words = (problem, "infeasible") if problem else ("enter or ctrl+s creates it and runs it", "dim")
        self.query_one("#problem", Static).update(text(words))
        return problem

    def action_create(self) -> None:
        """Hand the command line back when the study can be created."""
        if not self._follow():
            values = self.values
            self.dismiss((values["name"].strip(), words_of(values)))

    def action_leave(self) -> None:
        """Leave."""
        self.dismiss(None)


def _widget(field: Field) -> Widget:
    name = f"field-{field.key}"
    if field.choices:
        options = [(choice, choice) for choice in field.choices]
        return Select(options, value=field.value, allow_blank=False, compact=True, id=name)
    return Input(field.value, placeholder=field.hint, compact=True, id=name)
