"""A made-up power recording beside a made-up study: one sample a second, on the trials' own clock."""

from __future__ import annotations

import math

from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
from tests.tui.fakes import START, FakeRepository, Study

LIMIT, IDLE = 700.0, 75.0
BEGIN = START.timestamp()


def device(index: int = 0, **given: object) -> PowerDevice:
    """Return a GPU that is read."""
    values: dict[str, object] = {
        "id": f"gpu{index}", "study_uuid": "u-opt-14m", "host": "bench-1", "pid": 4242,
        "device": f"cuda:{index}", "index": index, "name": "NVIDIA H200", "source": "replay",
        "limit_w": LIMIT, "memory_bytes": 150 * 10**9, "idle_w": IDLE, "idle_std_w": 0.8, "rate_hz": 20.0,
        "started": BEGIN,
    }  # fmt: skip
    return PowerDevice(**{**values, **given})  # type: ignore[arg-type]


def sample(second: int, index: int = 0) -> PowerSample:
    """Return what the GPU says at a second: 19 s of a trial's work, then one of rest."""
    busy = second % 20 < 18
    watts = IDLE + (440 + 90 * math.sin(second / 7 + index) + 60 * math.sin(second / 2) if busy else 3)
    return PowerSample(
        at=BEGIN + second,
        power_w=round(watts, 1),
        memory_bytes=(41 if busy else 12) * 10**9 + second * 10**6,
        utilization=0.97 if busy else 0.02,
        sm_clock_mhz=1980 if busy else 345,
        memory_clock_mhz=2619,
        temperature_c=round(38 + 26 * min(1.0, second / 300) + 2 * math.sin(second / 30), 1),
        throttle=("power cap",) if watts > 0.93 * LIMIT - 60 and busy else (),
    )


def window(watts: float = 561.4, **given: object) -> PowerWindow:
    """Return a steady window of two runs."""
    values: dict[str, object] = {
        "source": "replay", "samples": 368, "rate_hz": 19.9, "mean_w": watts, "std_w": 6.3,
        "energy_j": 10_352.0, "idle_w": IDLE, "memory_bytes": 41 * 10**9, "seconds": 18.4,
        "counter_j": 10_352.0, "integral_j": 10_311.0, "began": BEGIN, "ended": BEGIN + 1, "repeats": 2,
        "domain": "instant", "steady": True,
        "steady_reason": "halves differ by 0.8 W, less than 3 standard errors (1.9 W)", "limit_w": LIMIT,
        "temperature_c": 63.0, "items": 8000, "device": "cuda:0",
    }  # fmt: skip
    return PowerWindow(**{**values, **given})  # type: ignore[arg-type]


def recorded(study: Study, gpus: int = 1, windows: int | None = None) -> FakeRepository:
    """Return a repository with a recording of the whole study and windows of its candidates."""
    repository = FakeRepository(study)
    seconds = 20 * len(study.trials) + 26
    for index in range(gpus):
        repository.devices.append(device(index))
        repository.samples[f"gpu{index}"] = [sample(s, index) for s in range(seconds)]
    measured = [t for t in study.trials if t.feasible]
    for trial in measured[: len(measured) if windows is None else windows]:
        began = BEGIN + 20 * trial.number
        given = {"began": began, "ended": began + 18.4}
        repository.windows[trial.uuid] = window(540.0 + trial.number, **given)
    return repository
