"""The metric constraint as exact bounds: when is a violation certain before the run has ended?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, inf, log
from typing import TYPE_CHECKING

from qslm_opt.spec import parse_increase

if TYPE_CHECKING:
    from qslm_opt.items import Items
    from qslm_opt.results import Baseline, Metric
    from qslm_opt.spec import StudySpec

_ROUNDING = 1e-9
"""Relative room for float rounding: inside it a violation is not called certain."""


@dataclass(frozen=True)
class MetricBound:
    """What a candidate's metric must reach, over ``n`` sentences or predicted tokens."""

    metric: Metric
    n: int
    limit: float
    """Lowest allowed number of right sentences, or highest allowed perplexity."""
    confidence: float | None = None
    """With it, what is held against ``limit`` is not the measured metric but its confidence limit."""

    @classmethod
    def of(cls, spec: StudySpec, baseline: Baseline) -> MetricBound:
        """Return the bound that ``spec`` sets against ``baseline``."""
        if baseline.metric == "accuracy":
            if spec.min_accuracy is not None:
                wanted = spec.min_accuracy * baseline.n
            else:
                wanted = (baseline.correct or 0) - (spec.max_drop or 0.0) * baseline.n
            if spec.confidence is not None:  # a confidence limit is no whole number of sentences
                return cls("accuracy", baseline.n, max(0.0, wanted), spec.confidence)
            return cls("accuracy", baseline.n, float(max(0, ceil(wanted - _ROUNDING * baseline.n))))
        if spec.max_perplexity is not None:
            return cls("perplexity", baseline.n, spec.max_perplexity, spec.confidence)
        increase, percent = parse_increase(spec.max_increase or "0")
        limit = baseline.value * (1 + increase / 100) if percent else baseline.value + increase
        return cls("perplexity", baseline.n, limit, spec.confidence)

    @property
    def value(self) -> float:
        """The bound in the metric's own unit: an accuracy in 0..1, or a perplexity."""
        return self.limit / self.n if self.metric == "accuracy" else self.limit

    def judged(self, value: float, items: Items | None = None) -> float:
        """Return what is held against the limit of a run over all of the data: the metric itself."""
        return value

    def best_case(
        self, used: int, correct: int | None, nll_sum: float, items: Items | None = None
    ) -> float:
        """Return the best that ``judged`` can still become after ``used`` of ``n``.

        Accuracy: every remaining sentence right. Perplexity: every remaining term 0 (each is ≥ 0).
        """
        if self.metric == "accuracy":
            return ((correct or 0) + self.n - used) / self.n
        return _exp(nll_sum / self.n)

    def certain(self, best_case: float) -> bool:
        """Return whether ``best_case`` proves the violation, float rounding allowed for."""
        if self.metric == "accuracy":
            if self.confidence is not None:
                return best_case * self.n < self.limit - _ROUNDING * self.n
            return round(best_case * self.n) < self.limit
        return best_case == inf or log(best_case) > log(self.limit) * (1 + _ROUNDING) + _ROUNDING

    def slack(self, value: float) -> float:
        """Return the relative violation of a ``judged`` or best-case ``value``: ≤ 0 is feasible."""
        if self.metric == "accuracy":
            right = round(value * self.n) if self.confidence is None else value * self.n
            return (self.limit - right) / max(self.limit, 1.0)
        if value <= self.limit:
            return min(0.0, value / self.limit - 1)
        return max(value / self.limit - 1, _ROUNDING)

    def value_at(self, slack: float) -> float:
        """Return the value that violates the bound by ``slack``: the inverse of ``slack`` above 0."""
        if self.metric == "accuracy":
            return round(self.limit - slack * max(self.limit, 1.0)) / self.n
        return self.limit * (1 + slack)


def _exp(x: float) -> float:
    try:
        return exp(x)
    except OverflowError:
        return inf
