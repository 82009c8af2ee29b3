"""Samples of a meter over time: the thread that takes them, and what they add up to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import fsum, isfinite, sqrt
from time import perf_counter
from types import TracebackType

from qslm_opt.results import PowerWindow

Sample = tuple[float, float]
"""(seconds on any steady clock, watts)."""


COUNTER_AFTER_SECONDS = 0.5
"""Age of a window at which its thread reads the energy counter for the first time."""


class SamplingWindow:
    """Reads a meter from a thread at a steady rate, and where that is quick once at each end."""

    def __init__(
        self,
        read: Callable[[], float | None],
        finish: Callable[[Sequence[Sample]], PowerWindow | None],
        *,
        rate_hz: float,
        failed: Callable[[Exception], None],
        synchronize: Callable[[], None] | None = None,
        ends: bool = True,
        counter: Callable[[], None] | None = None,
        counter_seconds: float = 0.0,
    ) -> None:
        """Take ``read`` (watts, or joules of a counter), and ``finish`` that turns samples into a result.

        With ``ends`` the work waits for a sample before it begins and after it ended; without, a device that
        answers slowly holds nothing up, and what it says after the end is dropped. ``counter`` is called once
        the window is ``COUNTER_AFTER_SECONDS`` old, and at its end where it lasted ``counter_seconds``. A
        ``read`` of None is no sample; an exception of either ends the sampling: ``failed`` is told, and the
        result is None.
        """
        if not 0 < rate_hz <= 1000:
            raise ValueError(f"sampling rate {rate_hz} Hz is out of range; use above 0, at most 1000")
        self._read, self._finish, self._failed = read, finish, failed
        self._synchronize = synchronize or (lambda: None)
        self._ends, self._counter, self._counting = ends, counter, False
        self._counter_seconds = counter_seconds
        self.began = self.ended = 0.0
        self._period = 1 / rate_hz
        self._samples: list[Sample] = []
        self._error: Exception | None = None
        self._closing, self._open = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="qslm-meter", daemon=True)
        self._result: PowerWindow | None = None
        self._left = False

    def __enter__(self) -> SamplingWindow:
        self._synchronize()
        self.began = perf_counter()
        if self._ends:
            self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        try:
            if kind is None:  # after a failure the device may not answer
                self._synchronize()
        finally:
            self.ended = perf_counter()
            # The thread is not waited for: a driver may answer late, and what it says then is dropped.
            with self._open:
                self._closing.set()
        if self._ends:
            self._take()
        if self._counting and self.ended - self.began >= self._counter_seconds:
            self._count()
        if self._error is not None:
            self._failed(self._error)
        elif kind is None:
            self._result = self._finish(self._samples)

    def result(self) -> PowerWindow | None:
        """Return the window's result; None after a failed read or when the work raised."""
        if not self._left:
            raise RuntimeError("the window is still open; leave its `with` block first")
        return self._result

    def _run(self) -> None:
        if not self._ends:
            self._take(inside=True)
        due = perf_counter() + self._period
        while not self._closing.wait(max(0.0, due - perf_counter())):
            self._take(inside=True)
            if self._counter and not self._counting and due - self.began > COUNTER_AFTER_SECONDS:
                self._count()
                self._counting = True
            due = max(due + self._period, perf_counter())  # a late sample is not made up for

    def _count(self) -> None:
        assert self._counter is not None
        try:
            self._counter()
        except Exception as error:  # noqa: BLE001  a meter must never end the run it watches
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error

    def _take(self, inside: bool = False) -> None:
        """Take one sample; one from ``inside`` the window that comes after its end is dropped."""
        if self._error is not None:
            return
        sample, failure = None, None
        try:
            value = self._read()
            if value is not None:
                sample = perf_counter(), value
        except Exception as error:  # noqa: BLE001  a meter must never end the run it watches
            failure = error
        with self._open:
            if inside and self._closing.is_set():
                return
            if sample is not None:
                self._samples.append(sample)
            if failure is not None:
                self._fail(failure)


def summarize(
    samples: Sequence[Sample],
    *,
    source: str,
    span: tuple[float, float] | None = None,
    energy_j: float | None = None,
    idle_w: float | None = None,
    memory_bytes: int | None = None,
) -> PowerWindow | None:
    """Return mean, spread and energy of power samples; None below two samples, without duration or at 0 W.

    The mean is over time (trapezoids), the spread is the standard deviation of the samples, and the
    energy is the integral unless a counter gave it. ``span`` is when the window began and ended: the first
    and the last sample stand for what is outside them. Without it, that is from the first to the last.
    """
    if len(samples) < 2 or not all(isfinite(w) for _, w in samples):
        return None
    began, ended = span or (samples[0][0], samples[-1][0])
    duration = ended - began
    if duration <= 0:
        return None
    integral = trapezoid([(began, samples[0][1]), *samples, (ended, samples[-1][1])])
    if integral <= 0:  # a running device draws power: a meter that says 0 does not measure
        return None
    centre = fsum(w for _, w in samples) / len(samples)
    variance = fsum((w - centre) ** 2 for _, w in samples) / len(samples)
    return PowerWindow(
        source=source,
        samples=len(samples),
        rate_hz=len(samples) / duration if span else (len(samples) - 1) / duration,
        mean_w=integral / duration,
        std_w=sqrt(variance),
        energy_j=integral if energy_j is None else energy_j,
        idle_w=idle_w,
        memory_bytes=memory_bytes,
    )


def trapezoid(samples: Sequence[Sample]) -> float:
    """Return the integral of (seconds, watts) samples in joules."""
    return fsum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(samples))
