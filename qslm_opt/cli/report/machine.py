"""On what a study ran, what it was told, and what a reader must know before trusting its numbers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.output import metric_value
from qslm_opt.spec import StudySpec

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.cli.report.chance import HeldBack
    from qslm_opt.cli.report.watts import Power

Evaluation = Mapping[str, Any]
_KEYS = {
    "device": "device", "dtype": "arithmetic", "kernel": "kernels", "code_version": "code version",
    "data_hash": "data hash",
}  # fmt: skip
_PRINTS = {
    "weights": "weights hash", "data": "data hash", "spec": "spec hash", "code": "code version",
    "arithmetic": "arithmetic",
}  # fmt: skip


def machine(facts: StudyFacts, chosen: Evaluation | None) -> dict[str, str]:
    """Return what the choice (else the baseline) ran on, and the study's fingerprint, as words."""
    run = chosen or (facts.row.baseline.evaluation if facts.row.baseline else {})
    found = {words: str(run[key]) for key, words in _KEYS.items() if run.get(key) is not None}
    for key, value in facts.row.fingerprint.items():
        found.setdefault(_PRINTS.get(key, key), str(value))
    found["seed"] = str(facts.row.spec.seed)
    if facts.row.host:
        found["host"] = facts.row.host
    return found


def spec_rows(spec: StudySpec) -> list[tuple[str, str, bool]]:
    """Return (key, value as JSON, whether it was left at its default) of the whole spec."""
    values = json.loads(spec.to_json())
    usual = {f.name: f.default for f in fields(spec)}
    return [
        ("lambda" if key == "lam" else key, json.dumps(value, ensure_ascii=False), _usual(value, usual[key]))
        for key, value in values.items()
    ]


def _usual(value: Any, default: Any) -> bool:
    return (list(default) if isinstance(default, tuple) else default) == value or value in ({}, None)


def warnings(
    facts: StudyFacts, power: Power, chosen: Evaluation | None, held_back: HeldBack | None
) -> list[str]:
    """Return what limits the meaning of the report, each as one sentence.

    ``held_back`` is the choice's result on data that the search did not see.
    """
    return [
        *_unfinished(facts),
        *_simulated(facts, power, chosen),
        *([] if facts.best is None else _other_data(facts, held_back)),
        *_data(facts),
        *_different(facts, chosen),
        *_silent(chosen),
        *_trials(facts),
    ]


def _unfinished(facts: StudyFacts) -> list[str]:
    row = facts.row
    if row.state in ENDED:
        return []
    left = [p["total"] - p["done"] for p in row.progress if p.get("total") is not None]
    more = f", at most {sum(left):,} settings are left in the tiers that it knows" if sum(left) > 0 else ""
    return [f"The search has not ended: the study is {row.state}{more}; what is chosen here may change."]


def _simulated(facts: StudyFacts, power: Power, chosen: Evaluation | None) -> list[str]:
    if facts.row.baseline is None:
        return []
    dtype = (chosen or facts.row.baseline.evaluation).get("dtype") or "floating-point"
    found = [
        f"The metric is that of simulated quantization: weights are rounded to their codes, then the model "
        f"computes in {dtype} arithmetic; bytes are those of the packed weights, scales and zero points."
    ]
    if power.rows:
        found.append(
            "Power is that of this simulated arithmetic, which costs the same at every width: it says what "
            "the model draws while it is searched, not what packed weights save."
        )
    return found


def _other_data(facts: StudyFacts, held_back: HeldBack | None) -> list[str]:
    if held_back is None or held_back.value is None:
        return [
            f"The choice was made on the {facts.item}s that it was measured on: the best of "
            f"{len(facts.ranked):,} candidates looks better there than on data that the search has not seen."
        ]
    if held_back.within is False:
        value = metric_value(facts.metric, held_back.value)
        return [f"On held-back data the choice is beyond the bound: {facts.metric} {value}."]
    return []


def _data(facts: StudyFacts) -> list[str]:
    spec, base = facts.row.spec, facts.row.baseline
    if spec.limit is None or base is None:
        return []
    what = "sentences" if facts.metric == "accuracy" else "windows"
    return [f"Only the first {spec.limit:,} {what} of the data were used ({base.n:,} {facts.item}s)."]


def _different(facts: StudyFacts, chosen: Evaluation | None) -> list[str]:
    """Say when the baseline and the choice were not measured alike."""
    base = facts.row.baseline.evaluation if facts.row.baseline else {}
    if not chosen or not base:
        return []
    pairs = {words: (base.get(key), chosen.get(key)) for key, words in _KEYS.items()}
    return [
        f"Baseline and choice differ in {words}: {before} and {after}."
        for words, (before, after) in pairs.items()
        if before is not None and after is not None and before != after
    ]


def _silent(chosen: Evaluation | None) -> list[str]:
    blocks = ", ".join(map(str, (chosen or {}).get("silent") or ()))
    return [f"No neuron fires in {blocks} of the choice."] if blocks else []


def _trials(facts: StudyFacts) -> list[str]:
    failed = sum(t.state == "failed" for t in facts.trials)
    return [f"{failed:,} trials failed and count for nothing."] if failed else []
