"""Which batches are computed first: those that decide soonest.

A violation is certain once enough sentences are wrong, or enough negative log likelihood has come together
(``bounds``). Sentences that the unquantized model gets wrong, or nearly, are put into batches of their own
before a search begins; in it, the batches that weighed most in the runs of this process so far come first,
which changes no number, only when it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qslm_opt.evaluate.batches import Batch

STRATA = 4
"""Classes of sentences by how soon they turn wrong: enough to skip most of a rejected run's data, few
enough that sentences of like length still meet in a batch."""


def hardness_strata(hardness: NDArray[np.float64]) -> list[list[int]]:
    """Return sequence numbers in ``STRATA`` groups of about equal size, hardest first."""
    order = np.argsort(-hardness, kind="stable")
    return [part.tolist() for part in np.array_split(order, STRATA) if len(part)]


class Evidence:
    """How much each batch contributed to a violation in the runs so far, per token that it costs."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._costs = [max(1, batch.ids.numel()) for batch in batches]
        self._seen = [0.0] * len(batches)
        self._runs = [0] * len(batches)

    def add(self, index: int, amount: float) -> None:
        """Note wrong sentences or nats of one run over batch ``index``."""
        self._seen[index] += amount
        self._runs[index] += 1

    def order(self) -> list[int]:
        """Return batch numbers, the largest mean amount per token first; the given order among equals."""
        rates = [
            seen / runs / cost if runs else 0.0
            for seen, runs, cost in zip(self._seen, self._runs, self._costs, strict=True)
        ]
        return sorted(range(len(rates)), key=lambda i: -rates[i])
