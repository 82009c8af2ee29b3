"""A study of as many trials as wanted, with replayed GPUs: what the dashboard's benchmark looks at."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from random import Random
from uuid import UUID, uuid4

from qslm_opt.bench.storage import session_for
from qslm_opt.evaluate.memory import live_bytes
from qslm_opt.formats import FP32, Layout
from qslm_opt.hierarchy.tree import NETWORK, Hierarchy
from qslm_opt.rank import score
from qslm_opt.results import PowerDevice, PowerSample, TrialRecord
from qslm_opt.search.driver import create_study
from qslm_opt.setting import QuantSetting
from qslm_opt.store import Repository

NAME = "storage-cost"
"""The name that ``session_for`` gives its study."""
LIMIT_W = 700.0
RATE_HZ = 10.0
_MODEL_TRIALS = 1000
"""The synthetic model is as tall as a study of so many trials needs: 17 blocks of 7 modules."""
_SETTINGS = 499
"""Settings that differ; each stands for several trials, whose metric differs by noise."""
_BITS = (16, 12, 10, 8, 6, 5, 4, 3, 2)
_CHANNEL = Layout.parse("channel/affine")
_TIERS = ("sensitivity", "global", "block", "module")


@dataclass(frozen=True)
class BigStudy:
    """A stored study."""

    url: str
    uuid: str
    hierarchy: Hierarchy
    choices: dict[str, tuple[object, ...]]
    """Of tier, unit and bits."""
    devices: tuple[PowerDevice, ...]
    last: TrialRecord


def make_big_study(url: str, trials: int, gpus: int, host: str, pid: int) -> BigStudy:
    """Store a study with ``trials`` trials and ``gpus`` devices that are measured from now on."""
    session = session_for(_MODEL_TRIALS)
    create_study(session.spec, url, session)
    units = (NETWORK, *session.hierarchy.units())
    choices: dict[str, tuple[object, ...]] = {
        "tier": _TIERS,
        "unit": tuple(dict.fromkeys(units)),
        "bits": _BITS,
    }
    records = list(_records(session.hierarchy, trials))
    scores = [
        None if r.value is None else score("perplexity", r.value, r.bytes / r.fp32_bytes, session.spec.lam)
        for r in records
    ]
    with Repository(url) as repository:
        uuid = repository.study(NAME).uuid
        repository.set_baseline(uuid, session.baseline())
        repository.add_trials(NAME, records, choices, scores)
        done = {tier: sum(r.tier == tier for r in records) for tier in _TIERS}
        repository.set_progress(
            uuid,
            [{"tier": tier, "done": n, "total": n + 100 * (tier == "module")} for tier, n in done.items()],
        )
        repository.set_state(uuid, "running")
        repository.beat(uuid, pid, host, "module")
        devices = tuple(_device(uuid, index, host, pid) for index in range(gpus))
        for device in devices:
            repository.add_power_device(device)
    return BigStudy(url, uuid, session.hierarchy, choices, devices, records[-1])


def _records(hierarchy: Hierarchy, count: int) -> Iterator[TrialRecord]:
    """Yield trials of all tiers with a metric that falls with their bits, and some noise."""
    random, whole = Random(0), hierarchy.fp32_bytes()
    blocks = [block.unit for block in hierarchy.blocks]
    first = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(seconds=0.5 * count)
    settings = [_setting(hierarchy, {b: random.choice(_BITS) for b in blocks}) for _ in range(_SETTINGS)]
    for number in range(count):
        levels, text, size = settings[number % _SETTINGS]
        loss = 1 + sum(4.0 ** (1 - bits) for bits in levels.values()) + abs(random.gauss(0, 0.05))
        tier = _TIERS[min(3, 4 * number // count)]
        unit = NETWORK if tier == "global" else blocks[number % len(blocks)]
        began = first + timedelta(seconds=0.5 * number)
        pruned = number % 3 == 0
        yield TrialRecord(
            number, str(UUID(int=random.getrandbits(128))), "pruned" if pruned else "complete", tier, unit,
            levels.get(unit, 4), text, f"{number:016x}", None if pruned else math.exp(loss), size,
            whole, {"metric": math.exp(loss) / 3.2 - 1 if not pruned else 0.4, "memory": size / whole - 1},
            loss, 1000, 0.4, 400.0 + number % 100, 160.0, 0.2, began.isoformat(),
            (began + timedelta(seconds=0.45)).isoformat(),
        )  # fmt: skip


def _setting(hierarchy: Hierarchy, levels: dict[str, int]) -> tuple[dict[str, int], str, int]:
    """Return unit → bits, the setting's text and its bytes."""
    setting = QuantSetting({NETWORK: FP32, **{u: _CHANNEL.with_bits(b) for u, b in levels.items()}})
    return levels, setting.to_json(), live_bytes(hierarchy, setting)


def _device(uuid: str, index: int, host: str, pid: int) -> PowerDevice:
    return PowerDevice(
        id=str(uuid4()), study_uuid=uuid, host=host, pid=pid, device=f"cuda:{index}", index=index,
        name="replayed GPU", source="replay", limit_w=LIMIT_W, memory_bytes=150 * 10**9, idle_w=75.0,
        idle_std_w=1.0, rate_hz=RATE_HZ, started=time.time() - 150,
    )  # fmt: skip


def power_between(index: int, since: float, until: float) -> list[PowerSample]:
    """Return what a replayed GPU says at its rate between two times."""
    count = max(0, int((until - since) * RATE_HZ))
    found = []
    for step in range(1, count + 1):
        at = since + step / RATE_HZ
        watts = 400 + 250 * math.sin(at / 7 + index)
        found.append(PowerSample(at, watts, 41 * 10**9 + int(1e9 * math.sin(at / 20)), 0.9, 1980, 2619, 61.0))
    return found
