"""Studies for tests, written by Optuna itself and by the contract between search and store."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import uuid
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from qslm_opt.formats import Format, Layout
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy, Module, TensorInfo
from qslm_opt.results import Baseline, Metric
from qslm_opt.setting import QuantSetting
from qslm_opt.spec import StudySpec
from qslm_opt.store import Repository, StudyRow, optuna_storage_kwargs, prepare

optuna.logging.set_verbosity(optuna.logging.WARNING)

FP32_BYTES = 40_000
BUDGET = 10_000
TIERS = ("sensitivity", "global", "block", "module", "tuned")
BITS = (8, 6, 4, 3, 2)
HIERARCHY = Hierarchy(
    "spikegpt",
    (
        Block("input", "input", (Module("input/emb", (TensorInfo("emb.weight", (50, 100), "embedding"),)),)),
        Block(
            "attention.0",
            "attention",
            (Module("attention.0/att.key", (TensorInfo("blocks.0.att.key.weight", (50, 100), "matrix"),)),),
        ),
    ),
)
UNITS = HIERARCHY.units()
DISTRIBUTIONS = {
    "tier": CategoricalDistribution(TIERS),
    "unit": CategoricalDistribution(UNITS),
    "bits": CategoricalDistribution(BITS),
}
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
EVALUATION = {"device": "cpu", "dtype": "fp32", "kernel": "numba", "data_hash": "d", "code_version": "0.1.0"}


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def spec_of(name: str, metric: str = "accuracy", **changes: Any) -> StudySpec:
    if metric == "accuracy":
        given = {"task": "demo-classify", "max_drop": 0.05}
    else:
        given = {"task": "demo", "max_increase": "1.0"}
    return StudySpec(**{"name": name, "model": "demo", "memory_budget": "10kB", **given, **changes})


def baseline_of(metric: Metric = "accuracy") -> Baseline:
    if metric == "accuracy":
        return Baseline("accuracy", 0.9, 100, 90, 30.0, FP32_BYTES, {"device": "cpu"})
    return Baseline("perplexity", 20.0, 100, None, 299.6, FP32_BYTES, {"device": "cpu"})


def row_of(spec: StudySpec, study_uuid: str, **changes: Any) -> StudyRow:
    return StudyRow(
        **{
            "uuid": study_uuid, "name": spec.name, "spec": spec, "fingerprint": {"weights": "w", "data": "d"},
            "baseline": None, "bound": None, "budget": BUDGET, "hierarchy": HIERARCHY, **changes,
        }
    )  # fmt: skip


def setting_json(bits: int, unit: str = NETWORK) -> str:
    units = {NETWORK: Format("int", 8, Layout())}
    return QuantSetting({**units, unit: Format("int", bits, Layout())}).to_json()


class FakeStudy:
    """A study in an SQLite file as the driver would write it."""

    def __init__(
        self, path: Path, name: str = "s", metric: Metric = "accuracy", baseline: bool = True, **changes: Any
    ) -> None:
        self.url, self.metric = url_of(path), metric
        self.spec = spec_of(name, metric, **changes)
        self.uuid = str(uuid.uuid4())
        if not path.exists():
            path.write_bytes(empty_file())
        storage = optuna.storages.RDBStorage(self.url, engine_kwargs=optuna_storage_kwargs(self.url))
        direction = "maximize" if metric == "accuracy" else "minimize"
        self.study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        self.study.set_user_attr("qslm_uuid", self.uuid)
        self._storage = storage
        with Repository(self.url) as repository:
            repository.add_study(row_of(self.spec, self.uuid))
            if baseline:
                repository.set_baseline(self.uuid, baseline_of(metric))

    def trial(
        self,
        value: float | None = None,
        size: int = 5000,
        *,
        state: str = "complete",
        tier: str = "global",
        unit: str = NETWORK,
        bits: int = 4,
        metric_slack: float = -0.1,
        **attributes: Any,
    ) -> int:
        """Write one trial; return its number."""
        given: dict[str, Any] = {
            "uuid": str(uuid.uuid4()), "setting": setting_json(bits, unit), "digest": f"{tier}-{unit}-{bits}",
            "bytes": size, "fp32_bytes": FP32_BYTES, "evaluation": json.dumps(EVALUATION), **attributes,
        }  # fmt: skip
        if value is not None:
            given |= {"value": value, "loss": 0.5, "used": 100, "seconds": 1.5}
        slack = {"metric": metric_slack, "memory": size / BUDGET - 1}
        trial = optuna.trial.create_trial(
            state=STATES[state],
            value=value if state == "complete" else None,
            params={"tier": tier, "unit": unit, "bits": bits},
            distributions=DISTRIBUTIONS,
            user_attrs=given,
            constraints=None if state == "running" else slack,
        )
        trial_id = self._storage.create_new_trial(self.study._study_id, template_trial=trial)
        return self._storage.get_trial(trial_id).number

    def close(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


def fill(path: Path, study: FakeStudy, count: int, units: int = 30) -> None:
    """Write ``count`` complete trials by plain SQL, as many rows each as the driver writes."""
    choices = CategoricalDistribution([NETWORK, *(f"attention.{i}/att.key" for i in range(130))])
    texts = {
        name: optuna.distributions.distribution_to_json(d)
        for name, d in {**DISTRIBUTIONS, "unit": choices}.items()
    }
    setting = QuantSetting({f"attention.{i}/att.key": Format("int", 4, Layout()) for i in range(units)} | {
        NETWORK: Format("int", 8, Layout())
    }).to_json()  # fmt: skip
    connection = sqlite3.connect(path)
    (study_id,) = connection.execute(
        "SELECT study_id FROM studies WHERE study_name = ?", (study.spec.name,)
    ).fetchone()
    now = datetime(2026, 1, 1, 12, 0, 0, 123456).isoformat(" ")
    (first,) = connection.execute("SELECT coalesce(max(trial_id), 0) + 1 FROM trials").fetchone()
    for table, columns, rows in (
        (
            "trials",
            "trial_id, number, study_id, state, datetime_start, datetime_complete",
            [(first + n, n, study_id, "COMPLETE", now, now) for n in range(count)],
        ),
        (
            "trial_user_attributes",
            "trial_id, key, value_json",
            [
                (first + n, key, json.dumps(value))
                for n in range(count)
                for key, value in _attributes(n, setting).items()
            ],
        ),
        (
            "trial_system_attributes",
            "trial_id, key, value_json",
            [
                (first + n, f"constraints:{name}", json.dumps(-0.1 - n / 1e6))
                for n in range(count)
                for name in ("metric", "memory")
            ],
        ),
        (
            "trial_params",
            "trial_id, param_name, param_value, distribution_json",
            [(first + n, name, n % 4, text) for n in range(count) for name, text in texts.items()],
        ),
    ):
        marks = ",".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
    connection.commit()
    connection.close()


def _attributes(number: int, setting: str) -> dict[str, Any]:
    return {
        "uuid": str(uuid.UUID(int=number)), "setting": setting, "digest": f"{number:016x}",
        "bytes": 5000 + number, "fp32_bytes": FP32_BYTES, "value": 0.5 + number / 1e6,
        "loss": 0.4 + number / 1e6, "used": 872, "seconds": 1.25 + number / 1e6,
        "power_w": 300.5 + number, "energy_j": 400.5 + number, "firing_rate": 0.2 + number / 1e7,
        "correct": 700, "evaluation": json.dumps({**EVALUATION, "x": "y" * 400}),
    }  # fmt: skip


@cache
def empty_file() -> bytes:
    """Return a file with Optuna's tables and ours: making them anew takes a third of a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        optuna.storages.RDBStorage(url_of(path)).engine.dispose()
        prepare(url_of(path))
        return path.read_bytes()
