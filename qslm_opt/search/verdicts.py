"""From stored trials to verdicts: what the search knows, by the attributes of its trials alone. No Optuna."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qslm_opt.search.machine import Verdict

MAX_FAILURES = 3
"""So many failed evaluations of one setting count as a violated metric."""
INTERRUPTED, STALE, DEVICE, STORAGE = "interrupted", "stale", "device", "storage"
BLAMELESS = (INTERRUPTED, STALE, DEVICE, STORAGE)
"""First words of the attribute ``reason`` of a failed trial whose setting is not to blame."""


@dataclass(frozen=True)
class Reading:
    """What one finished trial says about its digest."""

    digest: str
    verdict: Verdict | None
    """None: the evaluation failed, or was cut off."""
    blame: bool = False
    """Whether the failure counts against the setting."""

    @property
    def strength(self) -> int:
        """Measured to the end beats certainly violated, which beats told without a model run."""
        if self.verdict is None:
            return -1
        if self.verdict.value is not None:
            return 3
        return 2 if self.verdict.metric_ok is not None else 0


def read(attrs: Mapping[str, Any], constraints: Mapping[str, float], state: str) -> Reading | None:
    """Return what a ``complete``, ``pruned`` or ``failed`` trial says; None when it is not of the search."""
    digest = attrs.get("digest")
    if not isinstance(digest, str) or not digest:
        return None
    if state == "failed":
        reason = str(attrs.get("reason", ""))
        return Reading(digest, None, blame=not reason.startswith(BLAMELESS))
    slack = constraints.get("metric")
    memory_ok = constraints.get("memory", 0.0) <= 0
    if state == "pruned" and attrs.get("share") is not None:  # a cheap evaluation: nothing about the bound
        return Reading(digest, Verdict(None, memory_ok, loss=attrs.get("loss"), drift=attrs.get("drift")))
    if state == "pruned" and slack is not None and slack <= 0:
        return Reading(digest, Verdict(None, memory_ok))
    value = attrs.get("value") if state == "complete" else None
    if slack is None or (state == "complete" and value is None):
        return Reading(digest, None, blame=True)
    known = None if value is None else slack
    return Reading(digest, Verdict(slack <= 0, memory_ok, value, attrs.get("loss"), slack=known))


class VerdictTable:
    """Digest → verdict over a growing set of finished trials.

    The result depends on the set alone, not on the order of arrival: the strongest reading of a digest wins,
    among equals that of the lowest trial number. ``revision`` moves when a verdict that was there changed.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.revision = 0
        self._rank: dict[str, tuple[int, int]] = {}
        self._failures: Counter[str] = Counter()
        self._seen: set[int] = set()

    def __contains__(self, number: object) -> bool:
        return number in self._seen

    def add(self, number: int, reading: Reading | None) -> None:
        """Take in a trial's reading; another one of the same number is left out."""
        if number in self._seen:
            return
        self._seen.add(number)
        if reading is None:
            return
        if reading.verdict is not None:
            self._settle(reading.digest, reading.verdict, (reading.strength, -number))
        elif reading.blame:
            self._failures[reading.digest] += 1
            if self._failures[reading.digest] >= MAX_FAILURES:
                self._settle(reading.digest, Verdict(False, True, failed=True), (1, 0))

    def _settle(self, digest: str, verdict: Verdict, rank: tuple[int, int]) -> None:
        known = self._rank.get(digest)
        if known is not None and known >= rank:
            return
        if self.verdicts.get(digest, verdict) != verdict:
            self.revision += 1
        self._rank[digest], self.verdicts[digest] = rank, verdict
