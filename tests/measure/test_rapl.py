"""RAPL against a tree of files like Linux's powercap."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

import pytest

from qslm_opt.measure.rapl import RaplDomain, RaplMeter, open_rapl, summarize_counter


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


def test_packages_are_summed_and_parts_and_other_domains_are_not_counted_twice(tmp_path):
    packages = [domain(tmp_path, "intel-rapl:0", "package-0"), domain(tmp_path, "intel-rapl:1", "package-1")]
    others = [
        domain(tmp_path, "intel-rapl:0:0", "core"),
        domain(tmp_path, "intel-rapl:0:1", "dram"),
        domain(tmp_path, "intel-rapl:2", "psys"),
        domain(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    meter = open_rapl(root=tmp_path, rate_hz=100)
    with meter.window() as window:
        for path in (*packages, *others):
            advance(path, 1_000_000 + 3_000_000)
        sleep(0.05)
    found = window.result()
    assert found.energy_j == pytest.approx(6.0)
    assert found.mean_w == pytest.approx(6.0 * found.rate_hz / (found.samples - 1))
    assert (found.source, found.memory_bytes, meter.reason) == ("rapl", None, None)


def test_a_counter_that_wraps_goes_on(tmp_path):
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


def test_a_counter_that_never_moves_is_no_measurement(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0")
    meter = open_rapl(root=tmp_path)
    with meter.window() as window:
        pass
    assert window.result() is None
    assert meter.measure_idle(0) is None


def test_mean_and_spread_come_from_the_steps_between_readings():
    found = summarize_counter([(0.0, 0.0), (1.0, 10.0), (3.0, 50.0), (3.0, 50.0)], source="rapl", idle_w=2.0)
    assert (found.energy_j, found.mean_w) == (50.0, pytest.approx(50 / 3))
    assert found.std_w == pytest.approx(5.0)  # 10 W, then 20 W
    assert (found.samples, found.idle_w) == (4, 2.0)


@pytest.mark.parametrize("samples", [[], [(0.0, 0.0)], [(1.0, 0.0), (1.0, 5.0)], [(0.0, 3.0), (1.0, 3.0)]])
def test_too_few_readings_are_none(samples):
    assert summarize_counter(samples, source="rapl") is None


def test_idle_watts_stand_beside_later_windows(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0")
    meter = open_rapl(root=tmp_path, rate_hz=50)
    steps = iter(range(2_000_000, 10**9, 1_000_000))
    read = RaplDomain.joules

    def ticking(self):
        advance(path, next(steps))
        return read(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RaplDomain, "joules", ticking)
        idle = meter.measure_idle(0.02)
        with meter.window() as window:
            sleep(0.02)
    assert idle > 0
    assert window.result().idle_w == idle


def test_a_machine_without_rapl_says_so(tmp_path):
    meter = open_rapl(root=tmp_path)
    assert meter.source == "null"
    assert "no RAPL energy counter" in meter.reason


def test_a_counter_for_root_only_names_the_command_that_opens_it(tmp_path, monkeypatch):
    domain(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def guarded(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    meter = open_rapl(root=tmp_path)
    assert meter.source == "null"
    assert "sudo chmod a+r" in meter.reason


def test_a_damaged_counter_is_refused_and_one_that_vanishes_gives_none(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0")
    meter = RaplMeter([path], 100)
    with meter.window() as window:
        (path / "energy_uj").unlink()
        sleep(0.05)
    assert window.result() is None
    assert "RAPL stopped answering" in meter.reason
    (path / "energy_uj").write_text("many\n")
    assert "cannot be read" in open_rapl(root=tmp_path).reason
