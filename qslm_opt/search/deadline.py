"""A deadline: when a run is to end with the best that is proven by then. It decides when, never what."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from qslm_opt.errors import UsageError

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(min|[dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
MOST_SECONDS = 366 * 86400.0
DEADLINE = "deadline reached"
"""First words of the reason of a study, and of a failed trial, that a deadline stopped."""


class DeadlineReached(KeyboardInterrupt):
    """Raised where Ctrl-C would be, once the deadline has come."""


@dataclass(frozen=True)
class Deadline:
    """A moment, counted on this host's steady clock, which no change of the wall clock moves."""

    text: str
    """As the user wrote it: ``1h30m``."""
    at: float
    """When it comes, in ``time.monotonic()``."""
    wall: float = field(compare=False, default=0.0)
    """When it comes, in seconds since 1970."""

    @classmethod
    def of(cls, text: str | None, began: float) -> Deadline | None:
        """Return the deadline ``text`` after ``began`` (seconds since 1970); None without one.

        Raises:
            UsageError: ``text`` is no time such as ``90s``, ``30m``, ``2h`` or ``1h30m``.
        """
        if text is None:
            return None
        wall = began + parse_duration(text)
        return cls(text.strip(), time.monotonic() + wall - time.time(), wall)

    def left(self) -> float:
        """Return the seconds that are left; 0 once it has come."""
        return max(0.0, self.at - time.monotonic())


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``30m``, ``2h``, ``1h30m``, ``1d``."""
    body = text.strip().lower().replace(" ", "")
    parts = _PART.findall(body) if _WHOLE.fullmatch(body) else []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts:
        raise UsageError(f"--deadline {text!r} is no time; write for instance 90s, 30m, 2h or 1h30m.")
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"--deadline {text!r} is out of range; it must be more than 0s and at most 366d.")
    return seconds


def clock(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``12:34``, rounded up: 0:00 only when nothing is left."""
    whole = int(-(-seconds // 1))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
