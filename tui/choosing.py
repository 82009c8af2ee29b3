"""λ and the choice of a candidate: what several screens show and every one of them can change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import App

from tui.lam import next_winner, step
from tui.screens.dialogs import LamDialog
from tui.screens.diff import DiffDialog

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView


class ChoosingApp(App[None]):
    """Holds the view, λ and the choice; the actions change them and show the result."""

    def __init__(self) -> None:
        super().__init__()
        self.view: StudyView | None = None
        """The study as last read; None before the first time."""
        self.lam = 0.0
        self.chosen: int | None = None
        """Trial number that the user chose; None follows the winner."""
        self.pinned: int | None = None
        """Trial number that others are compared with."""
        self.feasible_only = True

    def refresh_shown(self) -> None:
        """Show what changed."""

    def set_lam(self, lam: float) -> None:
        """Rank at another λ."""
        self.lam = lam
        self.refresh_shown()

    def choose(self, number: int | None) -> None:
        """Choose a candidate; the first one means to follow the winner."""
        first = self.view.ranked(self.lam, self.feasible_only)[:1] if self.view else []
        self.chosen = None if first and first[0].record.number == number else number
        self.refresh_shown()

    @property
    def chosen_number(self) -> int | None:
        """The chosen trial, else the first of the ranking; None when that is empty."""
        if self.view is None:
            return None
        if self.chosen in self.view.by_number:
            return self.chosen
        rows = self.view.ranked(self.lam, self.feasible_only)
        return rows[0].record.number if rows else None

    @property
    def pinned_trial(self) -> TrialRecord | None:
        """The pinned trial, None without one."""
        return self.view.by_number.get(self.pinned) if self.view and self.pinned is not None else None

    def pin(self, number: int | None) -> None:
        """Compare others with a trial from now on; the pinned one again lets it go."""
        self.pinned = None if number == self.pinned else number
        self.refresh_shown()

    def action_pin(self) -> None:
        """Pin the chosen candidate, or let it go."""
        self.pin(self.chosen_number)

    def action_diff(self) -> None:
        """Show what differs between the pinned candidate and the chosen one."""
        self.compare(self.chosen_number)

    def compare(self, number: int | None) -> None:
        """Show what differs between the pinned trial and another."""
        before = self.pinned_trial
        after = self.view.by_number.get(number) if self.view and number is not None else None
        if self.view is None or before is None or after is None:
            self.notify("Pin a trial first: p pins the one under the cursor.")
        elif before.number == after.number:
            self.notify(f"#{after.number} is the pinned one; move to another to compare.")
        else:
            self.push_screen(DiffDialog(self.view, before, after))

    def action_turn(self, up: bool, coarse: bool) -> None:
        """Turn λ by one step."""
        self.set_lam(step(self.lam, up, coarse))

    def action_ask_lam(self) -> None:
        """Ask for λ exactly."""
        self.push_screen(LamDialog(self.lam), lambda lam: None if lam is None else self.set_lam(lam))

    def action_next_winner(self) -> None:
        """Move λ to where the next candidate wins."""
        lam = next_winner(self.view.winners, self.lam) if self.view else None
        if lam is None:
            self.notify(
                "One candidate wins for every λ."
                if self.view and self.view.winners
                else "Nothing feasible yet."
            )
            return
        self.chosen = None
        self.set_lam(lam)

    def action_follow_winner(self) -> None:
        """Choose the winner, whatever λ is."""
        self.choose(None)

    def action_next_candidate(self, by: int) -> None:
        """Choose the next candidate by rank."""
        numbers = (
            [row.record.number for row in self.view.ranked(self.lam, self.feasible_only)] if self.view else []
        )
        if self.chosen_number in numbers:
            at = numbers.index(self.chosen_number) + by
            self.choose(numbers[max(0, min(at, len(numbers) - 1))])

    def action_toggle_feasible(self) -> None:
        """Rank feasible candidates only, or all measured settings."""
        self.feasible_only = not self.feasible_only
        self.refresh_shown()
