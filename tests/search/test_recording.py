"""The recording of a run: what of a meter's samples reaches the storage, and what if it does not."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from qslm_opt.errors import StorageError
from qslm_opt.results import PowerSample, PowerWindow
from qslm_opt.search import recording
from qslm_opt.search.recording import Gather, Recording
from qslm_opt.store import Repository, prepare
from tests.measure.fakes import Bench
from tests.store.fake_study import url_of

FAR = 1e12


@pytest.fixture
def storage(tmp_path: Path) -> Repository:
    prepare(url_of(tmp_path / "q.db"))
    return Repository(url_of(tmp_path / "q.db"))


def bench_of() -> Bench:
    """A meter whose clock is far in the future, as a recording's samples follow its own start."""
    bench = Bench()
    bench.now = 4e9
    return bench


def test_samples_of_a_tenth_of_a_second_are_joined_into_their_mean() -> None:
    given: list[PowerSample] = []
    gather = Gather(given.append)
    rows = [(0.00, 100.0), (0.04, 200.0), (0.08, None), (0.11, 50.0), (0.35, None)]
    for at, watts in rows:
        gather(PowerSample(at, watts, throttle=("thermal",) if at == 0.04 else (), temperature_c=at))
    gather.end()
    gather.end()
    assert [(s.at, s.power_w, s.temperature_c) for s in given] == [
        (0.08, 150.0, 0.08), (0.11, 50.0, 0.11), (0.35, None, 0.35)
    ]  # fmt: skip
    assert [s.throttle for s in given] == [("thermal",), (), ()]


def test_a_run_is_recorded_from_its_begin_to_its_end(
    storage: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.001)
    bench = bench_of()
    bench.go(1.0)  # before the run
    with Recording(storage, "u-1", bench.meter):
        bench.go(2.0, period=0.05, watts=lambda t: 100 + t)
    bench.go(1.0)  # after it
    (device,) = storage.power_devices("u-1")
    assert (device.source, device.device, device.limit_w) == ("nvml", "cuda:0", 700.0)
    assert device.pid == os.getpid()
    samples = storage.power_samples(device.id, 0, FAR)
    assert 18 <= len(samples) <= 21  # ten a second of the twenty that were read
    assert samples[0].at >= 4e9 + 1
    assert samples[-1].at == pytest.approx(4e9 + 3, abs=1e-3)
    assert samples[-1].power_w == pytest.approx(102, abs=0.1)


def test_a_device_that_fails_is_stored_with_the_reason(storage: Repository) -> None:
    bench = bench_of()
    with Recording(storage, "u-1", bench.meter) as kept:
        bench.go(1.0)
        bench.source.error = OSError("the bus is gone")
        bench.source.facts = {"name": "NVIDIA GPU"}  # what a GPU that fell off its bus says of itself
        bench.go(1.0)
        kept.flush()
        (device,) = storage.power_devices("u-1")
        assert device.reason == "NVML stopped answering: the bus is gone"
        assert (device.name, device.limit_w, device.memory_bytes) == ("Fake", 700.0, 2**37)
        bench.source.error = None
        bench.go(1.0)
    (device,) = storage.power_devices("u-1")
    assert (device.reason, device.rate_hz) == (None, pytest.approx(7.0, abs=1))


def test_a_window_is_kept_with_its_trial(storage: Repository) -> None:
    window = PowerWindow("nvml", 3, 20.0, 60.0, 1.0, 12.5, ended=5.0)
    with Recording(storage, "u-1", bench_of().meter) as kept:
        kept.keep("trial", window)
    assert storage.power_windows("u-1") == {"trial": window}


class Failing:
    """A repository that cannot be written to, for a while."""

    def __init__(self, storage: Repository) -> None:
        self.storage, self.fails = storage, True

    def __getattr__(self, name: str) -> object:
        if self.fails:
            raise StorageError("storage q.db is locked by another process.")
        return getattr(self.storage, name)


def test_a_storage_that_fails_is_told_once_and_what_waits_is_written_later(storage: Repository) -> None:
    failing, bench = Failing(storage), bench_of()
    kept = Recording(failing, "u-1", bench.meter)  # type: ignore[arg-type]
    with kept:
        bench.go(1.0)
        kept.flush()
        kept.keep("trial", PowerWindow("nvml", 3, 20.0, 60.0, 1.0, 12.5))
        told = kept.complaint()
        assert told == (
            "the recording of power has gaps, the search goes on: "
            "storage q.db is locked by another process."
        )
        kept.flush()
        assert kept.complaint() is None
        failing.fails = False
    (device,) = storage.power_devices("u-1")
    assert len(storage.power_samples(device.id, 0, FAR)) == 10


def test_what_waits_is_bounded(storage: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING", 5)
    bench = bench_of()
    kept = Recording(Failing(storage), "u-1", bench.meter)  # type: ignore[arg-type]
    with kept:
        bench.go(10.0)
        assert len(kept._waiting) == 5
        assert kept._waiting[-1].at > 4e9 + 9.5


def test_a_table_that_is_gone_ends_nothing(storage: Repository, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "q.db") as connection:
        connection.execute("DROP TABLE qslm_power_sample")
    bench = bench_of()
    with Recording(storage, "u-1", bench.meter) as kept:
        bench.go(1.0)
        kept.flush()
        assert "qslm_power_sample" in str(kept.complaint()) or "lacks a table" in str(kept._trouble)


def test_a_second_in_the_same_millisecond_is_dropped_and_does_not_stop_the_rest(storage: Repository) -> None:
    from tests.store.test_power import DEVICE, START

    storage.add_power_device(DEVICE)
    storage.add_power_samples(DEVICE.id, [PowerSample(START + 1.0, 10.0)])
    storage.add_power_samples(DEVICE.id, [PowerSample(START + 1.0001, 20.0), PowerSample(START + 2, 30.0)])
    assert [s.power_w for s in storage.power_samples(DEVICE.id, 0, FAR)] == [10.0, 30.0]
