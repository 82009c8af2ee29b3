"""The recording of a whole run's power: a meter's samples on their way into the storage, in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING
from uuid import uuid4

from qslm_opt.errors import StorageError
from qslm_opt.results import PowerDevice, PowerSample
from qslm_opt.store.rows import own_process

if TYPE_CHECKING:
    from qslm_opt.measure.meter import Meter
    from qslm_opt.results import PowerWindow
    from qslm_opt.store import Repository

RECORD_SECONDS = 0.095
"""Samples that span less are stored as their mean: a GPU's reading moves ten times a second, give or take."""
FLUSH_SECONDS = 2.0
"""How often what has gathered is written."""
MOST_WAITING = 36_000
"""Samples that wait for a storage that does not answer, an hour's; older ones are dropped."""


class Recording:
    """Stores what a meter says while entered. A storage that fails loses samples, never the run."""

    def __init__(self, repository: Repository, study_uuid: str, meter: Meter) -> None:
        self._repository, self._uuid, self._meter = repository, study_uuid, meter
        pid, host = own_process()
        self._id, self._pid, self._host, self._started = str(uuid4()), pid, host, time.time()
        self._waiting: deque[PowerSample] = deque(maxlen=MOST_WAITING)
        self._gather = Gather(self._waiting.append)
        self._told: PowerDevice | None = None
        self._trouble: str | None = None
        self._complained = False
        self._stop = threading.Event()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="qslm-opt recording", daemon=True)

    def __enter__(self) -> Recording:
        self.flush()
        if self._meter.source != "null":
            self._unsubscribe = self._meter.subscribe(self._gather)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unsubscribe()
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            self._gather.end()
            self.flush()

    def flush(self) -> None:
        """Write what waits, and what has changed about the device."""
        batch = list(self._waiting)
        try:
            self._tell_device()
            if batch:
                self._repository.add_power_samples(self._id, batch)
        except StorageError as error:
            self._trouble = str(error)
            return
        for _ in batch:  # a full queue has dropped older ones meanwhile, at worst these
            if self._waiting and self._waiting[0].at <= batch[-1].at:
                self._waiting.popleft()

    def keep(self, trial_uuid: str, window: PowerWindow) -> None:
        """Store the window of a trial."""
        try:
            self._repository.set_power_window(self._uuid, trial_uuid, window)
        except StorageError as error:
            self._trouble = str(error)

    def complaint(self) -> str | None:
        """Return what to tell the user, once: that the recording has gaps."""
        if self._trouble is None or self._complained:
            return None
        self._complained = True
        return f"the recording of power has gaps, the search goes on: {self._trouble}"

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()

    def _tell_device(self) -> None:
        """Store the device as it is now, where it differs from what is stored in more than its rate."""
        device = self._meter.describe()
        found = replace(
            device, id=self._id, study_uuid=self._uuid, host=self._host, pid=self._pid,
            started=self._started, rate_hz=_rounded(device.rate_hz),
        )  # fmt: skip
        if found != self._told:
            self._repository.add_power_device(found)
            self._told = found


class Gather:
    """Joins samples that span less than ``RECORD_SECONDS`` into one with their mean power."""

    def __init__(self, give: Callable[[PowerSample], object]) -> None:
        self._give = give
        self._samples: list[PowerSample] = []

    def __call__(self, sample: PowerSample) -> None:
        """Take one sample in."""
        if self._samples and sample.at - self._samples[0].at >= RECORD_SECONDS:
            self.end()
        self._samples.append(sample)

    def end(self) -> None:
        """Give what has gathered."""
        samples, self._samples = self._samples, []
        if samples:
            watts = [s.power_w for s in samples if s.power_w is not None]
            mean = sum(watts) / len(watts) if watts else None
            limits = {name: None for sample in samples for name in sample.throttle}
            self._give(replace(samples[-1], power_w=mean, throttle=tuple(limits)))


def _rounded(rate_hz: float | None) -> float | None:
    """Two digits: what changes less is not worth a write."""
    return None if rate_hz is None else float(f"{rate_hz:.2g}")
