"""Windows, the null meter and replayed recordings."""

from __future__ import annotations

import threading
from time import perf_counter, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.measure.meter import NullMeter, ReplayMeter, open_meter
from qslm_opt.measure.sampling import SamplingWindow, summarize, trapezoid

RAMP = [(10.0, 100.0), (11.0, 200.0), (13.0, 200.0)]


def measured(window):
    with window:
        pass
    return window.result()


# ---------------------------------------------------------------------------------------- arithmetic


def test_a_recording_adds_up_as_by_hand():
    found = summarize(RAMP, source="replay")
    assert found.energy_j == 150.0 + 400.0
    assert found.mean_w == pytest.approx(550 / 3)
    assert found.std_w == pytest.approx(((2 * (100 / 3) ** 2 + (200 / 3) ** 2) / 3) ** 0.5)
    assert (found.samples, found.rate_hz) == (3, pytest.approx(2 / 3))
    assert (found.idle_w, found.memory_bytes) == (None, None)


def test_a_counters_energy_wins_over_the_integral_but_not_over_the_mean():
    found = summarize(RAMP, source="nvml", energy_j=600.0)
    assert (found.energy_j, found.mean_w) == (600.0, pytest.approx(550 / 3))


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [(0.0, 100.0)],
        [(5.0, 100.0), (5.0, 120.0)],
        [(0.0, 0.0), (1.0, 0.0)],
        [(0.0, float("nan")), (1.0, 100.0)],
        [(0.0, 100.0), (1.0, float("inf"))],
    ],
    ids=["none", "one", "no duration", "zero watts", "nan", "infinite"],
)
def test_what_was_not_measured_is_none_and_never_zero(samples):
    assert summarize(samples, source="nvml") is None


@given(st.floats(1, 1000), st.lists(st.floats(0.001, 10), min_size=1, max_size=30))
def test_constant_power_has_that_mean_no_spread_and_that_energy(watts, steps):
    times = [0.0]
    for step in steps:
        times.append(times[-1] + step)
    found = summarize([(t, watts) for t in times], source="replay")
    assert found.mean_w == pytest.approx(watts)
    assert found.std_w == pytest.approx(0, abs=1e-9)
    assert found.energy_j == pytest.approx(watts * times[-1])


samples_ = st.lists(st.tuples(st.floats(0.001, 10), st.floats(0.1, 1000)), min_size=3, max_size=30)


@given(samples_, st.data())
def test_energy_of_two_halves_is_the_energy_of_the_whole(steps, data):
    t, recording = 0.0, []
    for step, watts in steps:
        t += step
        recording.append((t, watts))
    cut = data.draw(st.integers(1, len(recording) - 2))
    assert trapezoid(recording[: cut + 1]) + trapezoid(recording[cut:]) == pytest.approx(trapezoid(recording))


@given(samples_)
def test_the_mean_lies_between_the_lowest_and_the_highest_sample(steps):
    recording = [(sum(s for s, _ in steps[: i + 1]), watts) for i, (_, watts) in enumerate(steps)]
    found = summarize(recording, source="replay")
    watts = [w for _, w in recording]
    assert min(watts) * (1 - 1e-9) <= found.mean_w <= max(watts) * (1 + 1e-9)


# --------------------------------------------------------------------------------------- null, replay


def test_the_null_meter_has_no_result_and_says_why():
    meter = NullMeter("no GPU here")
    assert measured(meter.window()) is None
    assert (meter.source, meter.reason, meter.measure_idle(0)) == ("null", "no GPU here", None)
    meter.close()


@pytest.mark.parametrize("meter", [NullMeter(), ReplayMeter([RAMP])], ids=["null", "replay"])
def test_an_open_window_has_no_result_yet(meter):
    with meter.window() as window, pytest.raises(RuntimeError, match="still open"):
        window.result()


def test_recordings_are_played_in_order_and_end():
    meter = ReplayMeter([RAMP, [(0, 50.0), (2, 50.0)]], idle=[(0, 30.0), (1, 30.0)], memory_bytes=7)
    assert meter.measure_idle() == 30.0
    first, second, third = (measured(meter.window()) for _ in range(3))
    assert (first.mean_w, first.idle_w, first.memory_bytes) == (pytest.approx(550 / 3), 30.0, 7)
    assert (second.mean_w, second.energy_j, second.source) == (50.0, 100.0, "replay")
    assert third is None
    assert "has ended" in meter.reason


def test_a_recording_too_short_to_measure_says_so():
    meter = ReplayMeter([[(0, 50.0)]])
    assert measured(meter.window()) is None
    assert "has 1 samples" in meter.reason
    assert meter.measure_idle() is None


def test_a_closed_replay_has_no_windows_left():
    meter = ReplayMeter([RAMP])
    meter.close()
    assert measured(meter.window()) is None


# ----------------------------------------------------------------------------------------- the thread


def sampler(read, **options):
    failures = []
    window = SamplingWindow(
        read, lambda s: summarize(s, source="nvml"), **{"rate_hz": 200, "failed": failures.append, **options}
    )
    return window, failures


def test_power_is_sampled_at_the_rate_asked_for_and_the_real_rate_is_reported():
    window, _ = sampler(lambda: 42.0)
    began = perf_counter()
    with window:
        sleep(0.3)
    took = perf_counter() - began
    found = window.result()
    assert found.mean_w == pytest.approx(42.0)
    assert found.samples >= 10  # 60 on a machine at rest
    assert found.rate_hz <= 230
    assert found.rate_hz == pytest.approx((found.samples - 1) / took, rel=0.2)
    assert 42 * 0.3 <= found.energy_j <= 42.0 * took


def test_the_shortest_window_still_has_its_two_ends():
    watts = iter([100.0, 200.0])
    window, _ = sampler(lambda: next(watts), rate_hz=1)
    with window:
        pass
    assert (window.result().samples, window.result().mean_w) == (2, pytest.approx(150.0))


def test_a_failed_read_gives_none_keeps_the_error_and_does_not_disturb_the_work():
    answers = iter([100.0, 100.0])
    window, failures = sampler(lambda: next(answers))  # StopIteration at the third read
    done = False
    with window:
        sleep(0.1)
        done = True
    assert done
    assert window.result() is None
    assert [type(e) for e in failures] == [StopIteration]


def has_ended(window) -> bool:
    """Wait for the window's thread, which ends by itself."""
    window._thread.join(30)
    return not window._thread.is_alive()


def test_a_meter_that_answers_late_holds_up_no_work():
    hung, go_on = threading.Event(), threading.Event()

    def read() -> float:
        if threading.current_thread() is not threading.main_thread():
            hung.set()
            go_on.wait(30)
        return 1.0

    window, failures = sampler(read, rate_hz=1000)
    with window:
        assert hung.wait(30)
    assert not go_on.is_set()  # the window closed although its thread still waited for the device
    samples = window.result().samples
    go_on.set()
    assert has_ended(window)
    assert window.result().samples == samples == 2
    assert failures == []


def test_work_that_raises_ends_the_thread_and_leaves_no_result():
    window, failures = sampler(lambda: 1.0)
    with pytest.raises(KeyError, match="the work"), window:
        raise KeyError("the work")
    assert has_ended(window)
    assert window.result() is None
    assert failures == []


def test_the_device_is_synchronised_before_the_first_and_before_the_last_sample():
    log: list[str] = []

    def read() -> float:
        log.append("read")
        return 1.0

    window, _ = sampler(read, rate_hz=0.5, synchronize=lambda: log.append("sync"))
    with window:
        log.append("work")
    assert log == ["sync", "read", "work", "sync", "read"]


def test_a_device_that_fails_to_synchronise_is_heard_and_the_thread_ends():
    calls = iter([None])
    window, _ = sampler(lambda: 1.0, synchronize=lambda: next(calls))
    with pytest.raises(StopIteration), window:
        pass
    assert has_ended(window)
    assert window.result() is None


@pytest.mark.parametrize("rate", [0, -1, 1001, float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(ValueError, match="out of range"):
        sampler(lambda: 1.0, rate_hz=rate)


def test_an_unknown_device_has_a_null_meter_that_names_it():
    meter = open_meter("mps")
    assert meter.source == "null"
    assert "'mps'" in meter.reason
