"""Multi-step neurons for float32 on the CPU: torch tensors in and out of the numba loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qslm_opt.kernels.fire import gradient_cpu as gradients
from qslm_opt.kernels.fire import scan as loops
from qslm_opt.kernels.fire.layout import in_steps
from qslm_opt.kernels.fire.reference import Neuron

TILE = 1024
"""Neurons of one task: its potentials stay in the first cache."""
WINDOW_TILE = 64
"""Channels of one task of a scan over tokens, which has many sequences but few channels."""
_TASKS = 64
_ALL = np.ones(1, np.int64)
_NOTHING = np.empty((1, 1, 1), np.float32)


def fire(
    current: Tensor, neuron: Neuron, *, noted: bool = False, windows: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return spikes [S, …], potentials after the last step […] and, where ``noted``, before each reset.

    With ``windows`` time is the second axis: current and spikes [B, T, N], potentials [B, N].
    """
    axis = int(windows)
    kind = loops.Kind.of(neuron, current.shape[axis])
    flat, apart = in_steps(current.detach(), windows=windows)
    spikes, v = current.new_empty(current.shape), current.new_empty(current.select(axis, 0).shape)
    potentials = current.new_empty(current.shape) if noted else None
    loops.scan(
        flat.numpy(), apart, kind, _tile(windows), noted,
        _NOTHING if potentials is None else _whole(potentials, windows), _whole(spikes, windows),
        _last(v, windows),
    )  # fmt: skip
    return spikes, v, potentials


def fire_gradient(
    potentials: Tensor, gradient: Tensor, last: Tensor, neuron: Neuron, alpha: float, *, windows: bool = False
) -> Tensor:
    """Return the gradient of the currents for that of the spikes and of the last potentials; see ``fire``."""
    out = torch.empty_like(potentials)
    gradients.scan(
        _whole(potentials, windows), _whole(gradient.contiguous(), windows),
        _last(last.contiguous(), windows), loops.Kind.of(neuron, potentials.shape[int(windows)]), alpha,
        _tile(windows), _whole(out, windows),
    )  # fmt: skip
    return out


def ternary(
    x: Tensor, amplitudes: Tensor, leak: float, *, bipolar: bool = False, noted: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return spikes [S, …] for amplitudes [S] and, where ``noted``, their potentials [S, …].

    They are ternary, or with ``bipolar`` of either sign and never silent: see ``bipolar_reference``.
    """
    flat, apart = in_steps(x.detach())
    out = x.new_empty(x.shape)
    potentials = x.new_empty(x.shape) if noted else None
    memory = _NOTHING if potentials is None else _whole(potentials)
    loops.ternary(
        flat.numpy(), apart, _of_steps(amplitudes), np.float32(leak), bipolar, TILE, noted, memory[0],
        _whole(out)[0],
    )  # fmt: skip
    return out, potentials


def ternary_gradient(
    potentials: Tensor, gradient: Tensor, amplitudes: Tensor, leak: float, *, bipolar: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs [S, …] and of the amplitudes [S] for that of the spikes."""
    out, width = torch.empty_like(potentials), potentials[0].numel()
    sums = np.zeros((-(-width // TILE), len(potentials)), np.float64)
    gradients.ternary(
        _whole(potentials)[0], _whole(gradient.contiguous())[0], _of_steps(amplitudes), np.float32(leak),
        bipolar, TILE, _whole(out)[0], sums,
    )  # fmt: skip
    return out, torch.from_numpy(sums.sum(axis=0)).to(potentials.dtype)


def count(spikes: Tensor, weights: Tensor | None) -> Tensor:
    """Return how many of float32 ``spikes`` are not 0; see ``kernels.fire.count``."""
    width = spikes.shape[-1]
    rows = spikes.detach().contiguous().numpy().reshape(spikes.shape[:-1].numel(), width)
    sums = np.zeros(min(_TASKS, len(rows)), np.float64)
    of_row = _ALL if weights is None else weights.long().contiguous().numpy().reshape(-1)
    loops.count(rows, of_row, sums)
    return torch.tensor(sums.sum())


def _tile(windows: bool) -> int:
    return WINDOW_TILE if windows else TILE


def _whole(tensor: Tensor, windows: bool = False) -> np.ndarray:
    """Return the memory of a contiguous tensor [S, …] as [1, S, N]; that of [B, T, N] as it is."""
    array = tensor.detach().numpy()
    return array if windows else array.reshape(1, len(tensor), tensor.shape[1:].numel())


def _last(v: Tensor, windows: bool) -> np.ndarray:
    return v.numpy() if windows else v.numpy().reshape(1, v.numel())


def _of_steps(amplitudes: Tensor) -> np.ndarray:
    return amplitudes.detach().float().contiguous().numpy()
