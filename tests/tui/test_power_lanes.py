"""Power over time as text: a fixed range, gaps, stale readings, trials on the same axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qslm_opt.results import PowerDevice, PowerSample
from tests.tui.fakes import Study
from tui.glyphs import ASCII, UNICODE
from tui.power import Mark, Power, PowerLane, marks_of
from tui.trace import Axis, columns, mark_line, trace
from tui.widgets.powerlane import MEMORY, POWER, power_lines


def device(name: str = "NVIDIA H200", index: int = 0, **given: Any) -> PowerDevice:
    values = {
        "id": f"d{index}", "study_uuid": "u", "host": "h", "pid": 1, "device": f"cuda:{index}",
        "index": index,
        "name": name, "source": "replay", "limit_w": 700.0, "memory_bytes": 141 * 10**9, "idle_w": 75.0,
    }  # fmt: skip
    return PowerDevice(**{**values, "idle_std_w": 1.0, "rate_hz": 20.0, **given})


def sample(at: float, power_w: float | None, **given: Any) -> PowerSample:
    return PowerSample(
        **{"at": at, "power_w": power_w, "memory_bytes": 40 * 10**9, "temperature_c": 60.0, **given}
    )


def recording(count: int = 1, seconds: int = 60, until: float | None = None) -> Power:
    devices = tuple(device(index=i) for i in range(count))
    samples = {d.id: tuple(sample(t, 350.0) for t in range(seconds)) for d in devices}
    return Power(devices, samples, 0.0, float(seconds if until is None else until))


def text_of(lines: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(part for part, _ in line) for line in lines]


def test_the_range_is_the_limit_and_not_the_data() -> None:
    flat = trace([300.0, 301.0, 302.0], 700.0, signs=UNICODE)
    assert text_of(flat) == ["▃▃▃"], "noise of a watt stays flat"
    assert text_of(trace([0.0, 350.0, 700.0], 700.0, signs=UNICODE)) == ["▁▄█"]
    assert text_of(trace([0.0, 350.0, 700.0], 700.0, 2, signs=UNICODE)) == ["  █", "▁██"]


def test_a_device_that_failed_keeps_its_lane_and_says_why() -> None:
    power = recording(2)
    gone = replace(power.devices[0], reason="NVML stopped answering: the bus is gone")
    nothing = PowerDevice("n", "u", "h", 1, "cpu", reason="no meter here")
    power = replace(power, devices=(gone, power.devices[1], nothing))
    assert [lane.device.id for lane in power.lanes()] == ["d0", "d1"]
    assert power.lanes()[0].title == "GPU 0 NVIDIA H200 (NVML stopped answering: the bus is gone)"
    assert power.why_not() == ""
    assert replace(power, devices=(gone,)).why_not() == ""
    unread = Power((gone,), {gone.id: ()}, 0.0, 60.0)
    assert unread.why_not() == "power n/a: NVML stopped answering: the bus is gone"
    assert replace(power, devices=(nothing,)).why_not() == "power n/a: no meter here"
    assert replace(power, devices=(nothing,)).lanes() == []


def test_what_is_near_the_limit_has_another_role() -> None:
    (line,) = trace([100.0, 600.0, 690.0], 700.0)
    assert [role for _, role in line] == ["bar", "high", "limit"]
    (line,) = trace([100.0, 690.0], 700.0, stale=True)
    assert {role for _, role in line} == {"dim"}


def test_a_gap_in_the_recording_is_a_gap() -> None:
    axis = Axis(0.0, 10.0, 10)
    assert columns([(0.5, 1.0), (0.7, 3.0)], axis, 1.0)[:3] == [2.0, 2.0, None]
    assert columns([(0.5, None)], axis, 9.0) == [None] * 10
    assert columns([(10.0, 4.0)], axis, 1.0)[-1] == 4.0


def test_trials_stand_where_they_ran() -> None:
    marks = [
        Mark(140, "●", "feasible", 0.0, 9.9),
        Mark(141, "✂", "pruned", 10.0, 11.0),
        Mark(142, "▶", "running", 12, None),
    ]
    line = text_of([mark_line(marks, Axis(0.0, 24.0, 24), UNICODE)])[0]
    assert line.startswith("▏#140 ●") and line[10] == "✂" and line[12:].startswith("▏#142 ▶")
    crowded = text_of([mark_line(marks, Axis(0.0, 24.0, 3), UNICODE)])[0]
    assert len(crowded) == 3 and "▶" in crowded


def test_only_ascii_where_wanted() -> None:
    line = mark_line([Mark(1, "+", "feasible", 0.0, 9.0)], Axis(0.0, 9.0, 20), ASCII)
    drawn = text_of([line, *trace([10.0, 400.0, 700.0], 700.0, 3, signs=ASCII)])
    assert all(part.isascii() for part in drawn) and "#" in drawn[-1]


def test_stale_samples_are_grey_and_say_how_old_they_are() -> None:
    power = recording()
    fresh = power_lines(power, [], 80, 4, now=61.0)
    assert "stale" not in " ".join(text_of(fresh)) and "350 W" in text_of(fresh)[1] + text_of(fresh)[2]
    old = power_lines(power, [], 80, 4, now=71.0)
    assert "stale 12 s" in text_of(old)[0]
    assert not {role for line in old[1:] for _, role in line} & {"bar", "high", "limit"}
    assert "stale" not in " ".join(text_of(power_lines(power, [], 80, 4, now=None))), (
        "a recording is never stale"
    )


def test_a_slow_meter_is_not_stale_between_its_samples() -> None:
    slow = PowerLane(device(rate_hz=0.2), (sample(0.0, 10.0),))
    assert slow.stale_seconds(14.0) is None and slow.stale_seconds(16.0) == 16.0


@pytest.mark.parametrize(("count", "height"), [(1, 3), (1, 12), (2, 6), (8, 10), (8, 5), (8, 40)])
def test_all_lanes_share_one_axis_and_fit(count: int, height: int) -> None:
    mark = Mark(7, "●", "feasible", 30.0, 50.0)
    lines = text_of(power_lines(recording(count), [mark], 72, height, 60.0, channels=(POWER, MEMORY)))
    assert len(lines) <= height and max(map(len, lines)) <= 72
    assert lines[-1].index("▏#7") == 13 + (72 - 13) // 2
    assert sum("350 W" in line for line in lines) >= min(count, height - 2)
    if count > height - 1:
        assert "more devices" in lines[-2]


def test_a_cursor_stands_at_its_time_on_every_line() -> None:
    lines = text_of(power_lines(recording(), [], 73, 5, None, cursor=30.0))
    assert {line.index("┃") for line in lines} == {43}


def test_without_a_meter_the_reason_is_said() -> None:
    none = Power((device(source="null", reason="NVML was not found"),))
    assert text_of(power_lines(none, [], 60, 4, 0.0)) == ["power n/a: NVML was not found"]
    assert "no process has looked" in Power().why_not()


def test_throttling_is_said_beside_the_lane() -> None:
    power = Power((device(),), {"d0": (sample(1.0, 690.0, throttle=("power cap",)),)}, 0.0, 2.0)
    assert "! power cap" in text_of(power_lines(power, [], 90, 4, 2.0))[0]


def test_marks_are_the_trials_of_the_span() -> None:
    study = Study().fill()
    trials = study.trials
    first = marks_of(reversed(trials), 0.0, 4e9)
    assert [mark.number for mark in first] == [t.number for t in trials]
    last = marks_of(reversed(trials), first[-2].began - 1, 4e9)
    assert [mark.number for mark in last] == [62, 63][: len(last)] or last[-1].number == 63
    assert last[-1].ended is None and len(last) <= 3


def test_processes_on_one_device_share_its_lane() -> None:
    first, second = device(id="a", started=1.0), device(id="b", started=2.0, limit_w=500.0)
    other = device(index=1, id="c")
    samples = {"a": (sample(1.0, 100.0), sample(3.0, 300.0)), "b": (sample(2.0, 200.0),), "c": ()}
    (lane,) = Power((first, second, other), samples, 0.0, 4.0).lanes()
    assert [s.power_w for s in lane.samples] == [100.0, 200.0, 300.0] and lane.device.limit_w == 500.0
