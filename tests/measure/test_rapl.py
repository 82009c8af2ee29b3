"""RAPL against a tree of files like Linux's powercap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qslm_opt.measure.rapl import RaplDomain, RaplSource, open_rapl
from tests.measure.fakes import Bench


def domain(
    root: Path, folder: str, name: str, energy_uj: int = 1_000_000, range_uj: int = 262_143_328_850
) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def advance(path: Path, energy_uj: int) -> None:
    """Change the counter as the kernel does: a reader never sees half a number."""
    (path / "next").write_text(f"{energy_uj}\n")
    os.replace(path / "next", path / "energy_uj")


def two_packages(root: Path) -> list[Path]:
    """A machine of two packages, with what must not be counted beside them."""
    domain(root, "intel-rapl:0:0", "core")
    domain(root, "intel-rapl:0:1", "dram")
    domain(root, "intel-rapl:2", "psys")
    domain(root, "intel-rapl-mmio:0", "package-0")
    return [domain(root, "intel-rapl:0", "package-0"), domain(root, "intel-rapl:1", "package-1")]


def test_packages_are_summed_and_parts_and_other_domains_are_not_counted_twice(tmp_path: Path) -> None:
    packages = two_packages(tmp_path)
    meter = open_rapl(root=tmp_path, rate_hz=0.001)
    with meter.window() as window:
        for path in (*packages, *tmp_path.glob("intel-rapl:?:?"), tmp_path / "intel-rapl:2"):
            advance(path, 1_000_000 + 3_000_000)
    found = window.result()
    meter.close()
    assert found is not None
    assert found.energy_j == found.counter_j == pytest.approx(6.0)
    assert found.mean_w == pytest.approx(6.0 / (found.seconds or 0))
    assert (found.source, found.domain) == ("rapl", "counter")
    assert (found.memory_bytes, found.integral_j) == (None, None)


def test_the_cpu_is_described_with_the_sum_of_its_limits(tmp_path: Path) -> None:
    packages = two_packages(tmp_path)
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: Fast CPU 9000\n")
    for path in packages:
        (path / "constraint_0_power_limit_uw").write_text("125000000\n")
    device = RaplSource(packages, cpuinfo=tmp_path / "cpuinfo").describe()
    assert (device.device, device.name, device.limit_w) == ("cpu", "Fast CPU 9000, 2 packages", 250.0)
    (packages[0] / "constraint_0_power_limit_uw").unlink()
    device = RaplSource(packages[:1], cpuinfo=tmp_path / "none").describe()
    assert (device.name, device.limit_w) == ("CPU, 1 package", None)


def test_watts_are_those_since_the_reading_before(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", energy_uj=0)
    bench = Bench(RaplSource([path]))
    heard: list[float | None] = []
    bench.meter.subscribe(lambda sample: heard.append(sample.power_w))
    with bench.meter.window() as window:
        for second, joules in ((1.0, 10), (2.0, 30), (2.0, 30), (4.0, 90)):
            advance(path, joules * 1_000_000)
            bench.now = 1000 + second
            bench.meter.step()
    assert heard == [None, 10.0, 20.0, None, 30.0, None]
    found = window.result()
    assert found is not None
    assert (found.energy_j, found.mean_w, found.samples) == (90.0, 22.5, 3)
    assert found.std_w == pytest.approx((200 / 3) ** 0.5)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", energy_uj=9_000_000, range_uj=10_000_000)
    counter = RaplDomain(path)
    advance(path, 9_500_000)
    assert counter.joules() == pytest.approx(0.5)
    advance(path, 250_000)
    assert counter.joules() == pytest.approx(1.25)
    advance(path, 9_999_999)
    assert counter.joules() == pytest.approx(10.999999)
    advance(path, 0)
    assert counter.joules() == pytest.approx(11.0)


def test_a_counter_that_never_moves_is_no_measurement(tmp_path: Path) -> None:
    bench = Bench(RaplSource([domain(tmp_path, "intel-rapl:0", "package-0")]))
    with bench.meter.window() as window:
        bench.go(1.0)
    assert window.result() is None
    assert bench.meter.measure_idle(1.0) is None


def test_idle_watts_stand_beside_later_windows(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0", energy_uj=0)
    bench = Bench(RaplSource([path]))

    def rest(seconds: float) -> None:
        bench.now += seconds
        advance(path, 5_000_000)

    bench.meter.pause = rest
    assert bench.meter.measure_idle(0.5) == pytest.approx(10.0)
    with bench.meter.window() as window:
        bench.now += 1
        advance(path, 105_000_000)
    found = window.result()
    assert found is not None
    assert (found.idle_w, found.mean_w) == (pytest.approx(10.0), pytest.approx(100.0))


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    meter = open_rapl(root=tmp_path)
    assert meter.source == "null"
    assert "no RAPL energy counter" in str(meter.reason)


def test_a_counter_for_root_only_names_the_command_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def guarded(self: Path, *args: object, **kwargs: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", guarded)
    meter = open_rapl(root=tmp_path)
    assert meter.source == "null"
    assert "sudo chmod a+r" in str(meter.reason)


def test_a_damaged_counter_is_refused_and_one_that_vanishes_is_a_reason(tmp_path: Path) -> None:
    path = domain(tmp_path, "intel-rapl:0", "package-0")
    bench = Bench(RaplSource([path]))
    (path / "energy_uj").unlink()
    bench.go(0.2)
    assert "RAPL stopped answering" in str(bench.meter.reason)
    (path / "energy_uj").write_text("many\n")
    assert "cannot be read" in str(open_rapl(root=tmp_path).reason)
