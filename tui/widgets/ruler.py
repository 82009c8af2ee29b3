"""The λ ruler: which candidate wins where, and where λ stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events
from textual.message import Message
from textual.strip import Strip

from tui.glyphs import glyphs
from tui.lam import Scale
from tui.text import bytes_text, lam_text, percent
from tui.widgets.paint import Painter

if TYPE_CHECKING:
    from tui.lam import Winners

Cell = tuple[str, str]


class Ruler(Painter):
    """Three lines: the winners' intervals, the scale with the pointer, and the words."""

    DEFAULT_CSS = "Ruler { height: 3; width: 1fr; }"

    class Turned(Message):
        """The user clicked a place on the ruler."""

        def __init__(self, lam: float) -> None:
            super().__init__()
            self.lam = lam

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._winners: Winners = ()
        self._lam = self._study_lam = 0.0
        self._scale = Scale(1.0)

    def show(self, winners: Winners, lam: float, study_lam: float) -> None:
        """Show the winners' intervals and λ."""
        self._winners, self._lam, self._study_lam = winners, lam, study_lam
        self._scale = Scale.of(winners, lam, study_lam)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """A click sets λ to the place."""
        if event.y < 2 and self._winners:
            value = self._scale.value(event.x / max(1, self.size.width - 1))
            self.post_message(self.Turned(float(f"{value:.2g}")))

    def render_line(self, y: int) -> Strip:
        """Paint one of the three lines."""
        width = self.size.width
        if y == 0:
            return self.strip(segments(self._winners, self._scale, self._lam, width), width)
        if y == 1:
            return self.strip(_scale_line(self._scale, self._lam, self._study_lam, width), width)
        return self.strip(_words(self._winners, self._lam, self._study_lam, width), width)


def segments(winners: Winners, scale: Scale, lam: float, width: int) -> list[Cell]:
    """Return the runs of the interval line: one label a winner, the current one marked as the best."""
    signs = glyphs()
    if not winners:
        return [(signs.rule * width, "axis")]
    runs: list[Cell] = []
    start = 0
    for low, high, trial in winners:
        wins = low <= lam < high
        end = width if high > scale.top else round(scale.place(high) * (width - 1))
        room = end - start - 1
        if end <= start:
            continue
        label = f"{signs.best}#{trial.number}" if wins else f"#{trial.number}"
        label = label if len(label) <= room else (signs.best if wins and room > 0 else "")
        body = label.center(max(0, room), signs.rule)
        runs += [(signs.cross, "axis"), (body, "best" if wins else "feasible")]
        start = end
    return runs


def _scale_line(scale: Scale, lam: float, study_lam: float, width: int) -> list[Cell]:
    signs = glyphs()
    cells = [" "] * width
    marks = [0.0, *(scale.value(share) for share in (0.25, 0.5, 0.75)), scale.top]
    for mark in marks:
        label = f"{float(f'{mark:.2g}'):g}"
        at = round(scale.place(mark) * (width - 1)) - len(label) // 2
        at = min(max(at, 0), width - len(label))
        cells[at : at + len(label)] = label
    pointer = round(scale.place(lam) * (width - 1))
    study = round(scale.place(study_lam) * (width - 1))
    runs: list[Cell] = [
        ("".join(cells[:pointer]), "dim"),
        (signs.up, "key"),
        ("".join(cells[pointer + 1 :]), "dim"),
    ]
    return _with_study(runs, study, pointer)


def _with_study(runs: list[Cell], study: int, pointer: int) -> list[Cell]:
    """Put a ``|`` where the study's own λ lies, unless the pointer is there."""
    if study == pointer:
        return runs
    found: list[Cell] = []
    start = 0
    for text, role in runs:
        inside = study - start
        if 0 <= inside < len(text):
            found += [(text[:inside], role), ("|", "bold"), (text[inside + 1 :], role)]
        else:
            found.append((text, role))
        start += len(text)
    return found


def _words(winners: Winners, lam: float, study_lam: float, width: int) -> list[Cell]:
    """Say who wins here, and whom a larger λ chooses, in as many words as there is room for."""
    signs = glyphs()
    own = f"  | the study's own {lam_text(study_lam)}  " if lam != study_lam else "  the study's own  "
    runs: list[Cell] = [(f"{signs.lam} {lam_text(lam)}", "key"), (own, "dim")]
    held = next(((low, high, t) for low, high, t in winners if low <= lam < high), None)
    if held is None:
        return [*runs, ("nothing feasible to rank", "infeasible")]
    low, high, trial = held
    upto = f"to {lam_text(high)}" if high != float("inf") else "up"
    runs += [(f"{signs.best} #{trial.number}", "best"), (f" wins from {lam_text(low)} {upto}", "")]
    used = sum(len(part) for part, _ in runs)
    return [*runs, (_larger(winners, high, width - used), "dim")]


def _larger(winners: Winners, high: float, room: int) -> str:
    """Return what a larger λ chooses, in the longest words that fit."""
    signs = glyphs()
    after = next((trial for low, _, trial in winners if low >= high), None)
    if after is None:
        return f"   any larger {signs.lam} chooses it too" if room > 30 else ""
    size = bytes_text(after.bytes)
    forms = (
        f"   a larger {signs.lam} chooses #{after.number}: {size}, {percent(after.saving)} saved",
        f"   a larger {signs.lam} chooses #{after.number}",
        f"   above: #{after.number}",
    )
    return next((form for form in forms if len(form) <= room), "")
