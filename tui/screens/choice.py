"""A question with a few answers: stop, delete, export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.glyphs import ascii_wanted
from tui.widgets.paint import caption, text

Choice = tuple[str, str, str]
"""(answer, words, what it means)."""


class ChoiceDialog(ModalScreen["str | None"]):
    """Returns the answer, None when it was left with escape. The first answer is the harmless one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave it", id="choice.cancel", tooltip="Leave the question"),
    ]
    DEFAULT_CSS = """
    ChoiceDialog { align: center middle; }
    ChoiceDialog > .box {
        width: 74; max-width: 96%; height: auto; padding: 0 2; border: round $primary; background: $surface;
    }
    ChoiceDialog.-ascii > .box { border: ascii $primary; }
    ChoiceDialog Static { height: auto; margin-bottom: 1; }
    ChoiceDialog OptionList, ChoiceDialog OptionList:focus {
        height: auto; border: none; padding: 0; background: $surface;
    }
    """

    def __init__(self, title: str, question: str, choices: Sequence[Choice], running: str = "") -> None:
        """``running``: the study that the question is about only as long as it runs."""
        super().__init__()
        self.running = running
        self._title, self._question, self._choices = title, question, tuple(choices)

    def compose(self) -> ComposeResult:
        """Yield the question and the answers."""
        with Vertical(classes="box") as box:
            box.border_title = caption(self._title)
            box.border_subtitle = "enter chooses, escape leaves"
            yield Static(text((self._question, "")))
            yield OptionList(
                *(
                    Option(text((words, "bold"), (f"  {means}", "dim")), id=key)
                    for key, words, means in self._choices
                )
            )

    def on_mount(self) -> None:
        """Wait for an answer."""
        self.set_class(ascii_wanted(), "-ascii")
        self.query_one(OptionList).focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Hand the answer back."""
        self.dismiss(event.option.id)

    def action_leave(self) -> None:
        """Leave without an answer."""
        self.dismiss(None)


def stop_question(name: str, now: bool) -> ChoiceDialog:
    """Ask how a running study is to end; ``now``: its process is on this host."""
    choices: list[Choice] = [
        ("leave", "Leave it running", "the search goes on, also without the dashboard"),
        ("after", "After this trial", "nothing is lost"),
    ]
    if now:
        choices.append(("now", "Now", "the running trial is lost, the rest is stored"))
    return ChoiceDialog("Stop?", f"Study {name} is running. When shall it stop?", choices, name)


def delete_question(name: str, trials: int) -> ChoiceDialog:
    """Ask whether a study is to be deleted."""
    choices = [("keep", "Keep it", ""), ("delete", "Delete it", "with all its trials, for good")]
    return ChoiceDialog("Delete?", f"Delete study {name} with its {trials} trials?", choices)


def export_question(what: str) -> ChoiceDialog:
    """Ask in which form what is shown is to be written."""
    choices = [
        ("json", "JSON", "the trials that are shown, with their settings"),
        ("csv", "CSV", "the same as a table, without settings"),
        ("svg", "SVG", "a picture of the screen"),
    ]
    return ChoiceDialog("Export", f"Write {what} into the working directory as", choices)
