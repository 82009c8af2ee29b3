"""Power is read only while it is shown, and only what is new."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from qslm_opt.results import PowerSample
from tests.tui.driving import app_on, run, screen_of, until
from tests.tui.fakes import START, FakeRepository, Study
from tests.tui.test_power_lanes import device
from tui.app import QslmApp
from tui.power import PowerSpan
from tui.reader import StudyReader

NOW = START + timedelta(seconds=600)


def reading(running: bool = True) -> tuple[FakeRepository, StudyReader]:
    study = Study().fill(running=running)
    study.state = "running" if running else "finished"
    repository = FakeRepository(study)
    repository.devices = [device()]
    repository.samples["d0"] = [PowerSample(START.timestamp() + t, 100.0 + t) for t in range(600)]
    return repository, StudyReader(repository, "opt-14m", lambda: NOW)


def calls(repository: FakeRepository) -> list[tuple[Any, ...]]:
    found = [call for call in repository.calls if call[0].startswith("power")]
    repository.calls.clear()
    return found


def test_nothing_of_the_recording_is_read_while_nothing_shows_it() -> None:
    repository, reader = reading()
    view = reader.read()
    assert view is not None and view.power is None and calls(repository) == []


def test_a_span_is_read_once_and_then_only_what_is_new() -> None:
    repository, reader = reading()
    reader.span = PowerSpan(100.0, None, 50)
    view = reader.read()
    assert view is not None and view.power is not None
    kept = view.power.samples["d0"]
    assert len(kept) <= 50 and kept[0].at >= NOW.timestamp() - 100
    assert [call[0] for call in calls(repository)] == ["power_devices", "power_samples", "power_windows"]
    assert reader.read() is None and calls(repository) == []
    new = PowerSample(NOW.timestamp() + 1, 555.0)
    repository.samples["d0"].append(new)
    repository.version += 1
    view = reader.read()
    assert view is not None and view.power is not None and view.power.samples["d0"][-1] == new
    ((_, _, since, _, points),) = [call for call in calls(repository) if call[0] == "power_samples"]
    assert since == kept[-1].at and points is None


def test_new_samples_are_shown_though_the_storage_tells_of_no_change() -> None:
    repository, _ = reading()
    now = [NOW]
    reader = StudyReader(repository, "opt-14m", lambda: now[0])
    reader.span = PowerSpan(100.0, None, 50)
    first = reader.read()
    assert first is not None
    shown = []
    for second in range(1, 9):  # the mark never moves
        now[0] = NOW + timedelta(seconds=second)
        repository.samples["d0"].append(PowerSample(now[0].timestamp(), 500.0 + second))
        view = reader.read()
        if view is not None and view.power is not None:
            assert view.read_at == now[0] and view.trials is first.trials
            shown.append((second, view.power.samples["d0"][-1].power_w))
    assert shown == [(second, 500.0 + second) for second in (2, 4, 6, 8)]
    reader.span = None
    now[0] += timedelta(seconds=2)
    calls(repository)
    assert reader.read() is None and calls(repository) == []


def test_a_recording_that_stands_still_is_looked_at_and_not_shown_again() -> None:
    repository, _ = reading(running=False)
    now = [NOW]
    reader = StudyReader(repository, "opt-14m", lambda: now[0])
    reader.span = PowerSpan(100.0, START.timestamp() + 200, 10)
    assert reader.read() is not None
    calls(repository)
    now[0] += timedelta(seconds=2)
    assert reader.read() is None
    assert [call[0] for call in calls(repository)] == ["power_devices", "power_windows"]


def test_another_span_is_read_at_once_though_nothing_was_written() -> None:
    _, reader = reading()
    reader.span = PowerSpan(100.0)
    reader.read()
    reader.span = PowerSpan(50.0, START.timestamp() + 200, 10)
    view = reader.read()
    assert view is not None and view.power is not None and not view.power.following
    moments = [s.at - START.timestamp() for s in view.power.samples["d0"]]
    assert moments and moments[0] >= 150 and moments[-1] <= 200
    assert reader.read() is None


def test_the_recording_of_a_search_that_ended_is_shown_up_to_its_end() -> None:
    _, reader = reading(running=False)
    reader.span = PowerSpan(100.0)
    view = reader.read()
    assert view is not None and view.power is not None
    last = max(t.finished or "" for t in view.trials)
    assert view.power.until == datetime.fromisoformat(last).timestamp() != NOW.timestamp()


def test_what_is_derived_of_trials_is_kept_when_power_alone_is_new() -> None:
    repository, reader = reading()
    reader.span = PowerSpan(100.0)
    first = reader.read()
    assert first is not None
    derived = first.events, first.candidates
    repository.samples["d0"].append(PowerSample(NOW.timestamp() + 1, 1.0))
    repository.version += 1
    second = reader.read()
    assert second is not None and second.power != first.power
    assert second.events is derived[0] and second.candidates is derived[1]


async def test_live_lanes_turn_grey_when_the_meter_falls_silent() -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    repository.devices = [device()]
    began = datetime.fromisoformat(study.trials[-1].started or "")
    clock = {"now": began + timedelta(seconds=25)}
    now = clock["now"].timestamp()
    repository.samples["d0"] = [PowerSample(now - 60 + t, 350.0) for t in range(61)]
    app = QslmApp("u", "opt-14m", open_source=lambda: repository, interval=0.02, clock=lambda: clock["now"])
    async with run(app) as pilot:
        await until(pilot, lambda: "350 W" in screen_of(app))
        assert "stale" not in screen_of(app)
        clock["now"] += timedelta(seconds=12)
        app._tick()
        await until(pilot, lambda: "stale 12 s" in screen_of(app))


async def test_without_a_gpu_the_reason_is_on_the_overview() -> None:
    repository = FakeRepository(Study().fill())
    repository.devices = [replace(device(), source="null", reason="NVML was not found", limit_w=None)]
    async with run(app_on(repository), (120, 36)) as pilot:
        await until(pilot, lambda: "power n/a: NVML was not found" in screen_of(pilot.app))
