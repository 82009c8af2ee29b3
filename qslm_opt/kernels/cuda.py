"""The Triton version of the operations: float32 in and out on a CUDA device, products at a precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from qslm_opt.kernels.fire import cuda as neurons
from qslm_opt.kernels.fire.layout import per_step
from qslm_opt.kernels.fire.reference import Neuron, bipolar_reference, fire_reference, ternary_reference
from qslm_opt.kernels.lif.cuda import lif_add
from qslm_opt.kernels.mix.cuda import norm_shift_mix, operand, relu2
from qslm_opt.kernels.nll.cuda import nll
from qslm_opt.kernels.ops import Ops, Weight
from qslm_opt.kernels.products import HEAD_ALIGN, Current, HalfWeight, Precision, half_product, half_weight
from qslm_opt.kernels.terms import FP16, FP32, SPLIT
from qslm_opt.kernels.wkv.cuda import gated_wkv

_FORMS = {"fp32": FP32, "tf32": FP32, "fp16": FP16, "split": SPLIT}


@dataclass(frozen=True)
class _Head:
    """A language-model head with its rows padded to a multiple of ``HEAD_ALIGN``."""

    weight: Tensor | HalfWeight
    vocab: int


def _linear(x: Tensor, weight: Weight) -> Current:
    return half_product(x, weight) if isinstance(weight, HalfWeight) else linear(x, weight)


def _weight(values: Tensor, scale: Tensor | None, *, head: bool, form: int) -> Weight:
    short = -values.shape[0] % HEAD_ALIGN if head else 0
    padded = pad(values, (0, 0, 0, short)) if short else values
    if scale is not None and short:
        scale = pad(scale.float(), (0, short))
    if form == FP32:
        whole = padded if scale is None else padded * scale.float()[:, None]
        return _Head(whole, values.shape[0]) if head else whole
    made = half_weight(padded, scale, terms=form)
    return _Head(made, values.shape[0]) if head else made


def _nll(h: Tensor, weight: Weight, targets: Tensor, form: int) -> Tensor:
    head = weight if isinstance(weight, _Head) else _weight(weight, None, head=True, form=form)
    return nll(
        h, targets, head.vocab, head.weight.shape[0], lambda part: _linear(operand(part, form), head.weight)
    )


def fire(current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """See ``Fire``; the reference for another dtype than float32."""
    if current.dtype != torch.float32:
        return fire_reference(current, neuron)
    spikes, v, _ = neurons.fire(current, neuron)
    return spikes, v


def ternary(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    """See ``Ternary``; the reference for another dtype than float32."""
    if x.dtype != torch.float32:
        return ternary_reference(x, amplitudes, leak)
    return neurons.ternary(x, per_step(x, amplitudes), leak)[0]


def bipolar(x: Tensor, amplitudes: Sequence[Tensor], leak: float) -> Tensor:
    """See ``Ternary``, without a silent state; the reference for another dtype than float32."""
    if x.dtype != torch.float32:
        return bipolar_reference(x, amplitudes, leak)
    return neurons.ternary(x, per_step(x, amplitudes), leak, bipolar=True)[0]


def triton_ops(precision: Precision) -> Ops:
    """Return the version whose matrix products have ``precision``."""
    form = _FORMS[precision]
    return Ops(
        "triton",
        partial(norm_shift_mix, form=form),
        partial(gated_wkv, form=form),
        lif_add,
        partial(relu2, form=form),
        _linear,
        partial(_nll, form=form),
        partial(_weight, form=form),
        precision,
        fire=fire,
        ternary=ternary,
        bipolar=bipolar,
        operand=partial(operand, form=form),
    )
