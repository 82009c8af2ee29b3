"""What packed weights cost and save: time, and joules where a meter reads them, in interleaved windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from qslm_opt.bench.packed_arms import Arm, evaluation_arms, generation_arms
from qslm_opt.measure.comparing import interleaved
from qslm_opt.measure.meter import open_meter

if TYPE_CHECKING:
    from qslm_opt.bench.shapes import Subject
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import PowerWindow

WINDOW_SECONDS = 1.0
"""Length of a window; at least one run is inside."""

@dataclass
class PackedRow:
    """One arithmetic of one load, over its windows."""

    load: str
    """``generation`` (batch 1, token by token) or ``evaluation`` (whole windows, loss included)."""
    batch: int
    arm: str
    weight_bytes: int
    """Held by the weights on the device."""
    seconds: list[float] = field(default_factory=list)
    """Per token, by window."""
    joules: list[float] = field(default_factory=list)
    """Per token, by window; empty without a meter."""
    watts: list[float] = field(default_factory=list)
    idle_w: float | None = None

    @property
    def seconds_per_token(self) -> float:
        """Median over the windows."""
        return median(self.seconds)

    def to_json(self, first: PackedRow) -> dict[str, Any]:
        """Return the row, with its ratios to the first of the same load; null where there is no meter."""
        joule, watt = _mean(self.joules), _mean(self.watts)
        base = _mean(first.joules)
        return {
            "load": self.load, "batch": self.batch, "arm": self.arm, "weight_bytes": self.weight_bytes,
            "windows": len(self.seconds), "ms_per_token": 1e3 * self.seconds_per_token,
            "ms_low": 1e3 * min(self.seconds), "ms_high": 1e3 * max(self.seconds),
            "tokens_per_s": 1 / self.seconds_per_token,
            "speedup": first.seconds_per_token / self.seconds_per_token,
            "mean_w": watt, "std_w": _spread(self.watts), "idle_w": self.idle_w,
            "token_j": joule, "token_j_std": _spread(self.joules),
            "energy_ratio": joule / base if joule is not None and base else None,
        }  # fmt: skip


@dataclass(frozen=True)
class PackedSpeeds:
    """All rows, and why there are no watts where there are none."""

    rows: tuple[PackedRow, ...]
    meter: str
    """``nvml``, ``rapl``, ``replay`` or ``null``."""
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        firsts: dict[str, PackedRow] = {}
        for row in self.rows:
            firsts.setdefault(row.load, row)
        rows = [row.to_json(firsts[row.load]) for row in self.rows]
        return {"meter": self.meter, "reason": self.reason, "rows": rows}


def measure_packed(
    subject: Subject,
    batch: int,
    window: int,
    *,
    rounds: int,
    synchronise: Callable[[], None],
    tell: Callable[[str], None],
) -> PackedSpeeds:
    """Measure generation at batch 1, then the evaluation of ``batch`` windows, each in ``rounds`` rounds.

    Both loads read the language-model head.
    """
    with _meter(subject.device, synchronise) as meter:
        meter.measure_idle()
        rows: list[PackedRow] = []
        tell("packed weights, generation")
        rows += _measure("generation", 1, generation_arms(subject), meter, rounds, synchronise)
        tell("packed weights, evaluation")
        arms = evaluation_arms(subject, batch, window)
        rows += _measure("evaluation", batch, arms, meter, rounds, synchronise)
        return PackedSpeeds(tuple(rows), meter.source, meter.reason)


def _measure(
    load: str, batch: int, arms: Sequence[Arm], meter: Meter, rounds: int, synchronise: Callable[[], None]
) -> list[PackedRow]:
    """Return a row an arm; each runs once before it is measured."""
    rows = [PackedRow(load, batch, arm.label, arm.weight_bytes) for arm in arms]
    for arm in arms:
        arm.run()
    for which in interleaved(len(arms), rounds):
        taken, tokens, found = _window(arms[which], meter, synchronise)
        _add(rows[which], taken, tokens, found)
    return rows


def _window(
    arm: Arm, meter: Meter, synchronise: Callable[[], None]
) -> tuple[float, int, PowerWindow | None]:
    synchronise()
    tokens = 0
    with meter.window() as window:
        start = perf_counter()
        while not tokens or perf_counter() - start < WINDOW_SECONDS:
            tokens += arm.run()
        synchronise()
        taken = perf_counter() - start
    return taken, tokens, window.result(items=tokens)


def _add(row: PackedRow, taken: float, tokens: int, found: PowerWindow | None) -> None:
    row.seconds.append(taken / tokens)
    if found is not None:
        row.watts.append(found.mean_w)
        row.idle_w = found.idle_w
        if found.item_j is not None:
            row.joules.append(found.item_j)


@contextmanager
def _meter(device: torch.device, synchronise: Callable[[], None]) -> Iterator[Meter]:
    uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    meter = open_meter(str(device), uuid=uuid, synchronize=synchronise)
    try:
        yield meter
    finally:
        meter.close()


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
