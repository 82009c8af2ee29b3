"""The windows above a screen: one trial in full, help, and the exact λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.glyphs import ascii_wanted, glyphs, plain
from tui.report import trial_runs
from tui.text import lam_text
from tui.widgets.paint import caption, text
from tui.widgets.scrollbar import fit_scrollbar

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

Run = tuple[str, str]


class Dialog(ModalScreen[None]):
    """A centred box that escape closes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter", "dismiss", "close", id="dialog.close", tooltip="Close"),
    ]
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > .box {
        width: 90%; max-width: 100; height: auto; max-height: 90%; padding: 0 2;
        border: round $primary; background: $surface;
    }
    Dialog.-ascii > .box { border: ascii $primary; }
    Dialog Static { height: auto; }
    """

    def on_mount(self) -> None:
        """Choose ASCII borders where asked for."""
        self.set_class(ascii_wanted(), "-ascii")
        for box in self.query(VerticalScroll):
            fit_scrollbar(box)


class TrialDialog(Dialog):
    """Everything that is stored of one trial."""

    def __init__(self, view: StudyView, record: TrialRecord) -> None:
        super().__init__()
        self._view, self._record = view, record

    def compose(self) -> ComposeResult:
        """Yield the numbers, then the setting."""
        with VerticalScroll(classes="box") as box:
            box.border_title = caption(f"Trial #{self._record.number}")
            box.border_subtitle = "escape closes"
            yield Static(text(*trial_runs(self._view, self._record)))


class HelpDialog(Dialog):
    """The keys of the screen behind, and what the signs mean."""

    def __init__(self, keys: list[tuple[str, str]], title: str = "Help", notes: Sequence[str] = ()) -> None:
        super().__init__()
        self._keys, self._title, self._notes = keys, title, notes

    def compose(self) -> ComposeResult:
        """Yield signs, then keys."""
        with VerticalScroll(classes="box") as box:
            box.border_title = caption(self._title)
            box.border_subtitle = "escape closes"
            notes = [(plain(f"  {note}\n"), "") for note in self._notes]
            keys = [run for line in self._keys for run in _key_line(*line)]
            yield Static(text(*notes, ("\n" if notes else "", ""), *_signs(), *keys))


def _key_line(key: str, words: str) -> list[Run]:
    return [(f"{key:>12}  ", "key"), (plain(words), ""), ("\n", "")]


def _signs() -> list[Run]:
    signs = glyphs()
    meanings = (
        (signs.feasible, "feasible", "meets both limits"), (signs.infeasible, "infeasible", "past a limit"),
        (signs.pruned, "pruned", "stopped: the violation was certain"), (signs.failed, "failed", "failed"),
        (signs.running, "running", "running"), (signs.best, "best", "the best at this " + signs.lam),
    )  # fmt: skip
    runs: list[Run] = []
    for sign, role, words in meanings:
        runs += [(f"{sign:>12}  ", role), (words, ""), ("\n", "")]
    ratio = f"{signs.lam} m/M"
    notes = (
        f"score: accuracy {signs.minus} {ratio}, or perplexity + {ratio} (m packed, M fp32 bytes)",
        "room: how much of a limit is left; ! how far past it",
        "plot: what lies at 'off' was not measured to its end, or is beyond the scale",
    )
    return [*runs, ("\n", ""), *((f"  {note}\n", "dim") for note in notes), ("\n", "")]


class LamDialog(ModalScreen["float | None"]):
    """Asks for λ exactly."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close", id="lam.cancel")]
    DEFAULT_CSS = """
    LamDialog { align: center middle; }
    LamDialog > .box { width: 50; height: auto; padding: 0 2; border: round $primary; background: $surface; }
    LamDialog.-ascii > .box { border: ascii $primary; }
    """

    def __init__(self, lam: float) -> None:
        super().__init__()
        self._lam = lam

    def compose(self) -> ComposeResult:
        """Yield the question and the line."""
        with Vertical(classes="box") as box:
            box.border_title = caption(f"{glyphs().lam}, 0 or more")
            yield Input(value=lam_text(self._lam), type="number", compact=True)
            yield Static(id="problem")

    def on_mount(self) -> None:
        """Write at once."""
        self.set_class(ascii_wanted(), "-ascii")
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Hand λ back when it can be one."""
        try:
            value = float(event.value)
        except ValueError:
            value = -1.0
        if 0 <= value < float("inf"):
            self.dismiss(value)
            return
        self.query_one("#problem", Static).update(
            text((f"{event.value!r} cannot be {glyphs().lam}; write a number of 0 or more.", "infeasible"))
        )
