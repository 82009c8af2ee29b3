"""Membrane drift: how far quantization moves the membrane potentials, over a few hundred tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qslm_opt.errors import UsageError
from qslm_opt.evaluate.batches import make_batches
from qslm_opt.kernels.fire.reference import Neuron, bipolar_reference, fire_reference, ternary_reference
from qslm_opt.kernels.lif.reference import TAU, THRESHOLD, heaviside
from qslm_opt.kernels.ops import count_spikes, plain
from qslm_opt.models.family import Fired
from qslm_opt.models.registry import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qslm_opt.data import TaskData
    from qslm_opt.kernels.ops import Ops, Weight
    from qslm_opt.kernels.products import Current
    from qslm_opt.models.config import ModelConfig

TOKENS = 256
"""About so many tokens are run, at least one sentence."""


class DriftMeter:
    """Compares the membrane potentials of all neurons with those of one reference, on fixed tokens."""

    def __init__(self, data: TaskData, config: ModelConfig, ops: Ops, device: torch.device) -> None:
        """Take the first tokens of ``data``: of its first window, or of its first sentences."""
        self.config, self.ops, self._family = config, ops, family_of(config)
        cut = first_tokens(data, TOKENS)
        (self.batch,) = make_batches(cut, 2**62, len(cut.sequences), device)
        self.used = cut.n
        """Predicted tokens or sentences."""
        self._reference: list[Tensor] | None = None

    def refer_to(self, tensors: Mapping[str, Weight]) -> None:
        """Keep the potentials of these weights as the reference.

        Raises:
            UsageError: no neuron of the model is computed by our operations, as those of a mapping file.
        """
        found = self._potentials(tensors)
        if not found:
            raise UsageError(
                f"the gate compares membrane potentials, and those of {self.config.title} are not seen here; "
                "leave --gate (the key 'gate' of a spec) out."
            )
        self._reference = found

    @property
    def has_reference(self) -> bool:
        """Whether ``refer_to`` was called."""
        return self._reference is not None

    def drift(self, tensors: Mapping[str, Weight]) -> float:
        """Return the mean |v − v of the reference| over all neurons and tokens, padding left out."""
        if self._reference is None:
            raise ValueError("drift needs a reference; call refer_to first")
        total, count = 0.0, 0
        for v, known in zip(self._potentials(tensors), self._reference, strict=True):
            total += float((v - known).abs().sum(dtype=torch.float64))
            steps = v.shape[0] if v.dim() == 4 else 1
            count += self.batch.tokens * steps * v.shape[-1]
        return total / count if count else 0.0

    def _potentials(self, tensors: Mapping[str, Weight]) -> list[Tensor]:
        """Return the potentials before the reset, [B, T, D] or, of multi-step neurons, [S, B, T, D] a layer.

        Times the tokens that each place stands for, 0 on padding.
        """
        found: list[Tensor] = []
        inputs, weights = self.batch.inputs, self.batch.inputs.weights()

        def keep(potentials: Tensor) -> None:
            found.append(potentials if weights is None else potentials * weights[..., None])

        def lif_add(
            x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            own = plain(current)
            if gate is not None:
                own = torch.sigmoid(plain(gate)) * own
            potentials, spikes, v = _run(own, v)
            keep(potentials)
            return x + spikes, v, count_spikes(spikes, lengths)

        def fire(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
            steps: list[Tensor] = []
            spikes, v = fire_reference(current, neuron, note=steps.append)
            keep(torch.stack(steps))
            return spikes, v

        def ternary(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
            steps: list[Tensor] = []
            spikes = ternary_reference(x, amplitudes, leak, note=steps.append)
            keep(torch.stack(steps))
            return spikes

        def bipolar(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
            steps: list[Tensor] = []
            spikes = bipolar_reference(x, amplitudes, leak, note=steps.append)
            keep(torch.stack(steps))
            return spikes

        ops = replace(self.ops, lif_add=lif_add, fire=fire, ternary=ternary, bipolar=bipolar)
        with torch.inference_mode():
            self._family.forward(tensors, self.config, inputs, ops, Fired(None))
        return found


def _run(current: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return potentials before the reset and spikes [B, T, D], and the potentials after the last token."""
    before, spikes = [], []
    for t in range(current.shape[1]):
        v = v + (current[:, t] - v) / TAU
        fired = heaviside(v - THRESHOLD)
        before.append(v)
        spikes.append(fired)
        v = v * (1 - fired)
    return torch.stack(before, dim=1), torch.stack(spikes, dim=1), v


def first_tokens(data: TaskData, tokens: int) -> TaskData:
    """Return the first ``tokens`` tokens of a language modelling task, or the first sentences up to them."""
    if data.kind == "lm":
        return replace(data, sequences=(data.sequences[0][: tokens + 1],))
    count = total = 0
    for ids in data.sequences:
        count, total = count + 1, total + len(ids)
        if total >= tokens:
            break
    labels = None if data.labels is None else data.labels[:count]
    return replace(data, sequences=data.sequences[:count], labels=labels)
