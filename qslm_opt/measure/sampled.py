"""A meter that samples its source in a thread, and the windows that it cuts out of the samples."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from qslm_opt.measure.meter import DEFAULT_RATE_HZ, Listener
from qslm_opt.measure.reading import Clock, Reading, Source, steady_clock
from qslm_opt.measure.summary import Recorded, summarize
from qslm_opt.results import PowerDevice, PowerSample, PowerWindow

RETRY_SECONDS = 1.0
"""Pause after a reading that failed."""
_CLOSE_SECONDS = 5.0
"""How long a driver that is late is waited for at the end."""


class SampledMeter:
    """Measures one device through its source. The work never waits for a device that answers late."""

    def __init__(
        self,
        source: Source,
        *,
        rate_hz: float = DEFAULT_RATE_HZ,
        synchronize: Callable[[], None] | None = None,
        clock: Clock | None = None,
        thread: bool = True,
    ) -> None:
        """Take the source over; without ``thread`` it is read by ``step`` alone."""
        if not 0 < rate_hz <= 1000:
            raise ValueError(f"sampling rate {rate_hz} Hz is out of range; use above 0, at most 1000")
        self._from, self._period = source, 1 / rate_hz
        self._described = source.describe()  # once, and from no other thread: a driver takes its time
        self.synchronize = synchronize or (lambda: None)
        self.clock = clock or steady_clock()
        self.reason: str | None = None
        self.idle: tuple[float, float] | None = None
        """Mean and σ of the power at rest, in watts."""
        self._listeners: list[Callable[[Reading], None]] = []
        self._reading, self._closing = threading.Lock(), threading.Event()
        self.pause: Callable[[float], object] = self._closing.wait
        """Waits for so many seconds."""
        self._count, self._first, self._last = 0, 0.0, 0.0
        self._started = self.clock()
        self._thread = threading.Thread(target=self._run, name="qslm-opt meter", daemon=True)
        if thread:
            self._thread.start()

    @property
    def source(self) -> str:
        """``nvml``, ``rapl`` or ``replay``."""
        return self._from.name

    @property
    def board(self) -> str | None:
        """Names the physical device."""
        return self._from.board

    @property
    def rate_hz(self) -> float | None:
        """Samples per second so far; None before two."""
        return (self._count - 1) / (self._last - self._first) if self._last > self._first else None

    def describe(self) -> PowerDevice:
        """Return what is measured, as it was when the meter began, with rest, rate and reason so far."""
        idle = self.idle or (None, None)
        return replace(
            self._described, source=self.source, started=self._started, rate_hz=self.rate_hz,
            idle_w=idle[0], idle_std_w=idle[1], reason=self.reason,
        )  # fmt: skip

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of every sample from now on; return the call that ends this."""
        return self.listen(lambda reading: listener(reading.sample))

    def listen(self, listener: Callable[[Reading], None]) -> Callable[[], None]:
        """Tell ``listener`` of every reading from now on; return the call that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def window(self) -> SampledWindow:
        """Return a new window."""
        return SampledWindow(self, self._from)

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Return the mean watts of the device at rest, kept with their spread for later windows."""
        with self.window() as window:
            self.pause(seconds)
        rest = window.result()
        self.idle = (rest.mean_w, rest.std_w) if rest else None
        return rest.mean_w if rest else None

    def step(self, *, wait: bool = True) -> None:
        """Take one reading and tell all who listen; without ``wait``, not while another is under way."""
        if self._closing.is_set() or not self._reading.acquire(blocking=wait):
            return
        try:
            reading = self._from.read(self.clock)
            self._note(reading.sample)
        except Exception as error:  # noqa: BLE001  a meter must never end the run it watches
            self.reason = f"{self.source.upper()} stopped answering: {error}"
            return
        finally:
            self._reading.release()
        for listener in tuple(self._listeners):
            listener(reading)

    def close(self) -> None:
        """Release the device, once it has answered what it was asked."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.reason = "the meter was closed"
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        self._from.close()

    def _note(self, sample: PowerSample) -> None:
        self.reason = None
        self._first = self._first if self._count else sample.at
        self._count, self._last = self._count + 1, sample.at

    def _run(self) -> None:
        due = self.clock()
        while not self._closing.wait(max(0.0, due - self.clock())):
            self.step()
            pause = self._period if self.reason is None else RETRY_SECONDS
            due = max(due + pause, self.clock())  # a late sample is not made up for


class SampledWindow:
    """What a meter's source said while it was open."""

    def __init__(self, meter: SampledMeter, source: Source) -> None:
        self._meter, self._source = meter, source
        self._began = self._ended = 0.0
        self._recorded = Recorded()
        self._open, self._whole = False, False
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> SampledWindow:
        self._meter.synchronize()
        self._began, self._open = self._meter.clock(), True
        self._stop = self._meter.listen(self._recorded.add)
        if self._source.quick:
            self._meter.step()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:  # after a failure the device may not answer
                self._meter.synchronize()
                self._whole = True
        finally:
            if self._source.quick and self._whole:
                self._meter.step()
            self._ended, self._open = self._meter.clock(), False
            if self._stop is not None:
                self._stop()

    @property
    def seconds(self) -> float:
        """How long the window has been open, or was."""
        return (self._meter.clock() if self._open else self._ended) - self._began

    def result(
        self, *, items: int | None = None, repeats: int = 1, run_items: int | None = None
    ) -> PowerWindow | None:
        """Return what was measured; None with too few samples, or when the work raised."""
        if self._open or not self._began:
            raise RuntimeError("the window is still open; leave its `with` block first")
        if not self._whole:
            return None
        device, idle = self._meter.describe(), self._meter.idle
        found = summarize(
            self._recorded, (self._began, self._ended), source=self._source.name,
            domain=self._source.domain, shared=self._source.shared,
        )  # fmt: skip
        return found and replace(
            found, items=items, repeats=repeats, run_items=run_items, idle_w=idle[0] if idle else None,
            limit_w=device.limit_w, device=device.device,
        )  # fmt: skip
