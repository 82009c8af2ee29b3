"""What readings add up to: by hand, by properties, by the counter and as a judgement of steadiness."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.measure.reading import Reading
from qslm_opt.measure.summary import Recorded, drift, integrate, summarize
from qslm_opt.results import PowerSample, PowerWindow

RAMP = [(10.0, 100.0), (11.0, 200.0), (13.0, 200.0)]


def recorded(points: list[tuple[float, float]], **rest: object) -> Recorded:
    found = Recorded()
    for at, watts in points:
        found.add(Reading(PowerSample(at, watts, **rest)))  # type: ignore[arg-type]
    return found


def summed(
    points: list[tuple[float, float]], span: tuple[float, float] | None = None, domain: str = "instant"
) -> PowerWindow | None:
    span = span or ((points[0][0], points[-1][0]) if points else (0.0, 1.0))
    return summarize(recorded(points), span, source="nvml", domain=domain)


# ------------------------------------------------------------------------------------------ arithmetic


def test_readings_add_up_as_by_hand() -> None:
    found = summed(RAMP)
    assert found is not None
    assert found.energy_j == found.integral_j == 150.0 + 400.0
    assert found.mean_w == pytest.approx(550 / 3)
    assert found.std_w == pytest.approx(((2 * (100 / 3) ** 2 + (200 / 3) ** 2) / 3) ** 0.5)
    assert (found.samples, found.rate_hz, found.seconds) == (3, 1.0, 3.0)
    assert (found.idle_w, found.memory_bytes, found.counter_j, found.items) == (None, None, None, None)


def test_the_first_and_the_last_sample_stand_for_what_is_outside_them() -> None:
    found = summed(RAMP, (9.0, 14.0))
    assert found is not None
    assert found.energy_j == 100 + 550 + 200


@pytest.mark.parametrize(
    "points",
    [[], [(0.0, 100.0)], [(5.0, 100.0), (5.0, 120.0)], [(0.0, 0.0), (1.0, 0.0)],
     [(0.0, float("nan")), (1.0, 100.0)]],
    ids=["none", "one", "no duration", "zero watts", "nan"],
)  # fmt: skip
def test_what_was_not_measured_is_none_and_never_zero(points: list[tuple[float, float]]) -> None:
    assert summed(points) is None


points_ = st.lists(st.tuples(st.floats(0.001, 10), st.floats(0.1, 1000)), min_size=3, max_size=30)


def cumulated(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    t, found = 0.0, []
    for step, watts in steps:
        t += step
        found.append((t, watts))
    return found


@given(points_, st.floats(0, 1))
def test_energy_of_two_parts_is_the_energy_of_the_whole(steps: list[tuple[float, float]], at: float) -> None:
    points = cumulated(steps)
    began, ended = points[0][0], points[-1][0]
    cut = began + at * (ended - began)
    parts = integrate(points, began, cut) + integrate(points, cut, ended)
    assert parts == pytest.approx(integrate(points, began, ended))
    trapezoids = sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points))
    assert integrate(points, began, ended) == pytest.approx(trapezoids)


@given(points_)
def test_the_mean_lies_between_the_lowest_and_the_highest_sample(steps: list[tuple[float, float]]) -> None:
    found = summed(cumulated(steps))
    assert found is not None
    watts = [w for _, w in steps]
    assert min(watts) * (1 - 1e-9) <= found.mean_w <= max(watts) * (1 + 1e-9)


def test_the_rest_of_the_readings_is_the_last_known_and_every_limit() -> None:
    found = Recorded()
    rows = [
        PowerSample(0, 300, 10, 0.5, 1980, 3201, 60.0, ("power cap",)),
        PowerSample(1, 300, 20, None, None, None, 61.0, ()),
        PowerSample(2, 300, None, None, None, None, None, ("thermal",)),
    ]
    for row in rows:
        found.add(Reading(row))
    window = summarize(found, (0, 2), source="nvml", domain="instant")
    assert window is not None
    assert (window.memory_bytes, window.temperature_c) == (20, 61.0)
    assert window.throttle == ("power cap", "thermal")


# ------------------------------------------------------------------------------------------- counters


def counting(seconds: float, period: float = 0.1, moves: float = 0.1, watts: float = 300.0) -> Recorded:
    """Steady power with a counter that moves every ``moves`` seconds, by what was drawn until then."""
    found = Recorded()
    for step in range(round(seconds / period) + 1):
        at = step * period
        ticks = int((at + 0.037) / moves + 1e-9)  # it has moved shortly before the window began
        found.add(Reading(PowerSample(at, watts), 5e6 + ticks * moves * watts))
    return found


def test_a_long_window_takes_the_counter_and_says_how_far_the_integral_is() -> None:
    window = summarize(counting(4.0, period=0.05), (0.0, 4.0), source="nvml", domain="instant")
    assert window is not None
    assert window.energy_j == window.counter_j == pytest.approx(1200, rel=0.02)
    assert window.integral_j == pytest.approx(1200)
    assert window.counter_difference == pytest.approx(0, abs=0.02)


def test_a_counter_that_says_more_than_the_samples_is_believed() -> None:
    found = Recorded()
    for step in range(41):
        found.add(Reading(PowerSample(step * 0.1, 300.0), 33.0 * step))  # 330 W
    window = summarize(found, (0.0, 4.0), source="nvml", domain="instant")
    assert window is not None
    assert window.energy_j == pytest.approx(1320, rel=0.01)
    assert window.counter_difference == pytest.approx(0.1, abs=0.01)
    assert window.mean_w == pytest.approx(300.0)


def test_a_short_window_integrates_because_the_counter_moves_in_steps() -> None:
    window = summarize(counting(1.9), (0.0, 1.9), source="nvml", domain="instant")
    assert window is not None
    assert (window.counter_j, window.energy_j) == (None, pytest.approx(570))


@pytest.mark.parametrize("joules", [[7.0] * 41, [9.0 - n for n in range(41)], [5.0, 6.0] + [6.0] * 39],
                         ids=["stuck", "backwards", "stopped"])  # fmt: skip
def test_without_a_counter_that_moves_the_energy_is_the_integral(joules: list[float]) -> None:
    found = Recorded()
    for step, value in enumerate(joules):
        found.add(Reading(PowerSample(step * 0.1, 300.0), value))
    window = summarize(found, (0.0, 4.0), source="nvml", domain="instant")
    assert window is not None
    assert (window.counter_j, window.energy_j) == (None, pytest.approx(1200))


def test_a_meter_that_is_a_counter_has_its_mean_from_it_and_its_spread_from_the_steps() -> None:
    found = Recorded()
    found.add(Reading(PowerSample(0.0, 999.0), 0.0))  # the step before the window
    found.add(Reading(PowerSample(1.0, 10.0), 10.0))
    found.add(Reading(PowerSample(3.0, 20.0), 50.0))
    window = summarize(found, (0.0, 3.0), source="rapl", domain="counter")
    assert window is not None
    assert (window.energy_j, window.mean_w, window.std_w) == (50.0, pytest.approx(50 / 3), 5.0)
    assert (window.counter_j, window.integral_j, window.samples) == (50.0, None, 2)


# ----------------------------------------------------------------------------------------- steadiness


def judged(points: list[tuple[float, float]], domain: str = "instant", **rest: object) -> tuple[object, str]:
    found = recorded(points, **rest)
    window = summarize(found, (points[0][0], points[-1][0]), source="nvml", domain=domain)
    assert window is not None
    return window.steady, window.steady_reason


LEVEL = [(n / 10, 300.0) for n in range(40)]


def test_level_power_is_steady_and_says_by_how_much() -> None:
    assert judged(LEVEL) == (True, "the halves differ by 0.0 %")


def test_power_that_rises_is_not_steady() -> None:
    assert judged([(t, 300 + 20 * t) for t, _ in LEVEL]) == (False, "the second half drew +12.5 %")


def test_limited_clocks_are_not_steady_but_a_users_setting_is() -> None:
    assert judged(LEVEL, throttle=("power cap", "thermal")) == (
        False, "clocks were limited: power cap, thermal"
    )  # fmt: skip
    assert judged(LEVEL, throttle=("clock setting",))[0] is True


def test_a_clock_that_moves_is_not_steady() -> None:
    found = recorded(LEVEL, sm_clock_mhz=1980)
    found.add(Reading(PowerSample(3.95, 300.0, sm_clock_mhz=1500)))
    window = summarize(found, (0.0, 3.95), source="nvml", domain="instant")
    assert window is not None
    assert (window.steady, window.steady_reason) == (False, "the SM clock went between 1500 and 1980 MHz")


def test_what_cannot_be_told_is_none_with_the_reason() -> None:
    assert judged(LEVEL[:5]) == (None, "5 samples are too few, 8 are needed")
    assert judged(LEVEL[:15], "average") == (None, "samples are averages over 1 s, too long for 1.4 s")
    assert judged(LEVEL, "average")[0] is True
    shared = summarize(recorded(LEVEL), (0, 3.9), source="nvml", domain="instant", shared="MIG splits it")
    assert shared is not None
    assert (shared.steady, shared.steady_reason) == (None, "MIG splits it")


def test_drift_is_the_second_half_over_the_first() -> None:
    assert drift([(0, 100.0), (1, 100.0), (2, 110.0), (3, 110.0)]) == pytest.approx(0.1)
