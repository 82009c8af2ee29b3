"""The sampled meter and its windows, on a device and a clock that stand still until they are moved."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from qslm_opt.errors import UsageError
from qslm_opt.measure.meter import ENVIRONMENT_KEY, NullMeter, open_meter
from qslm_opt.measure.reading import Reading, steady_clock
from qslm_opt.measure.sampled import SampledMeter
from qslm_opt.results import PowerSample
from tests.measure.fakes import Bench, FakeSource


def test_a_window_holds_its_own_time_and_nothing_else() -> None:
    bench = Bench()
    bench.go(1.0, watts=lambda _: 900.0)
    window = bench.meter.window()
    with window:
        bench.go(2.0, watts=lambda t: 100 + 100 * t)
    bench.go(1.0, watts=lambda _: 900.0)
    found = window.result(items=400, repeats=2)
    assert found is not None
    assert (found.samples, found.seconds, found.rate_hz) == (20, 2.0, 10.0)
    # trapezoids of 110 … 300 W, with the first sample standing for the tenth of a second before it
    assert found.integral_j == pytest.approx(0.1 * 110 + sum(0.1 * (105 + 10 * k) for k in range(1, 20)))
    assert found.mean_w == pytest.approx(found.integral_j / 2)
    assert (found.began, found.ended) == (1001.0, 1003.0)
    assert (found.source, found.device, found.limit_w, found.domain) == ("nvml", "cuda:0", 700.0, "instant")
    assert (found.items, found.repeats, found.item_j) == (400, 2, pytest.approx(found.energy_j / 400))
    assert found.run_j == pytest.approx(found.energy_j / 2)
    cut_short = window.result(items=400, repeats=2, run_items=320)  # the second run ended at a quarter
    assert cut_short is not None
    assert cut_short.run_j == pytest.approx(found.energy_j * 320 / 400)
    assert window.result(items=0, repeats=1, run_items=320).run_j is None  # type: ignore[union-attr]


def test_a_source_is_asked_what_it_is_once_and_never_beside_its_readings() -> None:
    bench = Bench()
    with bench.meter.window() as window:
        bench.go(1.0)
    found = window.result()
    first = bench.meter.describe()
    bench.source.facts = {"name": "NVIDIA GPU"}
    assert bench.source.described == 1
    assert found is not None
    assert found.limit_w == 700.0
    assert replace(bench.meter.describe(), rate_hz=first.rate_hz) == first
    assert (first.name, first.limit_w, first.memory_bytes) == ("Fake", 700.0, 2**37)


def test_windows_may_overlap() -> None:
    bench = Bench()
    outer, inner = bench.meter.window(), bench.meter.window()
    with outer:
        bench.go(1.0, watts=lambda _: 100.0)
        with inner:
            bench.go(1.0, watts=lambda _: 200.0)
    assert inner.result().mean_w == pytest.approx(200.0)  # type: ignore[union-attr]
    assert outer.result().samples == 20  # type: ignore[union-attr]


def test_a_window_that_is_shorter_than_two_samples_has_no_result() -> None:
    bench = Bench()
    with bench.meter.window() as window:
        bench.go(0.1)
    assert window.result() is None


def test_a_device_at_0_watts_or_without_a_number_is_no_measurement() -> None:
    for watts in (0.0, None, float("nan")):
        bench = Bench(FakeSource(power_w=watts))
        with bench.meter.window() as window:
            bench.go(1.0)
        assert window.result() is None


def test_the_device_at_rest_stands_beside_every_later_window_with_its_spread() -> None:
    bench = Bench(FakeSource(power_w=75.0))
    bench.meter.pause = lambda seconds: bench.go(seconds, watts=lambda t: 75 + (1 if t > seconds / 2 else -1))
    assert bench.meter.measure_idle(2.0) == pytest.approx(75.0, abs=0.2)
    device = bench.meter.describe()
    assert device.idle_w == pytest.approx(75.0, abs=0.2)
    assert device.idle_std_w == pytest.approx(1.0, abs=0.01)
    with bench.meter.window() as window:
        bench.go(1.0, watts=lambda _: 500.0)
    assert window.result().idle_w == device.idle_w  # type: ignore[union-attr]


def test_the_rate_that_was_reached_is_told_not_the_one_asked_for() -> None:
    bench = Bench(rate_hz=20)
    assert bench.meter.describe().rate_hz is None
    bench.go(3.0, period=0.25)
    assert bench.meter.describe().rate_hz == pytest.approx(4.0)


def test_a_failed_reading_is_a_reason_until_the_device_answers_again() -> None:
    bench = Bench()
    with bench.meter.window() as window:
        bench.go(0.5)
        bench.source.error = OSError("the bus is gone")
        bench.go(0.5)
        assert bench.meter.reason == "NVML stopped answering: the bus is gone"
        bench.source.error = None
        bench.go(0.5)
    assert bench.meter.reason is None
    assert window.result().samples == 10  # type: ignore[union-attr]


def test_work_that_raises_leaves_no_result_and_no_listener() -> None:
    bench = Bench()
    window = bench.meter.window()
    with pytest.raises(KeyError, match="the work"), window:
        raise KeyError(bench.go(1.0) or "the work")
    assert window.result() is None
    assert bench.meter._listeners == []


def test_the_device_is_synchronised_before_both_ends_but_not_after_a_failure() -> None:
    log: list[str] = []
    bench = Bench(synchronize=lambda: log.append(f"sync {bench.now - 1000:g}"))
    with bench.meter.window():
        bench.go(1.0)
    assert log == ["sync 0", "sync 1"]
    with pytest.raises(KeyError), bench.meter.window():
        raise KeyError
    assert log == ["sync 0", "sync 1", "sync 1"]


def test_an_open_window_has_no_result_yet() -> None:
    for meter in (NullMeter(), Bench().meter):
        with pytest.raises(RuntimeError, match="still open"):
            meter.window().result()
        with meter.window() as window, pytest.raises(RuntimeError, match="still open"):
            window.result()


def test_a_source_that_answers_at_once_is_asked_at_both_ends() -> None:
    source = FakeSource()
    source.quick = True
    bench = Bench(source)
    with bench.meter.window() as window:
        bench.now += 0.01
    assert window.result().samples == 2  # type: ignore[union-attr]


def test_closing_releases_the_device_once_and_later_windows_are_empty() -> None:
    bench = Bench()
    bench.meter.close()
    bench.meter.close()
    assert bench.source.closed == 1
    with bench.meter.window() as window:
        bench.go(1.0)
    assert window.result() is None
    assert bench.meter.reason == "the meter was closed"


def test_samples_are_told_to_all_who_listen_until_they_leave() -> None:
    bench, heard = Bench(), []
    stop = bench.meter.subscribe(heard.append)
    bench.go(0.3)
    stop()
    bench.go(0.3)
    assert [sample.at for sample in heard] == pytest.approx([1000.1, 1000.2, 1000.3])


@pytest.mark.parametrize("rate", [0, -1, 1001, float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Bench(rate_hz=rate)


# ------------------------------------------------------------------------------------------ the thread


def test_the_thread_samples_by_itself_and_ends_with_the_meter() -> None:
    enough = threading.Event()
    meter = SampledMeter(FakeSource(), rate_hz=1000)
    heard: list[PowerSample] = []

    def listen(sample: PowerSample) -> None:
        heard.append(sample)
        if len(heard) >= 5:
            enough.set()

    meter.subscribe(listen)
    assert enough.wait(60)
    meter.close()
    assert not meter._thread.is_alive()
    assert [s.at for s in heard] == sorted(s.at for s in heard)


class LateSource(FakeSource):
    """A driver that answers only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def read(self, clock: object) -> Reading:
        self.asked.set()
        self.go_on.wait(60)
        return super().read(clock)  # type: ignore[arg-type]


def test_a_meter_that_answers_late_holds_up_no_work() -> None:
    source = LateSource()
    meter = SampledMeter(source, rate_hz=1000)
    assert source.asked.wait(60)
    with meter.window() as window:
        pass
    assert window.result() is None
    assert not source.go_on.is_set()  # the window closed although its device had not answered
    source.go_on.set()
    meter.close()


def test_the_steady_clock_is_near_the_machines() -> None:
    import time

    clock = steady_clock()
    assert abs(clock() - time.time()) < 5
    assert clock() <= clock()


# --------------------------------------------------------------------------------------- choosing one


def test_the_null_meter_has_no_result_and_says_why() -> None:
    meter = NullMeter("no GPU here", "cuda:1")
    with meter.window() as window:
        pass
    assert window.result(items=3) is None
    assert (meter.source, meter.reason, meter.measure_idle(0)) == ("null", "no GPU here", None)
    device = meter.describe()
    assert (device.device, device.source, device.reason) == ("cuda:1", "null", "no GPU here")
    meter.subscribe(lambda sample: None)()
    meter.close()


def test_an_unknown_device_has_a_null_meter_that_names_it() -> None:
    meter = open_meter("mps")
    assert meter.source == "null"
    assert "'mps'" in str(meter.reason)


def test_the_environment_can_turn_the_meter_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, "off")
    meter = open_meter("cpu")
    assert (meter.source, meter.reason) == ("null", "QSLM_OPT_METER is off; unset it to measure")


@pytest.mark.parametrize("text", ["replay", "replay:", "on", "nvml"])
def test_what_the_environment_cannot_mean_is_an_error_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT_KEY, text)
    with pytest.raises(UsageError, match=f"QSLM_OPT_METER is '{text}'; write replay:FILE"):
        open_meter("cpu")
