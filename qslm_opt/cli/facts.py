"""What the commands say about a study, as plain values: from the storage alone, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qslm_opt import rank
from qslm_opt.cli.generalising import comparison_json, generalisation_json, interval_json
from qslm_opt.cli.output import metric_value, size, total_text
from qslm_opt.cli.tuning import tuned_in_vain, tuned_json
from qslm_opt.errors import InfeasibleError, QslmError
from qslm_opt.search.verdicts import INTERRUPTED, STALE

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.results import Comparison, TrialRecord
    from qslm_opt.store import StudyRow

ENDED = ("finished", "infeasible")
"""States of a study that has nothing left to run."""


@dataclass(frozen=True)
class StudyFacts:
    """A study and its trials as read at one moment."""

    row: StudyRow
    trials: Sequence[TrialRecord]
    lam: float
    """λ of the ranking: the study's own, or what the user asked for."""
    searched: Mapping[str, Comparison] = field(default_factory=dict)
    """Digest → comparison with the baseline on the searched data, where the study makes them."""

    @property
    def metric(self) -> str:
        """``accuracy`` or ``perplexity``."""
        return self.row.spec.metric

    @property
    def item(self) -> str:
        """What the task consists of: ``sentence`` or ``token``."""
        return "sentence" if self.metric == "accuracy" else "token"

    @property
    def baseline(self) -> float | None:
        """The unquantized model's metric, None until it was measured."""
        return self.row.baseline.value if self.row.baseline else None

    @property
    def fp32_bytes(self) -> int:
        """Bytes of the live tensors in float32."""
        return self.row.hierarchy.fp32_bytes()

    @cached_property
    def ranked(self) -> list[Ranked]:
        """The candidates, best first."""
        return rank.rank(self.trials, self.metric, self.lam)

    @property
    def best(self) -> Ranked | None:
        """The candidate that wins at ``lam``."""
        return self.ranked[0] if self.ranked else None

    def to_json(self) -> dict[str, Any]:
        """Return what ``study show --json`` prints."""
        row = self.row
        return {
            "name": row.name,
            "state": row.state,
            "reason": row.reason,
            "created": row.created,
            "uuid": row.uuid,
            "process": {"pid": row.pid, "host": row.host, "heartbeat": row.heartbeat, "phase": row.phase},
            "lambda": self.lam,
            "spec": json.loads(row.spec.to_json()),
            "family": row.hierarchy.family,
            "timesteps": row.timesteps,
            "tokenizer": row.spec.tokenizer,
            "config": {**row.told, **row.spec.config},
            "fingerprint": row.fingerprint,
            "baseline": self._baseline(),
            "constraints": self._constraints(),
            "tiers": self.tiers(),
            "order": row.order,
            "counts": row.counts,
            "interrupted": self.interrupted,
            "evaluations": sum(ran(t) and not t.cheap for t in self.trials),
            "cheap": sum(ran(t) and t.cheap for t in self.trials),
            "full_equivalents": equivalents(self.trials),
            "gate": self.gate(),
            "best": self._best(),
            "tuned": tuned_json(row.spec, self.trials),
            "generalisation": generalisation_json(row),
            "closest": self._closest(),
        }

    @property
    def interrupted(self) -> int:
        """Trials, of those that failed, that were cut off by a signal, a stop or the end of their process.

        Their settings run again.
        """
        said = (trial.reason or "" for trial in self.trials if trial.state == "failed")
        return sum(reason.startswith((INTERRUPTED, STALE)) for reason in said)

    def trials_text(self) -> str:
        """Return how many trials there are of each state, those that were cut off apart from what failed."""
        counts = dict(self.row.counts)
        if cut := self.interrupted:
            counts["failed"] = max(0, counts.get("failed", 0) - cut)
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"{words}, {cut} interrupted (run again)" if cut else words

    def _best(self) -> dict[str, Any] | None:
        return None if self.best is None else {**best_json(self.best), **self._chance(self.best.record)}

    def rows(self, every: bool = False) -> list[dict[str, Any]]:
        """Return the candidates as rows, best first; ``every`` adds what violates a constraint."""
        ranked = rank.rank(self.trials, self.metric, self.lam, feasible_only=False) if every else self.ranked
        front = {t.number for t in rank.pareto(self.trials, self.metric)}
        return [
            {**_row(entry, entry.record.number in front), **self._chance(entry.record)} for entry in ranked
        ]

    def _chance(self, record: TrialRecord) -> dict[str, Any]:
        """Return how sure a candidate's metric is, and what it is on held-back data."""
        n = self.row.baseline.n if self.row.baseline else 0
        found = self.searched.get(record.digest)
        return {
            **interval_json(self.metric, record.value, n, found),
            "standard_error": None if found is None else found.error,
            "p_value": None if found is None else found.p,
            "held_back": comparison_json(self.row.held_back.get(record.digest)),
        }

    def tiers(self) -> list[dict[str, Any]]:
        """Return each tier with what is done, the total where the search knows it, and its best metric."""
        progress = {part["tier"]: part for part in self.row.progress}
        ended = [t for t in self.trials if t.state not in ("running", "waiting")]
        found = []
        for tier in self.row.spec.tiers:
            mine = [t for t in ended if t.tier == tier]
            known = progress.get(tier, {})
            best = next((entry.record for entry in self.ranked if entry.record.tier == tier), None)
            found.append(
                {
                    "tier": tier,
                    "done": known.get("done", len(mine)),
                    "total": known.get("total"),
                    "best": None if best is None else best.value,
                    "trial": None if best is None else best.number,
                    "evaluations": sum(ran(t) for t in mine),
                    "not_needed": sum(ran(t) and t.extra for t in mine),
                }
            )
        return found

    def ahead_words(self) -> str | None:
        """Return why tiers have more model runs than they have done; None where none has."""
        tiers = self.tiers()
        if self.row.state in ENDED:
            count = sum(tier["not_needed"] for tier in tiers)
            what = f"{count} of the model runs {'was' if count == 1 else 'were'} not needed in the end"
        else:
            count = sum(max(0, tier["evaluations"] - tier["done"]) for tier in tiers)
            what = "model runs beyond 'done' are of steps that the search has not reached yet"
        return f"work ahead: {what}; workers that would wait measure what may come next" if count else None

    def gate(self) -> dict[str, int] | None:
        """Return what the gate postponed and was evaluated in the end, and how much of that met the metric.

        None without a gate.
        """
        if not self.row.spec.gate:
            return None
        put_off = [t for t in self.trials if t.tier == "postponed" and t.state in ("complete", "pruned")]
        wrong = sum(t.value is not None and t.slack.get("metric", 1.0) <= 0 for t in put_off)
        return {"evaluated": len(put_off), "false_rejects": wrong}

    def tuned_in_vain(self) -> str | None:
        """Return that the search has ended and no tuned setting was good enough; None otherwise."""
        return tuned_in_vain(self.row.spec, self.trials) if self.row.state in ENDED else None

    def bound_text(self) -> str:
        """Return the metric constraint in words."""
        spec, bound = self.row.spec, self.row.bound
        if spec.max_drop is not None:
            text = f"at most {100 * spec.max_drop:g} points below the baseline"
        elif spec.min_accuracy is not None:
            text = f"at least {100 * spec.min_accuracy:g} %"
        elif spec.max_increase is not None:
            text = f"at most {spec.max_increase} above the baseline"
        else:
            text = f"at most {spec.max_perplexity:g}"
        sure = "" if spec.confidence is None else f", with {100 * spec.confidence:g} % confidence"
        return f"{self.metric} {text}{'' if bound is None else f': {metric_value(self.metric, bound)}'}{sure}"

    def no_candidate(self, more: str = "") -> QslmError:
        """Return why there is no candidate: exit code 4 where the search has ended, else 1."""
        if self.row.state in ENDED:
            return InfeasibleError(f"{self.nothing_feasible()}{more}.")
        return QslmError(f"{self.nothing_yet()}{more}.")

    def nothing_yet(self) -> str:
        """Return where a search without a candidate stands, and how to go on."""
        at = next((p for p in self.row.progress if p["done"] < p["total"]), None)
        of = total_text(at["done"], at["total"]) if at else ""
        where = f" in the {at['tier']} tier at {at['done']} of {of}" if at else ""
        go_on = "" if self.row.state == "running" else f"; go on with qslm-opt study resume {self.row.name}"
        return f"no candidate yet: the study is {self.row.state}{where}{go_on}"

    def nothing_feasible(self) -> str:
        """Return what came closest and by how much, for when there is no candidate."""
        near = rank.closest(self.trials)
        if near is None:
            return self.row.reason.rstrip(".") or "no setting was measured, so nothing meets both constraints"
        misses = []
        if near.slack.get("metric", 0.0) > 0:
            at_best = "" if near.value is not None else " (the run was stopped: at best this close)"
            got = f"{self.metric} {metric_value(self.metric, near.value)}, " if near.value is not None else ""
            sure = self.row.spec.confidence
            limit = "" if sure is None else f"its limit at {100 * sure:g} % confidence "
            misses.append(f"{got}{limit}{100 * near.slack['metric']:.2g} % beyond the bound{at_best}")
        if near.slack.get("memory", 0.0) > 0:
            misses.append(f"{size(near.bytes)}, {size(near.bytes - self.row.budget)} over the budget")
        where = f"trial {near.number} ({near.tier}, {near.unit} at {near.bits} bits)"
        return f"no setting meets both constraints; the closest is {where}: {' and '.join(misses)}"

    def _baseline(self) -> dict[str, Any] | None:
        base = self.row.baseline
        if base is None:
            return None
        found: dict[str, Any] = {
            "metric": base.metric, "value": base.value, "bytes": base.bytes, "n": base.n,
            "firing_rate": base.firing_rate,
        }  # fmt: skip
        chance = interval_json(self.metric, base.value, base.n, self.searched.get("baseline"))
        return {**found, "correct": base.correct, **chance}

    def _constraints(self) -> dict[str, Any]:
        spec = self.row.spec
        keys = ("max_drop", "min_accuracy", "max_increase", "max_perplexity")
        given = {key: getattr(spec, key) for key in keys if getattr(spec, key) is not None}
        return {
            "metric": {"name": self.metric, "bound": self.row.bound, **given},
            "memory": {"budget": self.row.budget, "memory_budget": spec.memory_budget},
        }

    def _closest(self) -> dict[str, Any] | None:
        near = None if self.ranked else rank.closest(self.trials)
        if near is None:
            return None
        return {"trial": near.number, "value": near.value, "bytes": near.bytes, "slack": dict(near.slack)}


def ran(trial: TrialRecord) -> bool:
    """Return whether the trial ran the model."""
    return trial.used > 0


def equivalents(trials: Sequence[TrialRecord]) -> float:
    """Return how many full evaluations the model runs come to, a cheap one counted as its share."""
    return round(sum(t.share for t in trials if ran(t)), 3)


def _row(entry: Ranked, on_front: bool) -> dict[str, Any]:
    t = entry.record
    return {
        "rank": entry.rank,
        "trial": t.number,
        "tier": t.tier,
        "unit": t.unit,
        "bits": t.bits,
        "value": t.value,
        "bytes": t.bytes,
        "saving": t.saving,
        "score": entry.score,
        "feasible": t.feasible,
        "slack": {"metric": t.slack.get("metric"), "memory": t.slack.get("memory")},
        "power_w": t.power_w,
        "energy_j": t.energy_j,
        "firing_rate": t.firing_rate,
        "pareto": on_front,
        "lambda_interval": entry.interval,
        "digest": t.digest,
    }


def best_json(entry: Ranked) -> dict[str, Any]:
    """Return the object ``best`` of ``study show --json``."""
    t = entry.record
    return {
        "trial": t.number,
        "tier": t.tier,
        "value": t.value,
        "bytes": t.bytes,
        "saving": t.saving,
        "score": entry.score,
        "lambda_interval": entry.interval,
        "firing_rate": t.firing_rate,
        "setting": json.loads(t.setting),
    }
