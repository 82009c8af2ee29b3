"""Reads power as it grows: devices when something was written, then only samples that are new. No Textual."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tui.power import Power, PowerSpan, has_meter, lane_place

if TYPE_CHECKING:
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
    from tui.reader import Source

_AHEAD = 60.0
"""The clock of the host that wrote may run so many seconds ahead of this one."""


class PowerReader:
    """Keeps the samples of one span of a study's recording."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._study = ""
        self._span: PowerSpan | None = None
        self._devices: tuple[PowerDevice, ...] = ()
        self._samples: dict[str, list[PowerSample]] = {}
        self._windows: dict[str, PowerWindow] = {}
        self._windows_after = 0.0

    def read(self, study_uuid: str, span: PowerSpan, newest: float) -> Power:
        """Return the span as the storage has it now.

        ``newest`` (seconds since 1970) is where a span that follows ends: now, or when the search ended.
        """
        if (study_uuid, span) != (self._study, self._span):
            self._samples.clear()
            if study_uuid != self._study:
                self._windows, self._windows_after = {}, 0.0
            self._study, self._span = study_uuid, span
        self._devices = tuple(sorted(self.source.power_devices(study_uuid), key=_order))
        until = newest if span.end is None else span.end
        since = until - span.seconds
        newest_of = {lane_place(d): d.id for d in sorted(self._devices, key=lambda d: d.started)}
        for device in self._devices:
            past = self._samples.get(device.id) == [] and newest_of[lane_place(device)] != device.id
            if has_meter(device) and not past:
                self._read_device(device.id, span, since, until)
        self._read_windows(study_uuid)
        samples = {device_id: tuple(kept) for device_id, kept in self._samples.items()}
        return Power(self._devices, samples, since, until, span.end is None, dict(self._windows))

    def _read_device(self, device_id: str, span: PowerSpan, since: float, until: float) -> None:
        kept = self._samples.setdefault(device_id, [])
        if span.end is not None:
            if not kept:
                kept += self.source.power_samples(device_id, since, until, span.points)
            return
        begin = kept[-1].at if kept else since
        found = self.source.power_samples(device_id, begin, until + _AHEAD, None if kept else span.points)
        kept += [sample for sample in found if not kept or sample.at > begin]
        first = next((i for i, sample in enumerate(kept) if sample.at >= since), len(kept) - 1)
        del kept[: max(0, first)]

    def _read_windows(self, study_uuid: str) -> None:
        new = self.source.power_windows(study_uuid, self._windows_after)
        self._windows |= new
        self._windows_after = max(_ends(new.values()), default=self._windows_after)


def _ends(windows: Iterable[PowerWindow]) -> list[float]:
    return [window.ended for window in windows if window.ended is not None]


def _order(device: PowerDevice) -> tuple[str, int, str]:
    return device.host, -1 if device.index is None else device.index, device.device
