"""Sums over the batches of one evaluation, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, fsum
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from qslm_opt.evaluate.batches import Batch
    from qslm_opt.models.config import ModelConfig

    Counts = Mapping[str, Tensor]
    """Site → spikes, a float64 scalar."""


@dataclass(frozen=True)
class Result:
    """What a batch gave."""

    nll: float
    correct: int
    spikes: Sequence[float]
    """By site."""
    losses: Tensor | None = None  # (sentences,): higher is nearer to wrong; (windows,) sums where asked for
    right: Tensor | None = None  # (sentences,) bool

    def arrays(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return losses and right answers as arrays."""
        losses, right = (None if t is None else t.cpu().numpy() for t in (self.losses, self.right))
        return losses, right


@dataclass
class Sums:
    """What the batches so far came to."""

    used: int = 0
    tokens: int = 0
    correct: int = 0
    nll: dict[int, float] = field(default_factory=dict)
    """By batch, so that the total does not depend on the order."""
    spikes: list[float] = field(default_factory=list)
    """By site; empty before the first batch."""

    @property
    def nll_sum(self) -> float:
        """Negative log likelihood in nats."""
        return fsum(self.nll.values())

    def add(self, index: int, batch: Batch, result: Result) -> None:
        """Add what batch number ``index`` gave."""
        self.used += batch.n
        self.tokens += batch.tokens
        self.correct += result.correct
        self.nll[index] = result.nll
        before = self.spikes or [0.0] * len(result.spikes)
        self.spikes = [a + b for a, b in zip(before, result.spikes, strict=True)]

    def metric(self, *, classes: bool) -> float:
        """Return the accuracy, or the perplexity, of what was computed."""
        return self.correct / self.used if classes else exp(min(self.nll_sum / self.used, 700.0))


class Spikes:
    """The neurons of one model: from spikes by site to rates and silent blocks."""

    def __init__(self, config: ModelConfig) -> None:
        self.sites = config.sites()
        self._steps = config.timesteps
        self._blocks = {i: f"attention.{i}" for i in range(config.blocks)}

    def stacked(self, counts: Counts) -> list[float]:
        """Return the spikes of every site, in their order."""
        return torch.stack([counts[site] for site in self.sites]).tolist() if self.sites else []

    def by_block(self, counts: Counts) -> list[Tensor]:
        """Return the sum over the sites of the input, where it has any, and of each block with neurons."""
        found: dict[int | None, Tensor] = {}
        for name, site in self.sites.items():
            before = found.get(site.block)
            found[site.block] = counts[name] if before is None else before + counts[name]
        return list(found.values())

    def rates(self, spikes: Sequence[float], tokens: int) -> dict[str, float]:
        """Return spikes per neuron and step by site."""
        return {
            name: fired / (site.width * tokens * self._steps)
            for (name, site), fired in zip(self.sites.items(), spikes, strict=True)
        }

    def rate(self, spikes: Sequence[float], tokens: int) -> float | None:
        """Return spikes per neuron and step over all neurons; None where there are none."""
        neurons = sum(site.width for site in self.sites.values())
        return sum(spikes) / (neurons * tokens * self._steps) if neurons else None

    def silent(self, spikes: Sequence[float]) -> tuple[str, ...]:
        """Return the attention blocks that have neurons, none of which fired."""
        fired = dict.fromkeys((s.block for s in self.sites.values()), 0.0)
        for site, count in zip(self.sites.values(), spikes, strict=True):
            fired[site.block] += count
        return tuple(unit for i, unit in self._blocks.items() if fired.get(i) == 0)
