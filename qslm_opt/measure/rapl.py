"""Energy of the CPU packages through Linux's powercap (RAPL): counters in microjoules that wrap around.

A reading covers whole packages, every process included, without the memory modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from threading import Lock
from time import sleep

from qslm_opt.measure.meter import Meter, NullMeter
from qslm_opt.measure.sampling import Sample, SamplingWindow
from qslm_opt.results import PowerWindow

POWERCAP = Path("/sys/class/powercap")


class RaplDomain:
    """One package's energy counter, unwrapped."""

    def __init__(self, folder: Path) -> None:
        """Read the counter once; OSError or ValueError when it cannot be read."""
        self._counter = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj = int(self._counter.read_text())
        self._total_uj = 0

    def joules(self) -> float:
        """Return the energy since this object was made, in joules. Call it at least once a wrap (minutes)."""
        now = int(self._counter.read_text())
        step = now - self._last_uj
        self._total_uj += step if step >= 0 else step + self._range_uj
        self._last_uj = now
        return self._total_uj / 1e6


class RaplMeter:
    """Measures the sum of all CPU packages; made by ``open_rapl``."""

    source = "rapl"

    def __init__(self, folders: Sequence[Path], rate_hz: float) -> None:
        self._folders, self._rate_hz = tuple(folders), rate_hz
        self._idle_w: float | None = None
        self.reason: str | None = None

    def window(self) -> SamplingWindow:
        """Return a window that reads the counters in a thread."""
        domains: list[RaplDomain] = []
        one_at_a_time = Lock()  # the window's last sample does not wait for its thread

        def read() -> float:
            with one_at_a_time:
                if not domains:
                    domains.extend(RaplDomain(folder) for folder in self._folders)
                return sum(domain.joules() for domain in domains)

        return SamplingWindow(read, self._finish, rate_hz=self._rate_hz, failed=self._failed)

    def measure_idle(self, seconds: float = 1.0) -> float | None:
        """Return the mean watts of the packages at rest, kept as ``idle_w`` of later windows."""
        with self.window() as window:
            sleep(seconds)
        rest = window.result()
        self._idle_w = rest.mean_w if rest else None
        return self._idle_w

    def close(self) -> None:
        """Do nothing: the counters are plain files."""

    def _finish(self, samples: Sequence[Sample]) -> PowerWindow | None:
        self.reason = None
        return summarize_counter(samples, source=self.source, idle_w=self._idle_w)

    def _failed(self, error: Exception) -> None:
        self.reason = f"RAPL stopped answering: {error}"


def summarize_counter(
    samples: Sequence[Sample], *, source: str, idle_w: float | None = None
) -> PowerWindow | None:
    """Return mean, spread and energy of (seconds, joules) readings; None when the counter never moved.

    The mean is the whole energy over the whole time; the spread is that of the power between readings.
    """
    steps = [(t1, (e1 - e0) / (t1 - t0)) for (t0, e0), (t1, e1) in pairwise(samples) if t1 > t0]
    energy_j = samples[-1][1] - samples[0][1] if steps else 0.0
    if energy_j <= 0:
        return None
    duration = samples[-1][0] - samples[0][0]
    centre = sum(w for _, w in steps) / len(steps)
    return PowerWindow(
        source=source,
        samples=len(samples),
        rate_hz=(len(samples) - 1) / duration,
        mean_w=energy_j / duration,
        std_w=(sum((w - centre) ** 2 for _, w in steps) / len(steps)) ** 0.5,
        energy_j=energy_j,
        idle_w=idle_w,
    )


def open_rapl(*, rate_hz: float = 10.0, root: Path = POWERCAP) -> Meter:
    """Return the meter of this machine's CPU packages, or a NullMeter with the reason why there is none."""
    packages = [folder for folder in sorted(root.glob("intel-rapl:*")) if _is_package(folder)]
    if not packages:
        return NullMeter(
            f"no RAPL energy counter under {root}; use Linux on a bare machine (virtual ones hide it)"
        )
    try:
        for folder in packages:
            RaplDomain(folder)
    except PermissionError:
        return NullMeter(
            f"RAPL's counters under {root} may be read by root only; "
            f"sudo chmod a+r {root}/intel-rapl:*/energy_uj allows it until the next start"
        )
    except (OSError, ValueError) as error:
        return NullMeter(f"RAPL's counters cannot be read: {error}; see {root}")
    return RaplMeter(packages, rate_hz)


def _is_package(folder: Path) -> bool:
    """Whether a powercap folder is a whole package, not a part of one (core, dram) or the system (psys)."""
    try:
        return (folder / "name").read_text().startswith("package")
    except OSError:
        return False
