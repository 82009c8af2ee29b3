"""One table of the operations between the matrix products, in a plain and in fast versions.

Every version computes the same functions; ``reference`` is the truth. A version may fuse, but takes and
returns the same values: residual stream ``x`` [B, T, D], states explicit, spikes counted per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from qslm_opt.kernels.lif.reference import lif_reference
from qslm_opt.kernels.mix.reference import norm_shift_mix_reference
from qslm_opt.kernels.wkv.reference import wkv_reference


class NormShiftMix(Protocol):
    """LayerNorm, token shift and mixes: see ``norm_shift_mix_reference``."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]: ...


class GatedWkv(Protocol):
    """``sigmoid(r) · WKV(k, v)`` and the state after the last token."""

    def __call__(
        self, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class LifAdd(Protocol):
    """``x + LIF(current)`` or, with a gate, ``x + LIF(sigmoid(gate) · current)``.

    Returns the new residual [B, T, D], the membrane potentials [B, D] and spikes per window [B]
    (positions at or beyond ``lengths`` are padding and do not count).
    """

    def __call__(
        self, x: Tensor, current: Tensor, gate: Tensor | None, v: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Relu2(Protocol):
    """``relu(x)²``; may work in place."""

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Ops:
    """The operations of one version."""

    name: str
    norm_shift_mix: NormShiftMix
    gated_wkv: GatedWkv
    lif_add: LifAdd
    relu2: Relu2


def _gated_wkv(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    y, state = wkv_reference(k, v, w, u, state)
    return torch.sigmoid(r) * y, state


def _lif_add(
    x: Tensor, current: Tensor, gate: Tensor | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if gate is not None:
        current = torch.sigmoid(gate) * current
    spikes, v = lif_reference(current, v)
    return x + spikes, v, count_spikes(spikes, lengths)


def count_spikes(spikes: Tensor, lengths: Tensor | None) -> Tensor:
    """Return spikes per window [B] as float64, padding left out."""
    per_token = spikes.sum(dim=-1, dtype=torch.float64)  # [B, T]
    if lengths is not None:
        per_token = per_token * (torch.arange(spikes.shape[1], device=spikes.device) < lengths[:, None])
    return per_token.sum(dim=1)


def _relu2(x: Tensor) -> Tensor:
    return torch.relu(x).square()


REFERENCE = Ops("reference", norm_shift_mix_reference, _gated_wkv, _lif_add, _relu2)


@cache
def fast_ops(device: str) -> Ops:
    """Return the fastest float32 version for a device type (``cpu`` or ``cuda``)."""
    if device == "cpu":
        from qslm_opt.kernels.cpu import NUMBA

        return NUMBA
    if device == "cuda" and find_spec("triton"):
        from qslm_opt.kernels.cuda import TRITON

        return TRITON
    return REFERENCE
