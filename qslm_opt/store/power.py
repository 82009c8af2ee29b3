"""Power in the storage: devices of a study's runs, what they said over time, windows of its trials."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from qslm_opt.results import THROTTLES, PowerDevice, PowerSample, PowerWindow
from qslm_opt.store.tables import POWER_DEVICE, POWER_ROLLUP, POWER_SAMPLE, POWER_STATE, POWER_WINDOW

if TYPE_CHECKING:
    from sqlalchemy import RowMapping, Table

ROLLUP_MS = 10_000
"""A row of the roll-up stands for at most so long."""
LONG_MS = 3_600_000
"""A longer span is thinned from the roll-up."""
STATE_MS = 1_000
"""What is not power is stored at most so often."""


class PowerRecords:
    """The part of a Repository that keeps power."""

    def _read(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def _write(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def power_devices(self, study_uuid: str) -> list[PowerDevice]:
        """Return the devices that the study's processes measured or could not, in order of their start."""
        d = POWER_DEVICE.c
        query = select(POWER_DEVICE).where(d.study_uuid == study_uuid).order_by(d.started, d.lane)
        with self._read() as connection:
            return [_device(row) for row in connection.execute(query).mappings()]

    def power_samples(
        self, device_id: str, since: float, until: float, points: int | None = None
    ) -> list[PowerSample]:
        """Return a device's samples from ``since`` to ``until`` (seconds since 1970), in order of time.

        With ``points`` at most so many: the mean power of each of as many equal parts of the span, with the
        last of the rest. Long spans are then read from the roll-up.
        """
        with self._read() as connection:
            found = _lane(connection, device_id)
            if found is None or until < since:
                return []
            lane, started = found
            span = _ms(since, started), _ms(until, started)
            width = None if points is None else max(1, -(-(span[1] - span[0] + 1) // points))
            power = connection.execute(_power_query(lane, span, width)).all()
            states = connection.execute(_state_query(lane, span, width)).all()
        return list(_joined(power, states, started))

    def power_windows(self, study_uuid: str, after: float = 0.0) -> dict[str, PowerWindow]:
        """Return trial uuid → its window, of those that ended after ``after`` (seconds since 1970)."""
        w = POWER_WINDOW.c
        query = select(w.trial_uuid, w.measured).where(w.study_uuid == study_uuid, w.ended > after)
        with self._read() as connection:
            rows = connection.execute(query.order_by(w.ended)).all()
        return {uuid: PowerWindow.from_json(measured) for uuid, measured in rows}

    def add_power_device(self, device: PowerDevice) -> None:
        """Store a device, or what has changed about the one of the same id."""
        values = _device_values(device)
        same = POWER_DEVICE.c.id == device.id
        with self._write() as connection:
            if not connection.execute(update(POWER_DEVICE).where(same).values(values)).rowcount:
                connection.execute(insert(POWER_DEVICE).values(id=device.id, **values))

    def add_power_samples(self, device_id: str, samples: Iterable[PowerSample]) -> None:
        """Store samples of a device that was added; those that are not later than what it has are not."""
        with self._write() as connection:
            found = _lane(connection, device_id)
            if found is None:  # its study was deleted meanwhile
                return
            lane, started = found
            last = connection.execute(
                select(func.max(POWER_SAMPLE.c.at_ms)).where(POWER_SAMPLE.c.lane == lane)
            ).scalar()
            by_moment = {_ms(sample.at, started): sample for sample in samples}
            new = [(at, by_moment[at]) for at in sorted(by_moment) if last is None or at > last]
            for table, rows in _rows(new).items():
                if rows:
                    connection.execute(insert(table), [{"lane": lane, **row} for row in rows])

    def set_power_window(self, study_uuid: str, trial_uuid: str, window: PowerWindow) -> None:
        """Store the window of a trial, in place of an earlier one."""
        values = {
            "study_uuid": study_uuid,
            "ended": window.ended or time.time(),
            "measured": asdict(window),
        }
        same = POWER_WINDOW.c.trial_uuid == trial_uuid
        with self._write() as connection:
            if not connection.execute(update(POWER_WINDOW).where(same).values(values)).rowcount:
                connection.execute(insert(POWER_WINDOW).values(trial_uuid=trial_uuid, **values))


def delete_power(connection: Connection, study_uuids: Sequence[str]) -> None:
    """Delete all that is kept of the power of these studies."""
    lanes = select(POWER_DEVICE.c.lane).where(POWER_DEVICE.c.study_uuid.in_(study_uuids)).scalar_subquery()
    for table in (POWER_SAMPLE, POWER_ROLLUP, POWER_STATE):
        connection.execute(delete(table).where(table.c.lane.in_(lanes)))
    for table in (POWER_DEVICE, POWER_WINDOW):
        connection.execute(delete(table).where(table.c.study_uuid.in_(study_uuids)))


# ---------------------------------------------------------------------------------------- reading


def _lane(connection: Connection, device_id: str) -> tuple[int, float] | None:
    """Return the lane of a device and when it started; None when there is no such device."""
    d = POWER_DEVICE.c
    row = connection.execute(select(d.lane, d.started).where(d.id == device_id)).first()
    return None if row is None else (int(row[0]), float(row[1]))


def _power_query(lane: int, span: tuple[int, int], width: int | None) -> Select[Any]:
    """Rows of (moment, milliwatts) by time."""
    t = POWER_SAMPLE.c
    inside = (t.lane == lane) & t.at_ms.between(*span)
    if width is None:
        return select(t.at_ms, t.power_mw).where(inside).order_by(t.at_ms)
    if span[1] - span[0] <= LONG_MS:
        mean: Any = func.avg(t.power_mw)
    else:
        t = POWER_ROLLUP.c
        inside = (t.lane == lane) & t.at_ms.between(*span)
        mean = func.sum(t.power_mw * t.count) / func.nullif(func.sum(t.count), 0)
    part = (t.at_ms - span[0]) // width
    return select(func.max(t.at_ms), mean).where(inside).group_by(part).order_by(part)


def _state_query(lane: int, span: tuple[int, int], width: int | None) -> Select[Any]:
    """Rows of the state by time, from the one that holds when the span begins; one a part of it."""
    t = POWER_STATE.c
    before = select(func.max(t.at_ms)).where(t.lane == lane, t.at_ms <= span[0]).scalar_subquery()
    inside = (t.lane == lane) & (t.at_ms <= span[1]) & (t.at_ms >= func.coalesce(before, span[0]))
    query = select(POWER_STATE).where(inside).order_by(t.at_ms)
    if width is None:
        return query
    last = select(func.max(t.at_ms)).where(inside).group_by((t.at_ms - span[0]) // width)
    return query.where(t.at_ms.in_(last.scalar_subquery()))


def _joined(
    power: Sequence[Sequence[Any]], states: Sequence[Any], started: float
) -> Iterator[PowerSample]:
    """Yield a sample for each row of power with the last state until then."""
    place = -1
    for at_ms, milliwatts in power:
        while place + 1 < len(states) and states[place + 1].at_ms <= at_ms:
            place += 1
        watts = None if milliwatts is None else float(milliwatts) / 1000
        yield _sample(started + at_ms / 1000, watts, states[place] if place >= 0 else None)


def _sample(at: float, watts: float | None, state: Any) -> PowerSample:
    if state is None:
        return PowerSample(at, watts)
    return PowerSample(
        at=at,
        power_w=watts,
        memory_bytes=None if state.memory_kib is None else state.memory_kib * 1024,
        utilization=None if state.utilization is None else state.utilization / 100,
        sm_clock_mhz=state.sm_clock_mhz,
        memory_clock_mhz=state.memory_clock_mhz,
        temperature_c=None if state.temperature is None else float(state.temperature),
        throttle=tuple(name for bit, name in enumerate(THROTTLES) if state.throttle >> bit & 1),
    )


def _device(row: RowMapping) -> PowerDevice:
    return PowerDevice(
        id=row["id"], study_uuid=row["study_uuid"], host=row["host"], pid=row["pid"], device=row["device"],
        index=row["board"], name=row["name"], source=row["source"], limit_w=_watts(row["limit_mw"]),
        memory_bytes=row["memory_bytes"], idle_w=_watts(row["idle_mw"]),
        idle_std_w=_watts(row["idle_std_mw"]), rate_hz=row["rate_hz"], started=row["started"],
        reason=row["reason"],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- writing


def _device_values(device: PowerDevice) -> dict[str, Any]:
    return {
        "study_uuid": device.study_uuid, "host": device.host, "pid": device.pid, "device": device.device,
        "board": device.index, "name": device.name, "source": device.source,
        "limit_mw": _milliwatts(device.limit_w), "memory_bytes": device.memory_bytes,
        "idle_mw": _milliwatts(device.idle_w), "idle_std_mw": _milliwatts(device.idle_std_w),
        "rate_hz": device.rate_hz, "started": device.started, "reason": device.reason,
    }  # fmt: skip


def _part(row: Mapping[str, Any]) -> int:
    return int(row["at_ms"]) // ROLLUP_MS


def _rows(samples: Sequence[tuple[int, PowerSample]]) -> dict[Table, list[dict[str, Any]]]:
    """Return the rows of each table for samples by their moment."""
    power: list[dict[str, Any]] = [
        {"at_ms": at, "power_mw": _milliwatts(sample.power_w)} for at, sample in samples
    ]
    return {
        POWER_SAMPLE: power,
        POWER_ROLLUP: [_mean(list(part)) for _, part in groupby(power, _part)],
        POWER_STATE: list(_states(samples)),
    }


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [row["power_mw"] for row in rows if row["power_mw"] is not None]
    mean = round(sum(known) / len(known)) if known else None
    return {"at_ms": rows[-1]["at_ms"], "count": len(known), "power_mw": mean}


def _states(samples: Sequence[tuple[int, PowerSample]]) -> Iterator[dict[str, Any]]:
    """Yield the first state, and those that differ from the one before: at once where a limit came."""
    last: dict[str, Any] = {}
    for at, sample in samples:
        state = _state(sample)
        known = {key: last.get(key) for key in state}
        urgent = not last or state["throttle"] & ~last["throttle"]
        if urgent or (state != known and at - last["at_ms"] >= STATE_MS):
            last = {"at_ms": at, **state}
            yield last


def _state(sample: PowerSample) -> dict[str, Any]:
    memory, share, heat = sample.memory_bytes, sample.utilization, sample.temperature_c
    return {
        "memory_kib": None if memory is None else memory // 1024,
        "utilization": None if share is None else round(100 * share),
        "sm_clock_mhz": sample.sm_clock_mhz,
        "memory_clock_mhz": sample.memory_clock_mhz,
        "temperature": None if heat is None else round(heat),
        "throttle": sum(1 << THROTTLES.index(name) for name in set(sample.throttle)),
    }


def _ms(at: float, started: float) -> int:
    return round((at - started) * 1000)


def _milliwatts(watts: float | None) -> int | None:
    return None if watts is None else round(watts * 1000)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
