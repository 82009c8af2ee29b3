"""Leases: which processes have stopped beating, by what is seen here alone.

A process holds its trial as long as its beat in the store moves. Clocks of two hosts are never compared:
a lease expires when a beat has stood still for a time that this process has watched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

LEASE_SECONDS = 60.0
"""A beat, due every five seconds, that stands still for this long ends its process's hold on a trial."""


class Leases:
    """What was seen of the beats of one study's processes; ``look`` every few seconds.

    Args:
        beats: Reads the beats of all processes: (host, pid) to a number that moves.
        seconds: How long a beat may stand still.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        beats: Callable[[], Mapping[tuple[str, int], float]],
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self._beats, self._clock = beats, clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int], tuple[float | None, float]] = {}
        self._looked = clock()

    def look(self) -> None:
        """Read the beats. After a pause of this process (a lid, a stop signal) all leases begin anew."""
        now = self._clock()  # before the reading: a beat is at least as fresh as that
        beats = self._beats()
        with self._lock:
            paused = now - self._looked > self.seconds / 2
            for place in {*self._seen, *beats}:
                beat = beats.get(place)
                if paused or place not in self._seen or self._seen[place][0] != beat:
                    self._seen[place] = beat, now
            self._looked = now

    def expired(self, host: str, pid: int) -> bool:
        """Return whether a process has not beaten for ``seconds``; one never seen has them from now on."""
        with self._lock:
            _, since = self._seen.setdefault((host, pid), (None, self._looked))
            return self._looked - since > self.seconds
