"""Timing so that variants can be compared on a machine that does other work: medians of interleaved runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TypeVar

from qslm_opt.bench.memory import is_out_of_memory

LEAST_SECONDS = 0.05
"""A timing covers so many calls that it lasts about this long, or one."""
_MOST_CALLS = 1000

Key = TypeVar("Key", bound=Hashable)


def _nothing() -> None:
    """Wait for nothing: what a CPU was asked for is done when the call returns."""


@dataclass(frozen=True)
class Timing:
    """Wall time of one call in seconds, over several timings."""

    median_s: float
    low_s: float
    """The fastest timing."""
    high_s: float
    """The slowest."""
    repeats: int
    """Timings that were taken."""

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Return what these timings say; ValueError when there is none."""
        if not seconds:
            raise ValueError("a timing needs at least one run")
        return cls(median(seconds), min(seconds), max(seconds), len(seconds))


@dataclass(frozen=True)
class Variant:
    """Something to time."""

    run: Callable[[], object]
    warmup: Callable[[], object] | None = None
    """Run before the first timing in place of ``run``, where that would take too long; counted nowhere."""


def measure(
    run: Callable[[], object],
    *,
    repeats: int,
    seconds_limit: float,
    synchronise: Callable[[], None] = _nothing,
    warmup: Callable[[], object] | None = None,
) -> Timing:
    """Time one function; see ``interleaved``. Running out of memory comes out as it was raised."""
    found = interleaved(
        {0: Variant(run, warmup)}, repeats=repeats, seconds_limit=seconds_limit, synchronise=synchronise
    )[0]
    if isinstance(found, BaseException):
        raise found
    return found


def interleaved(
    variants: Mapping[Key, Variant],
    *,
    repeats: int,
    seconds_limit: float,
    synchronise: Callable[[], None] = _nothing,
) -> dict[Key, Timing | BaseException]:
    """Time variants in rounds, each once a round, so that what else the machine does hits all alike.

    Args:
        repeats: rounds, at least 1.
        seconds_limit: a variant takes part in no further round once its timings sum to this; it takes part
            in the first.
        synchronise: waits for the device; called before each reading of the clock.

    Returns:
        The timing of each variant, or the error where memory ran out: the others go on.
    """
    failed: dict[Key, BaseException] = {}
    calls: dict[Key, int] = {}
    for key, variant in variants.items():
        try:
            calls[key] = _warm_up(variant, synchronise)
        except (MemoryError, RuntimeError) as error:
            failed[key] = _only_memory(error)
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    spent = dict.fromkeys(calls, 0.0)
    for _ in range(max(1, repeats)):
        for key in [key for key in calls if not seconds[key] or spent[key] < seconds_limit]:
            if key in failed:
                continue
            try:
                taken = _timed(variants[key].run, calls[key], synchronise)
            except (MemoryError, RuntimeError) as error:
                failed[key] = _only_memory(error)
                continue
            spent[key] += taken
            seconds[key].append(taken / calls[key])
    return {key: failed.get(key) or Timing.of(seconds[key]) for key in variants}


def _only_memory(error: BaseException) -> BaseException:
    if not is_out_of_memory(error):
        raise error
    return error.with_traceback(None)  # the frames hold the tensors that did not fit


def _warm_up(variant: Variant, synchronise: Callable[[], None]) -> int:
    """Run a variant once, untimed, and return the calls that one timing is to cover."""
    if variant.warmup is not None:
        variant.warmup()
        return 1
    _timed(variant.run, 1, synchronise)  # compiles kernels, fills caches
    taken = _timed(variant.run, 1, synchronise)
    return min(_MOST_CALLS, max(1, int(LEAST_SECONDS / max(taken, 1e-9))))


def _timed(run: Callable[[], object], calls: int, synchronise: Callable[[], None]) -> float:
    synchronise()
    start = perf_counter()
    for _ in range(calls):
        run()
    synchronise()
    return perf_counter() - start
