"""Multi-step neurons in plain torch: the truth the fast kernels are compared with. Any float dtype.

Shapes: S time steps, then any others; a neuron is one place behind the first axis, and starts at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qslm_opt.kernels.lif.reference import heaviside

Round = Callable[[Tensor], Tensor]
Note = Callable[[Tensor], None]


@dataclass(frozen=True)
class Neuron:
    """One kind of neuron.

    A leaky one integrates ``v ← v + (u − v)/τ``, one without leak (``tau`` None) ``v ← v + u``. Both fire
    when ``v ≥ threshold``; then ``v ← v·(1 − s)``, or with a soft reset ``v ← (v − threshold·s)·keep``.
    """

    tau: float | None = 2.0
    threshold: float | tuple[float, ...] = 1.0
    """One, or one for each step."""
    soft: bool = False
    keep: float = 1.0
    """Share of the potential that is left from step to step, behind a soft reset."""

    def thresholds(self, steps: int) -> tuple[float, ...]:
        """Return the threshold of every step; ValueError where there are some for another number of steps."""
        if not isinstance(self.threshold, tuple):
            return (self.threshold,) * steps
        if len(self.threshold) != steps:
            raise ValueError(f"{len(self.threshold)} thresholds do not fit {steps} steps; give one for each")
        return self.threshold


def fire_reference(
    current: Tensor, neuron: Neuron, spike: Callable[[Tensor], Tensor] = heaviside, note: Note | None = None
) -> tuple[Tensor, Tensor]:
    """Run one neuron per place over the steps.

    Args:
        current: input currents [S, …].
        spike: step function of ``v − threshold``; training passes one with a surrogate gradient.
        note: called with the potentials […] before the reset, step after step.

    Returns:
        Spikes in {0, 1} [S, …] and the potentials after the last step […].
    """
    v, spikes = torch.zeros_like(current[0]), []
    for u, threshold in zip(current, neuron.thresholds(len(current)), strict=True):
        v = v + u if neuron.tau is None else v + (u - v) / neuron.tau
        if note is not None:
            note(v)
        fired = spike(v - threshold)
        if neuron.soft:
            v = v - threshold * fired
            v = v if neuron.keep == 1 else v * neuron.keep
        else:
            v = v * (1 - fired)
        spikes.append(fired)
    return torch.stack(spikes), v


def bipolar_reference(
    x: Tensor,
    amplitudes: Sequence[Tensor],
    leak: float,
    sign: Round = torch.sign,
    note: Note | None = None,
) -> Tensor:
    """Return spikes of −a or a (0 for m = 0): ``ternary_reference`` with ``o_t = a_t·sign(m_t)``, a > 0."""
    return ternary_reference(x, amplitudes, leak, sign, note)


def ternary_reference(
    x: Tensor,
    amplitudes: Sequence[Tensor],
    leak: float,
    rounding: Round = torch.round,
    note: Note | None = None,
) -> Tensor:
    """Return spikes of −a, 0 or a [S, …] for inputs [S, …] and the amplitude a of each step (scalars).

    ``m_t = leak·m_{t−1}·(a_{t−1} − o_{t−1}) + x_t`` and ``o_t = a_t·clamp(round(m_t/a_t), −1, 1)``, halves
    rounded to even; a spike up clears the potential, one down doubles what is carried of it. With ``leak`` 0
    every step stands for itself. Source: Xing et al., SpikeLM (ICML 2024) and its released code.

    Args:
        rounding: rounds to whole numbers; training passes one with a straight-through gradient.
        note: called with the potentials m […], step after step.
    """
    out: list[Tensor] = []
    m = x[0]
    for t, (u, a) in enumerate(zip(x, amplitudes, strict=True)):
        m = u if t == 0 or not leak else leak * m * (amplitudes[t - 1] - out[-1]) + u
        if note is not None:
            note(m)
        out.append(a * rounding(m / a).clamp(-1, 1))
    return torch.stack(out)
