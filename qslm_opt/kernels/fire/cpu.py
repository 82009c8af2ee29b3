"""Multi-step neurons for float32 on the CPU: torch tensors in and out of the numba loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qslm_opt.kernels.fire import gradient_cpu as gradients
from qslm_opt.kernels.fire import scan as loops
from qslm_opt.kernels.fire.reference import Neuron

TILE = 1024
"""Neurons of one task: its potentials stay in the first cache."""
_TASKS = 64
_ALL = np.ones(1, np.bool_)
_NOTHING = np.empty((1, 1, 1), np.float32)


def fire(current: Tensor, neuron: Neuron, *, noted: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return spikes [S, …], potentials after the last step […] and, where ``noted``, before each reset."""
    kind = loops.Kind.of(neuron, len(current))
    flat, apart = _steps(current.detach())
    spikes, v = current.new_empty(current.shape), current.new_empty(current.shape[1:])
    potentials = current.new_empty(current.shape) if noted else None
    memory = _NOTHING if potentials is None else _whole(potentials)
    loops.scan(flat, apart, kind, TILE, noted, memory, _whole(spikes), v.numpy().reshape(1, v.numel()))
    return spikes, v, potentials


def ternary(
    x: Tensor, amplitudes: Tensor, leak: float, *, noted: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return ternary spikes [S, …] for amplitudes [S] and, where ``noted``, their potentials [S, …]."""
    if len(amplitudes) != len(x):
        raise ValueError(f"{len(amplitudes)} amplitudes do not fit {len(x)} steps; give one for each step")
    flat, apart = _steps(x.detach())
    of_step = amplitudes.detach().float().contiguous().numpy()
    out = x.new_empty(x.shape)
    potentials = x.new_empty(x.shape) if noted else None
    memory = _NOTHING if potentials is None else _whole(potentials)
    loops.ternary(flat, apart, of_step, np.float32(leak), TILE, noted, memory[0], _whole(out)[0])
    return out, potentials


def count(spikes: Tensor, inside: Tensor | None) -> Tensor:
    """Return how many of float32 ``spikes`` are not 0; see ``kernels.fire.count``."""
    width = spikes.shape[-1]
    rows = spikes.detach().contiguous().numpy().reshape(spikes.shape[:-1].numel(), width)
    sums = np.zeros(min(_TASKS, len(rows)), np.float64)
    of_row = _ALL if inside is None else inside.contiguous().numpy().reshape(-1)
    loops.count(rows, of_row, sums)
    return torch.tensor(sums.sum())


def _steps(current: Tensor) -> tuple[np.ndarray, int]:
    """Return a flat array with the steps of ``current`` [S, …], and how far they lie apart."""
    if not current[0].is_contiguous() or not current.numel():
        current = current.contiguous()
    apart, places = current.stride(0), current[0].numel()
    reach = (len(current) - 1) * apart + places if places else 0
    return current.as_strided((reach,), (1,)).numpy(), apart


def _whole(tensor: Tensor) -> np.ndarray:
    """Return the memory of a contiguous tensor [S, …] as [1, S, N]."""
    return tensor.numpy().reshape(1, len(tensor), tensor[0].numel())


def fire_gradient(
    potentials: Tensor, gradient: Tensor, last: Tensor, neuron: Neuron, alpha: float
) -> Tensor:
    """Return the gradient of the currents [S, …] for that of the spikes and of the last potentials."""
    out = torch.empty_like(potentials)
    gradients.scan(
        _whole(potentials), _whole(gradient.contiguous()), last.contiguous().numpy().reshape(1, last.numel()),
        loops.Kind.of(neuron, len(potentials)), alpha, TILE, _whole(out),
    )  # fmt: skip
    return out


def ternary_gradient(
    potentials: Tensor, gradient: Tensor, amplitudes: Tensor, leak: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs [S, …] and of the amplitudes [S] for that of the spikes."""
    out, width = torch.empty_like(potentials), potentials[0].numel()
    sums = np.zeros((-(-width // TILE), len(potentials)), np.float64)
    gradients.ternary(
        _whole(potentials)[0], _whole(gradient.contiguous())[0], amplitudes.float().contiguous().numpy(),
        np.float32(leak), TILE, _whole(out)[0], sums,
    )  # fmt: skip
    return out, torch.from_numpy(sums.sum(axis=0)).to(potentials.dtype)
