"""Power in the storage: what was written comes back, thinned where asked, and stays small."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qslm_opt.results import THROTTLES, PowerDevice, PowerSample, PowerWindow
from qslm_opt.store import Repository, prepare
from qslm_opt.store.power import LONG_MS, _rows
from tests.store.fake_study import FakeStudy, url_of

START = 1_800_000_000.0
DEVICE = PowerDevice(
    "lane-a", "u-1", "host", 7, "cuda:1", 1, "NVIDIA H200", "nvml", 700.0, 150_754_820_096, 76.5, 0.25, 19.8,
    START,
)  # fmt: skip
BYTES_A_DAY = 25_000_000


@pytest.fixture
def storage(tmp_path: Path) -> Repository:
    prepare(url_of(tmp_path / "q.db"))
    return Repository(url_of(tmp_path / "q.db"))


def sample(second: float, watts: float | None = 300.0, **rest: object) -> PowerSample:
    return PowerSample(START + second, watts, **rest)  # type: ignore[arg-type]


def busy(second: float, noise: random.Random) -> PowerSample:
    """What a GPU at work says: every value moves."""
    return PowerSample(
        START + second, noise.gauss(520, 30), noise.randrange(2**33, 2**37), noise.random(),
        noise.randrange(1000, 1980), 3201, float(noise.randrange(40, 80)),
        ("power cap",) * noise.randrange(2),
    )  # fmt: skip


def test_devices_come_back_in_order_and_are_replaced_by_their_id(storage: Repository) -> None:
    without = PowerDevice("lane-b", "u-1", "host", 7, "cpu", started=START - 5, reason="no RAPL; use Linux")
    for device in (DEVICE, without, replace(DEVICE, id="other", study_uuid="u-2")):
        storage.add_power_device(device)
    assert storage.power_devices("u-1") == [without, DEVICE]
    stopped = replace(DEVICE, reason="NVML stopped answering", rate_hz=12.5)
    storage.add_power_device(stopped)
    assert storage.power_devices("u-1") == [without, stopped]


def test_samples_come_back_as_they_were_and_only_those_of_the_span(storage: Repository) -> None:
    storage.add_power_device(DEVICE)
    full = {
        "memory_bytes": 9 * 2**30, "utilization": 0.97, "sm_clock_mhz": 1980, "memory_clock_mhz": 3201,
        "temperature_c": 61.0,
    }  # fmt: skip
    samples = [
        sample(0.0, 301.25, throttle=("power cap", "thermal"), **full),
        sample(0.05, None, throttle=("power cap", "thermal"), **full),
        sample(0.1, 302.0, throttle=("power cap", "sync boost", "thermal"), **full),
        sample(1.2, 303.0, **{**full, "sm_clock_mhz": None}),
    ]
    storage.add_power_samples("lane-a", samples)
    found = storage.power_samples("lane-a", START, START + 9)
    assert [replace(s, at=0) for s in found] == [replace(s, at=0) for s in samples]
    assert [s.at - START for s in found] == pytest.approx([0, 0.05, 0.1, 1.2], abs=1e-3)
    assert storage.power_samples("lane-a", START + 0.04, START + 0.2) == found[1:3]
    assert storage.power_samples("unknown", START, START + 9) == []
    assert storage.power_samples("lane-a", START + 9, START) == []


def test_a_device_that_tells_only_power_has_none_for_the_rest(storage: Repository) -> None:
    storage.add_power_device(DEVICE)
    storage.add_power_samples("lane-a", [sample(1, 40.5)])
    (found,) = storage.power_samples("lane-a", START, START + 2)
    assert found == PowerSample(START + 1, 40.5, None, None, None, None, None, ())


def test_samples_of_a_deleted_study_are_dropped(storage: Repository) -> None:
    storage.add_power_samples("lane-a", [sample(1)])
    assert storage.power_samples("lane-a", START, START + 2) == []


@settings(deadline=None, max_examples=30)
@given(points=st.integers(1, 50), length=st.integers(1, 400))
def test_a_thinned_span_keeps_its_mean_and_its_order(
    tmp_path_factory: pytest.TempPathFactory, points: int, length: int
) -> None:
    url = url_of(tmp_path_factory.mktemp("thin") / "q.db")
    prepare(url)
    with Repository(url) as storage:
        storage.add_power_device(DEVICE)
        storage.add_power_samples("lane-a", [sample(n / 10, 100.0 + n) for n in range(length)])
        found = storage.power_samples("lane-a", START, START + length / 10, points)
    assert 1 <= len(found) <= points
    assert all(a.at < b.at and a.power_w < b.power_w for a, b in pairwise(found))  # type: ignore[operator]
    assert 100 <= found[0].power_w <= found[-1].power_w <= 99 + length  # type: ignore[operator]
    if points == 1:
        assert found[0].power_w == pytest.approx(100 + (length - 1) / 2)


def test_a_long_span_is_thinned_from_the_roll_up_to_the_same_means(
    storage: Repository, tmp_path: Path
) -> None:
    storage.add_power_device(DEVICE)
    noise = random.Random(1)
    hours = [sample(second, 300 + noise.random() * 100, utilization=0.5) for second in range(0, 9000, 3)]
    for first in range(0, len(hours), 50):
        storage.add_power_samples("lane-a", hours[first : first + 50])
    assert LONG_MS < 9000 * 1000
    coarse = storage.power_samples("lane-a", START, START + 9000, points=9)
    assert len(coarse) == 9
    for place, point in enumerate(coarse):
        inside = [s.power_w for s in hours if 1000 * place <= s.at - START < 1000 * (place + 1)]
        assert point.power_w == pytest.approx(sum(inside) / len(inside), rel=0.01)  # type: ignore[arg-type]
        assert point.utilization == 0.5
    with sqlite3.connect(tmp_path / "q.db") as connection:
        connection.execute("DELETE FROM qslm_power_sample")
    assert storage.power_samples("lane-a", START, START + 9000, points=9) == coarse
    assert storage.power_samples("lane-a", START, START + 3000, points=9) == []


def test_a_gpu_day_at_ten_samples_a_second_takes_at_most_25_mb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, minutes = tmp_path / "q.db", 20
    prepare(url_of(path))
    noise = random.Random(2)
    day = 24 * 60 // minutes
    with Repository(url_of(path)) as storage:
        storage.add_power_device(DEVICE)
        before = pages(path)
        late = 80_000.0  # the moments of a day's end take most bytes
        for second in range(0, 60 * minutes, 2):
            storage.add_power_samples("lane-a", [busy(late + second + n / 10, noise) for n in range(20)])
        written = pages(path) - before
    with capsys.disabled():
        print(f"\n{written / (600 * minutes):.1f} bytes a sample, {written * day / 1e6:.1f} MB a GPU-day")
    assert written * day <= BYTES_A_DAY


def pages(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (count,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(count) * int(size)


def test_the_rest_is_stored_once_a_second_but_a_limit_at_once() -> None:
    rows = [
        (at, sample(at / 1000, 300, utilization=at / 10_000, throttle=("thermal",) if at == 1500 else ()))
        for at in range(0, 3000, 100)
    ]
    (state,) = (rows for table, rows in _rows(rows).items() if table.name == "qslm_power_state")
    assert [row["at_ms"] for row in state] == [0, 1000, 1500, 2500]
    assert state[2]["throttle"] == 1 << THROTTLES.index("thermal")


def test_windows_come_back_by_trial_and_after_a_moment(storage: Repository) -> None:
    first = PowerWindow("nvml", 40, 19.5, 301.5, 4.5, 600.0, ended=START + 2)
    second = replace(
        first, ended=START + 4, repeats=3, domain="average", steady=False, steady_reason="it drifted",
        throttle=("power cap",), items=1000, counter_j=600.0, integral_j=590.0, device="cuda:1",
    )  # fmt: skip
    storage.set_power_window("u-1", "t-1", first)
    storage.set_power_window("u-1", "t-2", first)
    storage.set_power_window("u-1", "t-2", second)
    storage.set_power_window("u-2", "t-3", first)
    assert storage.power_windows("u-1") == {"t-1": first, "t-2": second}
    assert storage.power_windows("u-1", after=START + 2) == {"t-2": second}
    assert second.item_j == 0.6
    assert second.counter_difference == pytest.approx(600 / 590 - 1)
    assert (first.item_j, first.counter_difference) == (None, None)


def test_a_window_of_a_later_release_is_read_without_what_is_not_known() -> None:
    value = {"source": "nvml", "samples": 3, "rate_hz": 1.0, "mean_w": 2.0, "std_w": 0.0, "energy_j": 6.0}
    assert PowerWindow.from_json({**value, "from the future": 1}).energy_j == 6.0


def power_rows(path: Path) -> dict[str, int]:
    names = ("device", "sample", "rollup", "state", "window")
    with sqlite3.connect(path) as connection:
        return {n: connection.execute(f"SELECT count(*) FROM qslm_power_{n}").fetchone()[0] for n in names}


def test_deleting_a_study_deletes_its_power_and_no_other(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db")
    with Repository(study.url) as storage:
        for name, uuid in (("lane-a", study.uuid), ("lane-b", "another")):
            storage.add_power_device(replace(DEVICE, id=name, study_uuid=uuid))
            storage.add_power_samples(name, [sample(1)])
            storage.set_power_window(uuid, f"trial of {uuid}", PowerWindow("nvml", 4, 2.0, 3.0, 0.0, None))
        storage.delete(study.uuid)
        assert set(power_rows(tmp_path / "q.db").values()) == {1}
        assert [d.id for d in storage.power_devices("another")] == ["lane-b"]


def test_power_of_a_study_that_is_gone_is_swept(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db")
    with Repository(study.url) as storage:
        for name, uuid in (("lane-a", study.uuid), ("lane-b", "gone")):
            storage.add_power_device(replace(DEVICE, id=name, study_uuid=uuid))
            storage.add_power_samples(name, [sample(1)])
    prepare(study.url)
    with Repository(study.url) as storage:
        assert storage.power_devices("gone") == []
        assert [d.id for d in storage.power_devices(study.uuid)] == ["lane-a"]
    assert power_rows(tmp_path / "q.db")["sample"] == 1


def test_the_statements_compile_for_postgresql_and_mysql() -> None:
    from sqlalchemy.dialects import mysql, postgresql

    from qslm_opt.store.power import _power_query, _state_query

    for dialect in (postgresql.dialect(), mysql.dialect()):
        for width in (None, 50):
            for query in (_power_query, _state_query):
                assert "qslm_power" in str(query(1, (0, 10 * LONG_MS), width).compile(dialect=dialect))
