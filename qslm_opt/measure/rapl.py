"""Energy of the CPU packages through Linux's powercap (RAPL): counters in microjoules that wrap around.

A reading covers whole packages, every process included, without the memory modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qslm_opt.measure.meter import DEFAULT_RATE_HZ, Meter, NullMeter
from qslm_opt.measure.reading import Clock, Reading
from qslm_opt.measure.sampled import SampledMeter
from qslm_opt.results import PowerDevice, PowerSample

POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")
_MIN_STEP_SECONDS = 1e-4
"""Readings closer together than this give no watts: the counter moves about a thousand times a second."""


class RaplDomain:
    """One package's energy counter, unwrapped."""

    def __init__(self, folder: Path) -> None:
        """Read the counter once; OSError or ValueError when it cannot be read."""
        self._counter = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj = int(self._counter.read_text())
        self._total_uj = 0
        self.limit_w = _limit_w(folder)

    def joules(self) -> float:
        """Return the energy since this object was made, in joules. Call it at least once a wrap (minutes)."""
        now = int(self._counter.read_text())
        step = now - self._last_uj
        self._total_uj += step if step >= 0 else step + self._range_uj
        self._last_uj = now
        return self._total_uj / 1e6


class RaplSource:
    """Reads the sum of all CPU packages. Its watts are the mean since the reading before."""

    name, domain, quick, shared, board = "rapl", "counter", True, "", "cpu"

    def __init__(self, folders: Sequence[Path], *, cpuinfo: Path = CPUINFO) -> None:
        """Open the counters; OSError or ValueError when one cannot be read."""
        self._domains = [RaplDomain(folder) for folder in folders]
        self._name = f"{_model(cpuinfo)}, {len(folders)} package{'s' * (len(folders) > 1)}"
        self._last: tuple[float, float] | None = None

    def describe(self) -> PowerDevice:
        """Return the CPU's name and the packages' long-term power limit."""
        limits = [domain.limit_w for domain in self._domains]
        known = [limit for limit in limits if limit is not None]
        limit = sum(known) if len(known) == len(limits) else None
        return PowerDevice("", "", "", 0, "cpu", name=self._name, limit_w=limit)

    def read(self, clock: Clock) -> Reading:
        """Return the counter, and the watts since the last reading."""
        joules, at = sum(domain.joules() for domain in self._domains), clock()
        watts = None
        if self._last is not None and at - self._last[0] >= _MIN_STEP_SECONDS:
            watts = (joules - self._last[1]) / (at - self._last[0])
        if watts is not None or self._last is None:
            self._last = at, joules
        return Reading(PowerSample(at, watts), joules)

    def close(self) -> None:
        """Do nothing: the counters are plain files."""


def open_rapl(
    *, rate_hz: float = DEFAULT_RATE_HZ, root: Path = POWERCAP,
    synchronize: Callable[[], None] | None = None,
) -> Meter:  # fmt: skip
    """Return the meter of this machine's CPU packages, or a NullMeter with the reason why there is none."""
    packages = [folder for folder in sorted(root.glob("intel-rapl:*")) if _is_package(folder)]
    if not packages:
        return NullMeter(
            f"no RAPL energy counter under {root}; use Linux on a bare machine (virtual ones hide it)"
        )
    try:
        source = RaplSource(packages)
    except PermissionError:
        return NullMeter(
            f"RAPL's counters under {root} may be read by root only; "
            f"sudo chmod a+r {root}/intel-rapl:*/energy_uj allows it until the next start"
        )
    except (OSError, ValueError) as error:
        return NullMeter(f"RAPL's counters cannot be read: {error}; see {root}")
    return SampledMeter(source, rate_hz=rate_hz, synchronize=synchronize)


def _is_package(folder: Path) -> bool:
    """Whether a powercap folder is a whole package, not a part of one (core, dram) or the system (psys)."""
    try:
        return (folder / "name").read_text().startswith("package")
    except OSError:
        return False


def _limit_w(folder: Path) -> float | None:
    try:
        return int((folder / "constraint_0_power_limit_uw").read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _model(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
