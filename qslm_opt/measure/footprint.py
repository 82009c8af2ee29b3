"""How much memory a process holds, and held at most: what Linux keeps of it, else what the system tells."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Peak:
    """The most memory since a ``Watch`` began, beyond what was held then."""

    bytes: int
    source: str
    """How it was found."""


class Watch:
    """Watches the resident memory of this process from its construction on.

    Where the kernel lets a process forget its highest mark, that is forgotten first. Where it does not, a
    peak that was reached before hides a smaller one, and the growth of the mark is what is known.
    """

    def __init__(self) -> None:
        self._fresh = _forget_peak()
        self._before = resident_bytes() if self._fresh else peak_bytes()

    def peak(self) -> Peak:
        """Return the highest mark since then, less what was held at the beginning."""
        source = "VmHWM since loading began, less VmRSS then" if self._fresh else "growth of ru_maxrss"
        return Peak(max(0, peak_bytes() - self._before), source)


def resident_bytes() -> int:
    """Return the resident set of this process now; its highest mark where the system does not say."""
    found = _status("VmRSS")
    return peak_bytes() if found is None else found


def peak_bytes() -> int:
    """Return the highest mark of the resident set."""
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(key + ":")]
    return int(found[0][1]) * 1024 if found else None


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _status("VmHWM") is not None
