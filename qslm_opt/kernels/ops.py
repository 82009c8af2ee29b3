"""One table of what a model computes with, in a plain and in fast versions.

Every version computes the same functions; ``reference`` is the truth. A version may fuse, and may hand an
activation from one of its operations to the next in a form of its own (``Operand``: float32, or the float16
terms of ``products``). What comes in and goes out is plain: residual stream ``x`` [B, T, D], explicit states,
spikes counted per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, linear

from qslm_opt.errors import DeviceError
from qslm_opt.kernels.fire.reference import Neuron, bipolar_reference, fire_reference, ternary_reference
from qslm_opt.kernels.lif.reference import heaviside, lif_reference
from qslm_opt.kernels.mix.reference import norm_shift_mix_reference
from qslm_opt.kernels.products import PRECISIONS, Current, Precision, Scaled, has_half_products
from qslm_opt.kernels.wkv.reference import wkv_reference

Operand: TypeAlias = Tensor
"""An activation in the form that the same version's ``linear`` takes."""
Weight: TypeAlias = Any
"""A tensor [N, K], or what the same version's ``weight`` made of one."""


class NormShiftMix(Protocol):
    """LayerNorm, token shift and mixes: see ``norm_shift_mix_reference``; the blends are operands."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
    ) -> tuple[list[Operand], Tensor]: ...


class GatedWkv(Protocol):
    """``sigmoid(r) · WKV(k, v)`` as an operand, and the state after the last token."""

    def __call__(
        self, r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Operand, Tensor]: ...


class LifAdd(Protocol):
    """``x + LIF(current)`` or, with a gate, ``x + LIF(sigmoid(gate) · current)``.

    Returns the new residual [B, T, D], the membrane potentials [B, D] and spikes per window [B]
    (positions at or beyond ``lengths`` are padding and do not count). The spikes of a window with a current
    that is NaN or infinite are NaN: it fires nothing afterwards, and nothing else would tell.
    """

    def __call__(
        self, x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Relu2(Protocol):
    """``relu(x)²`` as an operand; may work in place."""

    def __call__(self, x: Current) -> Operand: ...


class Linear(Protocol):
    """``x · weightᵀ`` [..., N]."""

    def __call__(self, x: Operand, weight: Weight) -> Current: ...


class Nll(Protocol):
    """Negative log likelihood of each target in nats [rows].

    ``h`` [rows, D] float32, ``weight`` the head [V, D], ``targets`` [rows]. Logits exist for a part of the
    rows at a time. Rows whose logits are not finite give NaN or infinity.
    """

    def __call__(self, h: Tensor, weight: Weight, targets: Tensor) -> Tensor: ...


class Fire(Protocol):
    """Multi-step neurons from rest: see ``fire_reference``; plain tensors in and out."""

    def __call__(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]: ...


class Ternary(Protocol):
    """Ternary spikes: see ``ternary_reference``; plain tensors in and out."""

    def __call__(self, x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor: ...


class Plain(Protocol):
    """One tensor from one."""

    def __call__(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasRows(Protocol):
    """A weight that is no tensor but gives rows of itself."""

    def rows(self, ids: Tensor) -> Tensor:
        """Return float32 [*ids, K] for row numbers of any shape."""


class MakeWeight(Protocol):
    """Make ``values · scale`` [N, K] into what ``linear`` takes, or ``nll`` where ``head`` is set.

    ``scale`` [N] float32 is that of integer codes, None is 1.
    """

    def __call__(self, values: Tensor, scale: Tensor | None, *, head: bool) -> Weight: ...


def _linear(x: Operand, weight: Weight) -> Current:
    return linear(x, weight)


def _nll(h: Tensor, weight: Weight, targets: Tensor, rows: int = 2048) -> Tensor:
    parts = zip(h.split(rows), targets.split(rows), strict=True)
    return torch.cat([cross_entropy(linear(part, weight), t, reduction="none") for part, t in parts])


def _fire(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    return fire_reference(current, neuron)


def _ternary(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    return ternary_reference(x, amplitudes, leak)


def _bipolar(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    return bipolar_reference(x, amplitudes, leak)


def _same(x: Tensor) -> Operand:
    return x


def _round(x: Tensor) -> Tensor:
    return torch.round(x)


def _heaviside(x: Tensor) -> Tensor:
    return heaviside(x)


@dataclass(frozen=True)
class Ops:
    """The operations of one version."""

    name: str
    norm_shift_mix: NormShiftMix
    gated_wkv: GatedWkv
    lif_add: LifAdd
    relu2: Relu2
    linear: Linear = _linear
    nll: Nll = _nll
    weight: MakeWeight | None = None
    """None: weights are the dequantized tensors themselves."""
    precision: Precision = "fp32"
    """Of the matrix products; a float64 model is computed in float64 by the reference."""
    fire: Fire = _fire
    ternary: Ternary = _ternary
    bipolar: Ternary = _bipolar
    """Spikes of either sign, never none: see ``bipolar_reference``."""
    heaviside: Plain = _heaviside
    """1 where x ≥ 0, else 0."""
    rounding: Plain = _round
    """Nearest whole numbers, halves to even."""
    operand: Plain = _same
    """A plain activation in the form that ``linear`` takes."""

    def affine(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """Return ``x · weightᵀ + bias`` [..., N], plain tensors in and out."""
        y = plain(self.linear(self.operand(x), weight))
        return y if bias is None else y.add_(bias)  # its own tensor, fresh from the product


def _gated_wkv(
    r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    y, state = wkv_reference(plain(k), plain(v), w, u, state)
    return torch.sigmoid(plain(r)) * y, state


def _lif_add(
    x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    current = plain(current)
    if gate is not None:
        current = torch.sigmoid(plain(gate)) * current
    spikes, v = lif_reference(current, v)
    finite = (v * 0).sum(dim=-1, dtype=torch.float64)
    return x + spikes, v, count_spikes(spikes, lengths) + finite


def rows_of(weight: Weight, ids: Tensor) -> Tensor:
    """Return rows [*ids, K] of a weight [V, K]."""
    return weight.rows(ids) if isinstance(weight, HasRows) else embedding(ids, weight)


def plain(current: Current) -> Tensor:
    """Return a current as one tensor."""
    return current.whole() if isinstance(current, Scaled) else current


def divided(current: Current, by: float) -> Current:
    """Return ``current / by``."""
    if isinstance(current, Scaled):
        return Scaled(current.values, current.scale / by)
    return current / by


def count_spikes(spikes: Tensor, lengths: Tensor | None) -> Tensor:
    """Return spikes per window [B] as float64, padding left out."""
    per_token = spikes.sum(dim=-1, dtype=torch.float64)  # [B, T]
    if lengths is not None:
        per_token = per_token * (torch.arange(spikes.shape[1], device=spikes.device) < lengths[:, None])
    return per_token.sum(dim=1)


def _relu2(x: Current) -> Tensor:
    return torch.relu(plain(x)).square()


REFERENCE = Ops("reference", norm_shift_mix_reference, _gated_wkv, _lif_add, _relu2)


def available_precisions(device: str) -> tuple[Precision, ...]:
    """Return the precisions that matrix products have on a device type (``cpu`` or ``cuda``)."""
    if device != "cuda":
        return ("fp32",)
    return PRECISIONS if find_spec("triton") and has_half_products() else ("fp32", "tf32")


def pick_precision(device: str, wanted: str = "auto") -> Precision:
    """Return the precision of matrix products on a device type.

    ``auto`` is the fastest that leaves every SST-2 prediction and, within 5e-4, the perplexity of the 14M
    models as float32 has them: split on CUDA, float32 on the CPU. DeviceError for what is not there.
    """
    if wanted != "auto" and wanted not in PRECISIONS:
        raise DeviceError(f"matmul precision {wanted!r} is unknown; use auto, {', '.join(PRECISIONS)}.")
    there = available_precisions(device)
    if wanted == "auto":
        return "split" if "split" in there else "fp32"
    for precision in there:
        if precision == wanted:
            return precision
    needs = "a CUDA device" if wanted == "tf32" else "a CUDA device, Triton and torch 2.8 or later"
    raise DeviceError(f"matmul precision {wanted!r} needs {needs}; use --matmul fp32 or auto.")


@cache
def fast_ops(device: str, precision: Precision = "fp32") -> Ops:
    """Return the fastest version for float32 weights on a device type, at a precision it has."""
    if device == "cpu":
        from qslm_opt.kernels.cpu import NUMBA

        return NUMBA
    if device == "cuda" and find_spec("triton"):
        from qslm_opt.kernels.cuda import triton_ops

        return triton_ops(precision)
    return replace(REFERENCE, precision=precision)


