"""The metric constraint with a confidence: the bound must hold for the text at large, not for a lucky sample.

With confidence C, what is held against the limit is a one-sided confidence limit at level C: of the paired
drop in accuracy (Tango's score limit), of the paired ratio of perplexities over windows (Student's t), or,
where the bound is an absolute one, of the accuracy (Wilson's) or the perplexity itself. The level holds for
each setting by itself. A search looks at many and keeps the smallest that passes, so the choice is still
flattered: what was held back (``--hold-back``, ``--report-split``) is the proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING

from qslm_opt import stats
from qslm_opt.errors import DataError
from qslm_opt.evaluate.bounds import MetricBound
from qslm_opt.figures import metric_value

if TYPE_CHECKING:
    from qslm_opt.items import Items
    from qslm_opt.results import Baseline
    from qslm_opt.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class ConfidentBound(MetricBound):
    """A bound that a setting's confidence limit must meet; see the module."""

    baseline: Items
    """The unquantized model's, of the whole data."""
    absolute: bool
    """Whether the bound is a fixed metric, not a distance from the baseline."""

    @classmethod
    def with_items(cls, spec: StudySpec, baseline: Baseline, items: Items) -> ConfidentBound:
        """Return the bound of ``spec``, which has a confidence, against ``baseline`` with its items."""
        plain = MetricBound.of(spec, baseline)
        absolute = spec.min_accuracy is not None or spec.max_perplexity is not None
        return cls(
            plain.metric, plain.n, plain.limit, plain.confidence, baseline=items, absolute=absolute
        )

    @property
    def level(self) -> float:
        """The confidence."""
        assert self.confidence is not None
        return self.confidence

    def judged(self, value: float, items: Items | None = None) -> float:
        """Return the confidence limit of a whole run's ``items``, in the metric's own unit.

        Accuracy: the baseline's, less the largest drop that is credible, or the lowest credible accuracy.
        Perplexity: the highest that is credible, given the baseline's; infinite for a single window.
        """
        items = _needed(items)
        if self.metric == "accuracy":
            return self._lowest(items)
        losses, tokens = items.sums
        if not self.absolute:
            losses = losses - self.baseline.sums[0]
        margin = stats.loss_margin(losses, tokens, self.level)
        return value * exp(min(margin, 700.0)) if margin < inf else inf

    def best_case(
        self, used: int, correct: int | None, nll_sum: float, items: Items | None = None
    ) -> float:
        """Return the best that ``judged`` can still become: exact for accuracy, a lower bound for perplexity.

        The limit of a drop rises with every sentence lost and falls with every one won, so the best end is
        all the rest right. A perplexity's limit is never below the perplexity.
        """
        if self.metric == "accuracy":
            return self._lowest(_needed(items))
        return super().best_case(used, correct, nll_sum)

    def _lowest(self, items: Items) -> float:
        """Return the lower limit of the accuracy, as if all that is not seen were right."""
        before = self.baseline.right
        assert items.right is not None
        assert before is not None
        right = items.right | ~items.seen
        if self.absolute:
            return stats.lowest_accuracy(int(right.sum()), self.n, self.level)
        lost, won = int((before & ~right).sum()), int((right & ~before).sum())
        return float(before.mean()) - stats.highest_drop(lost, won, self.n, self.level)


def unreachable(bound: MetricBound, baseline: Baseline, asked: str) -> str:
    """Return why the unquantized model itself does not meet a confident bound, and what to change."""
    level = f"{100 * (bound.confidence or 0):g} % confidence"
    of = "sentences" if bound.metric == "accuracy" else "predicted tokens"
    value = metric_value(bound.metric, baseline.value)
    return (
        f"with {bound.n:,} {of} not even a setting that changes nothing can be shown to meet {asked} at "
        f"{level} ({bound.metric} {value}); evaluate more of the data, give a wider bound, "
        "or lower --confidence."
    )


def _needed(items: Items | None) -> Items:
    if items is None:
        raise DataError(
            "a bound with confidence needs the outcome of every sentence or window, and has none; "
            "create the study anew."
        )
    return items


