"""Kernels of multi-step neurons against the loop over the steps in plain torch, which is their truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qslm_opt.bench.timing import Timing, Variant, interleaved
from qslm_opt.kernels.fire.count import count_spikes
from qslm_opt.kernels.fire.reference import Neuron, fire_reference, ternary_reference
from qslm_opt.kernels.ops import Ops, fast_ops
from qslm_opt.train.neurons import atan_spike, straight_round
from qslm_opt.train.surrogate import TRAINING

BATCH, TOKENS = 32, 64
_SEED = 0


@dataclass(frozen=True)
class Site:
    """One kind of site of a trained small model."""

    model: str
    steps: int
    width: int
    neuron: Neuron | None
    """None: ternary spikes."""


SITES = (
    Site("spikebert", 4, 128, Neuron()),
    Site("spikebert", 4, 512, Neuron()),
    Site("spikingbert", 8, 128, Neuron(tau=None, soft=True)),
    Site("spikingbert", 8, 384, Neuron(tau=None, soft=True)),
    Site("spikelm", 4, 160, None),
    Site("spikelm", 4, 640, None),
)
_LEAK = 0.25


@dataclass(frozen=True)
class NeuronRow:
    """Wall time of one call for one site."""

    model: str
    work: str
    """``fire``, ``count`` of its spikes, or ``train``: fire and the gradient."""
    shape: tuple[int, ...]
    """Steps, batch, tokens, neurons."""
    plain: Timing
    fast: Timing
    copy: Timing
    """Of copying the currents: no kernel that reads and writes them is faster."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures with their units in the names."""
        return {
            "model": self.model, "work": self.work, "shape": list(self.shape),
            "plain_ms": 1e3 * self.plain.median_s, "plain_ms_low": 1e3 * self.plain.low_s,
            "plain_ms_high": 1e3 * self.plain.high_s,
            "ms": 1e3 * self.fast.median_s, "ms_low": 1e3 * self.fast.low_s,
            "ms_high": 1e3 * self.fast.high_s,
            "ratio": self.plain.median_s / self.fast.median_s, "copy_ms": 1e3 * self.copy.median_s,
        }  # fmt: skip


def measure_neurons(
    device: torch.device,
    *,
    repeats: int,
    seconds_limit: float,
    synchronise: Callable[[], None],
    tell: Callable[[str], None],
) -> list[NeuronRow]:
    """Return rows for every site: firing, counting the spikes, firing with the gradient; runs in turns."""
    rows, ops = [], fast_ops(device.type)
    for site in SITES:
        shape = (site.steps, BATCH, TOKENS, site.width)
        tell(f"neurons of {site.model}, {' × '.join(map(str, shape))}")
        generator = torch.Generator().manual_seed(_SEED)
        current = (torch.randn(shape, generator=generator) * 2).to(device)
        for work, (plain, fast) in _works(site, current, ops).items():
            found = interleaved(
                {"plain": Variant(plain), "fast": Variant(fast), "copy": Variant(current.clone)},
                repeats=repeats, seconds_limit=seconds_limit, synchronise=synchronise,
            )  # fmt: skip
            rows.append(NeuronRow(site.model, work, shape, *map(_timing, found.values())))
    return rows


def _timing(found: Timing | BaseException) -> Timing:
    if isinstance(found, BaseException):
        raise found
    return found


def _works(
    site: Site, current: Tensor, ops: Ops
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return each work in plain torch and as the kernels do it."""
    amplitudes = [torch.tensor(1.0 + 0.1 * t, device=current.device) for t in range(site.steps)]
    neuron = site.neuron
    if neuron is None:
        spikes = ternary_reference(current, amplitudes, _LEAK)
        return {
            "fire": (
                lambda: ternary_reference(current, amplitudes, _LEAK),
                lambda: ops.ternary(current, amplitudes, _LEAK),
            ),
            "count": (lambda: torch.count_nonzero(spikes, dim=-1).sum(), lambda: count_spikes(spikes, None)),
            "train": (
                _trained(current, lambda x: ternary_reference(x, amplitudes, _LEAK, straight_round)),
                _trained(current, lambda x: TRAINING.ternary(x, amplitudes, _LEAK)),
            ),
        }
    spikes = fire_reference(current, neuron)[0]
    return {
        "fire": (lambda: fire_reference(current, neuron), lambda: ops.fire(current, neuron)),
        "count": (lambda: torch.count_nonzero(spikes, dim=-1).sum(), lambda: count_spikes(spikes, None)),
        "train": (
            _trained(current, lambda x: fire_reference(x, neuron, atan_spike)[0]),
            _trained(current, lambda x: TRAINING.fire(x, neuron)[0]),
        ),
    }


def _trained(current: Tensor, fire: Callable[[Tensor], Tensor]) -> Callable[[], object]:
    """Return a call of ``fire`` and of its gradient for a given one of the spikes."""
    x, gradient = current.clone().requires_grad_(), torch.ones_like(current)

    def run() -> object:
        return torch.autograd.grad(fire(x), x, gradient)

    return run
