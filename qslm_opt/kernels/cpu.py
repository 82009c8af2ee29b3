"""The numba version of the operations: float32 on the CPU, torch tensors in and out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qslm_opt.kernels.fire import cpu as neurons
from qslm_opt.kernels.fire.layout import per_step
from qslm_opt.kernels.fire.reference import Neuron, bipolar_reference, fire_reference, ternary_reference
from qslm_opt.kernels.lif import cpu as lif
from qslm_opt.kernels.mix import cpu as mix
from qslm_opt.kernels.nll.cpu import nll
from qslm_opt.kernels.ops import Ops, plain
from qslm_opt.kernels.products import Current
from qslm_opt.kernels.wkv import cpu as wkv

_NO_GATE = np.zeros((1, 1, 1), np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def norm_shift_mix(
    x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """See ``NormShiftMix``."""
    out, end = x.new_empty(len(mixes), *x.shape), last.new_empty(last.shape)
    factors = _array(torch.stack(tuple(mixes)))
    mix.norm_shift_mix(
        _array(x), _array(weight), _array(bias), _array(last), factors, out.numpy(), end.numpy()
    )
    return list(out.unbind(0)), end


def gated_wkv(
    r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """See ``GatedWkv``."""
    r, k, v = plain(r), plain(k), plain(v)
    y, end = k.new_empty(k.shape), state.new_empty(state.shape)
    inputs = (_array(t) for t in (r, k, v, w, u, state))
    wkv.gated_wkv(*inputs, y.numpy(), end.numpy())
    return y, end


def lif_add(
    x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``LifAdd``."""
    batch, tokens, width = x.shape
    out, v_end = x.new_empty(x.shape), v.new_empty(v.shape)
    spikes = np.empty((batch, width), np.float32)
    upto = np.full(batch, tokens, np.int64) if lengths is None else lengths.numpy().astype(np.int64)
    gates = _NO_GATE if gate is None else _array(plain(gate))
    lif.lif_add(
        _array(x), _array(plain(current)), gates, gate is not None, _array(v), upto,
        out.numpy(), v_end.numpy(), spikes,
    )  # fmt: skip
    return out, v_end, torch.from_numpy(spikes.sum(axis=1, dtype=np.float64))


def relu2(x: Current) -> Tensor:
    """See ``Relu2``; works in place."""
    x = plain(x).relu_()
    return x.mul_(x)


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


NUMBA = Ops(
    "numba", norm_shift_mix, gated_wkv, lif_add, relu2, nll=nll, fire=fire, ternary=ternary, bipolar=bipolar
)
