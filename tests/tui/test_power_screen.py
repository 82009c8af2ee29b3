"""The power screen: live, looking back, zoom, windows of trials, and the states without numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from qslm_opt.results import PowerDevice, PowerSample
from tests.tui.driving import app_on, run, screen_of, until
from tests.tui.fakes import FakeRepository, Study
from tests.tui.recordings import BEGIN, device, recorded, sample, window
from tui.app import QslmApp
from tui.power import Power, PowerLane, watts
from tui.trace import Axis
from tui.widgets.powerview import clock_line, sample_at, screen_lines, throttle_line
from tui.windows import joules, window_lines

NOW = "14:21:25"


@asynccontextmanager
async def watching(
    repository: FakeRepository, size: tuple[int, int] = (120, 36), **given: Any
) -> AsyncIterator[Pilot[Any]]:
    """Run the app on the power screen until it has read the recording."""
    async with run(app_on(repository, pane="power", **given), size) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: app.view is not None and app.view.power is not None)
        shown = ("in this study", "power n/a")
        await until(pilot, lambda: any(words in screen_of(app) for words in shown), "the recording")
        yield pilot


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60)])
async def test_live_it_shows_limit_idle_trials_clock_and_the_newest_window(size: tuple[int, int]) -> None:
    async with watching(recorded(Study().fill()), size) as pilot:
        await until(pilot, lambda: "limit 700 W" in screen_of(pilot.app))
        text = screen_of(pilot.app)
        for mark in (
            "14:19:25 to 14:21:25 (2 min)  ● live", "limit 700 W ┄", "idle 75.0 W", "throttled", "#62 ○",
            "GB", "°C", "97 %", NOW,
            "Window of #56, the newest", "10.4 kJ by the counter", "difference +0.40 %",
            "1.29 J per token, 8,000 tokens", "2 runs", "instant power", "steady: halves differ",
            "σ 6.30 W  n 368",
            "7 windows in this study",
        ):  # fmt: skip
            assert mark in text, f"{mark!r} is missing at {size}:\n{text}"
        assert max(len(line) for line in text.splitlines()) <= size[0]


async def test_comma_looks_back_and_says_what_was_at_that_moment() -> None:
    async with watching(recorded(Study().fill())) as pilot:
        await pilot.press(",", ",", ",")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "┃ looking back; r follows" in text and "live" not in text
        at = 20 * 63 + 25 - 6
        expected = sample(at)
        assert f"14:21:19  0: {watts(expected.power_w)}" in text and "SM 345 MHz" in text
        await pilot.press("r")
        await pilot.pause()
        assert "● live" in screen_of(pilot.app)


async def test_the_window_under_the_cursor_is_that_of_the_trial_that_ran_then() -> None:
    async with watching(recorded(Study().fill())) as pilot:
        await pilot.press("N", "N")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "Window of #62, under ┃" in text and "no window was kept of this trial" in text
        assert "the recording while it ran: mean" in text
        for _ in range(6):
            await pilot.press("N")
        await until(pilot, lambda: "Window of #56, under ┃" in screen_of(pilot.app))
        assert "mean 596 W" in screen_of(pilot.app)
        await pilot.press("n", "enter")
        await pilot.pause()
        assert "Trial #57" in screen_of(pilot.app)


async def test_what_is_not_on_screen_is_read_when_it_is_looked_at() -> None:
    repository = recorded(Study().fill())
    async with watching(repository) as pilot:
        await pilot.press("g")
        await until(pilot, lambda: "14:00:00 to 14:02:00" in screen_of(pilot.app))
        await until(
            pilot, lambda: ("power_samples", "gpu0", BEGIN, BEGIN + 120, 400) in repository.calls, "reading"
        )
        await until(pilot, lambda: "██" in screen_of(pilot.app))
        assert "no sample" not in screen_of(pilot.app)


async def test_zoom_shows_a_longer_and_a_shorter_stretch() -> None:
    async with watching(recorded(Study().fill())) as pilot:
        await pilot.press("-")
        await until(pilot, lambda: "14:16:25 to 14:21:25 (5 min)" in screen_of(pilot.app))
        await pilot.press("+", "+", "+")
        await until(pilot, lambda: "14:20:55 to 14:21:25 (30 s)" in screen_of(pilot.app))


async def test_a_click_looks_at_the_moment_under_the_pointer() -> None:
    async with watching(recorded(Study().fill())) as pilot:
        await pilot.click("#power-view", offset=(60, 4))
        await pilot.pause()
        assert "looking back" in screen_of(pilot.app)


async def test_the_stretch_is_asked_for_again_after_another_screen() -> None:
    repository = recorded(Study().fill())
    async with watching(repository) as pilot:
        await pilot.press("g", "1")
        await until(pilot, lambda: "Tiers" in screen_of(pilot.app))
        await pilot.press("5")
        await until(pilot, lambda: "14:00:00 to 14:02:00" in screen_of(pilot.app))
        await until(pilot, lambda: "limit 700 W" in screen_of(pilot.app))


async def test_without_a_meter_the_reason_and_the_way_on_are_told() -> None:
    repository = FakeRepository(Study().fill())
    repository.devices.append(
        PowerDevice("x", "u-opt-14m", "h", 1, "cpu", reason="NVML is not there and RAPL cannot be read")
    )
    for size in ((80, 24), (120, 36)):
        async with watching(repository, size) as pilot:
            text = screen_of(pilot.app)
            assert "power n/a: NVML is not there and RAPL cannot be read" in text
            assert "qslm-opt doctor" in text and "never estimated" in text
            await pilot.press(",", "+", "n", "enter", "g", "r")
            await pilot.pause()
            assert "power n/a" in screen_of(pilot.app)


async def test_a_meter_without_samples_yet_says_so() -> None:
    repository = FakeRepository(Study().fill())
    repository.devices.append(device())
    async with watching(repository) as pilot:
        await until(pilot, lambda: "no sample yet" in screen_of(pilot.app))
        assert "0 windows in this study" in screen_of(pilot.app)


async def test_one_window_alone_cannot_be_compared() -> None:
    async with watching(recorded(Study().fill(), windows=1)) as pilot:
        text = screen_of(pilot.app)
        assert "the only window so far: two are needed" in text and "1 window in this study" in text


async def test_a_finished_study_shows_the_end_of_its_recording() -> None:
    study = Study().fill(running=False)
    study.state = "finished"
    async with watching(recorded(study)) as pilot:
        text = screen_of(pilot.app)
        assert "the recording's end; the study is finished" in text and "14:20:59" in text
        assert "stale" not in text, "nothing more is to come"
        await pilot.press("g")
        await until(pilot, lambda: "14:00:00 to" in screen_of(pilot.app))


async def test_several_gpus_share_the_height() -> None:
    async with watching(recorded(Study().fill(), gpus=2)) as pilot:
        text = screen_of(pilot.app)
        assert (
            "GPU 0 NVIDIA H200" in text and "GPU 1 NVIDIA H200" in text and text.count("limit 700 W ┄") == 2
        )
    async with watching(recorded(Study().fill(), gpus=8), (80, 24)) as pilot:
        lines = screen_of(pilot.app).splitlines()
        assert sum(" W ▅" in line or " W ▄" in line or " W ▆" in line for line in lines) == 8
        assert any(NOW in line for line in lines[4:])


async def test_the_power_screen_is_plain_ascii_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSLM_OPT_ASCII", "1")
    async with watching(recorded(Study().fill())) as pilot:
        for keys in ((), (",", ","), ("N", "N")):
            await pilot.press(*keys)
            await pilot.pause()
            odd = {c for c in screen_of(pilot.app) if not c.isascii()}
            assert not odd, odd


def lane(samples: list[PowerSample], **given: object) -> PowerLane:
    return PowerLane(device(**given), samples)


def test_throttle_marks_stand_where_the_clocks_were_held_back() -> None:
    calm = [sample(s) for s in range(100)]
    marked = [replace(s, throttle=("thermal",) if i in (30, 31) else ()) for i, s in enumerate(calm)]
    axis = Axis(BEGIN, BEGIN + 100, 100)
    ((label, line),) = throttle_line(lane(marked), axis)
    assert label[0].strip() == "throttled" and line[0] == " " * 30 + "!! thermal"
    assert throttle_line(lane([replace(s, throttle=()) for s in calm]), axis) == []


def test_the_clock_has_times_at_both_ends() -> None:
    ((words, _),) = clock_line(Axis(BEGIN, BEGIN + 60, 60), 73)
    assert words.split()[0] == "14:00:00" and words.split()[-1] == "14:01:00" and len(words) == 73


def test_a_moment_takes_the_nearest_sample_and_none_from_far_away() -> None:
    read = lane([sample(s) for s in range(50)])
    found = sample_at(read, BEGIN + 10.4)
    assert found is not None and found.at == BEGIN + 10
    assert sample_at(read, BEGIN + 500) is None and sample_at(lane([]), BEGIN) is None


def test_a_device_without_limit_or_idle_has_no_such_lines() -> None:
    read = device(limit_w=None, idle_w=None)
    power = Power((read,), {"gpu0": tuple(sample(s) for s in range(60))}, BEGIN, BEGIN + 60)
    lines = ["".join(p for p, _ in line) for line in screen_lines(power, [], 100, 24, None, None)]
    assert not any("limit" in line or "idle" in line for line in lines) and "1000 W" in lines[1]


def said(study: Study, number: int, **given: object) -> str:
    from tests.tui.test_model import view_of

    view = view_of(study)
    record = view.by_number[number]
    power = Power((device(),), {}, BEGIN, BEGIN + 60, windows={record.uuid: window(**given)} if given else {})
    return "\n".join("".join(p for p, _ in line) for line in window_lines(view, record, power))


def test_a_window_says_what_it_does_not_know() -> None:
    study = Study(metric="accuracy").fill()
    text = said(study, 48, energy_j=None, counter_j=None, integral_j=None, items=None, idle_w=None)
    assert "energy n/a" in text and "n/a per sentence" in text and "idle n/a" in text
    text = said(study, 48, counter_j=None, energy_j=10_311.0)
    assert "10.3 kJ by the integral; the counter says n/a\n" in text


def test_an_unsteady_window_says_why_and_what_held_the_clocks() -> None:
    text = said(Study().fill(), 48, steady=False, steady_reason="it rises by 31 W", throttle=("thermal",))
    assert "not steady: it rises by 31 W  ! thermal" in text
    assert "steady?: too short" in said(Study().fill(), 48, steady=None, steady_reason="too short")


def test_a_trial_without_window_says_why() -> None:
    study = Study().fill()
    assert "the model was not run" in said(study, 42) and "it still runs" in said(study, 63)
    assert joules(None) == "n/a" and joules(12.34) == "12.3 J" and joules(12_340.0) == "12.3 kJ"


async def test_a_trials_numbers_hold_its_energy_window() -> None:
    async with run(app_on(recorded(Study().fill()), pane="trials")) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: app.view is not None and app.view.power is not None)
        app.open_trial(56)
        await pilot.pause()
        text = screen_of(app)
        for words in ("energy window    mean 596 W", "1.29 J per token", "steady: halves"):
            assert words in text


async def test_another_study_is_followed_from_its_own_end_and_nothing_stays_pinned() -> None:
    repository = recorded(Study().fill())
    older = Study("older", blocks=2).fill("global", running=False)
    older.state = "finished"
    repository.made.append(older)
    async with watching(repository) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await pilot.press("g")
        app.pin(48)
        await until(pilot, lambda: "looking back" in screen_of(app))
        app.open_study("older")
        await until(pilot, lambda: app.view is not None and app.view.row.name == "older")
        await until(pilot, lambda: "recording's end; the study is finished" in screen_of(app))
        assert app.pinned is None and "looking back" not in screen_of(app)


async def test_every_key_of_the_power_screen_is_in_its_help() -> None:
    async with watching(recorded(Study().fill()), (120, 60)) as pilot:
        await pilot.press("?")
        await pilot.pause()
        text = screen_of(pilot.app)
        for words in (
            "Look at the moment before", "Look at the moment after", "Look a quarter of the stretch back",
            "Show a shorter stretch of time", "Show a longer stretch of time", "Look at the next trial",
            "Follow the newest sample", "Look at the begin of the recording",
        ):  # fmt: skip
            assert words in text, words
