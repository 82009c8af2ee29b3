"""Which moment and stretch of the power recording is looked at. Pure; times are seconds since 1970.

The cursor moves inside the stretch that is shown; the stretch moves only when the cursor would leave it, so
that what is looked at stands still. Without a cursor the stretch follows the newest sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tui.power import PowerSpan

SPANS = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 7 * 86400.0)
"""Seconds that the stretch can have."""
STEPS = 60
"""Fine steps of the cursor in one stretch."""
COARSE = 15
"""Fine steps in a coarse one."""


@dataclass(frozen=True)
class Bounds:
    """From when to when there is anything to look at."""

    oldest: float
    newest: float


@dataclass(frozen=True)
class Scrub:
    """The stretch and the cursor."""

    seconds: float = 120.0
    end: float | None = None
    """End of the stretch; None follows the newest sample."""
    at: float | None = None
    """The moment that is looked at; None without a cursor."""

    @property
    def live(self) -> bool:
        """Whether it follows the newest sample."""
        return self.end is None

    def until(self, bounds: Bounds) -> float:
        """Return the end of the stretch."""
        return bounds.newest if self.end is None else self.end

    def since(self, bounds: Bounds) -> float:
        """Return the begin of the stretch."""
        return self.until(bounds) - self.seconds

    def span(self, points: int) -> PowerSpan:
        """Return what is to be read, with at most so many samples a device."""
        return PowerSpan(self.seconds, self.end, points)

    def step(self, steps: float, bounds: Bounds) -> Scrub:
        """Move the cursor by fine steps; past the newest moment it follows again."""
        at = self.until(bounds) if self.at is None else self.at
        at += steps * self.seconds / STEPS
        if steps > 0 and at >= bounds.newest:
            return self.follow()
        return self.look_at(at, bounds)

    def look_at(self, at: float, bounds: Bounds) -> Scrub:
        """Put the cursor on a moment; the stretch moves only as far as it must."""
        at = min(max(at, bounds.oldest), bounds.newest)
        end = self.until(bounds)
        if not end - self.seconds <= at <= end:
            end = at + self.seconds / 2
        end = max(min(end, bounds.newest), min(bounds.oldest + self.seconds, bounds.newest))
        return replace(self, end=end, at=at)

    def zoom(self, closer: bool, bounds: Bounds) -> Scrub:
        """Show the next shorter or longer stretch, with the cursor where it is on screen."""
        later = [s for s in SPANS if (s < self.seconds if closer else s > self.seconds)]
        if not later:
            return self
        seconds = max(later) if closer else min(later)
        if self.at is None:
            return replace(self, seconds=seconds)
        place = (self.at - self.since(bounds)) / self.seconds
        moved = replace(self, seconds=seconds, end=self.at + (1 - place) * seconds)
        return moved.look_at(self.at, bounds)

    def follow(self) -> Scrub:
        """Let go of the cursor and follow the newest sample."""
        return replace(self, end=None, at=None)


def span_words(seconds: float) -> str:
    """Return ``2 min``, ``4 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
