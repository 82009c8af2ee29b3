"""Multi-step neurons for float32 on the CPU: torch tensors in and out of the numba loops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qslm_opt.kernels.fire import scan as loops
from qslm_opt.kernels.fire.reference import Neuron

TILE = 1024
"""Neurons of one task: its potentials stay in the first cache."""
_TASKS = 64
_ALL = np.ones(1, np.bool_)
_NOTHING = np.empty((1, 1, 1), np.float32)


def fire(current: Tensor, neuron: Neuron, *, noted: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return spikes [S, …], potentials after the last step […] and, where ``noted``, before each reset."""
    steps, shape = current.shape[0], current.shape[1:]
    flat, apart = _rows(current.detach())
    spikes, v = current.new_empty(current.shape), current.new_empty(shape)
    potentials = current.new_empty(current.shape) if noted else None
    loops.scan(
        flat, apart, loops.Kind.of(neuron, steps), TILE, noted, _three(potentials, 1), _three(spikes, 1),
        v.numpy().reshape(1, -1),
    )  # fmt: skip
    return spikes, v, potentials


def ternary(
    x: Tensor, amplitudes: Tensor, leak: float, *, noted: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return ternary spikes [S, …] for amplitudes [S] and, where ``noted``, their potentials [S, …]."""
    if len(amplitudes) != len(x):
        raise ValueError(f"{len(amplitudes)} amplitudes do not fit {len(x)} steps; give one for each step")
    flat, apart = _rows(x.detach())
    out = x.new_empty(x.shape)
    potentials = x.new_empty(x.shape) if noted else None
    of_step = amplitudes.detach().float().contiguous().numpy()
    loops.ternary(
        flat, apart, of_step, np.float32(leak), TILE, noted, _three(potentials, 1)[0], _three(out, 1)[0]
    )
    return out, potentials


def count(spikes: Tensor, inside: Tensor | None) -> Tensor:
    """Return how many of float32 ``spikes`` are not 0; see ``kernels.fire.count``."""
    width = spikes.shape[-1]
    rows = spikes.contiguous().numpy().reshape(-1, width)
    sums = np.zeros(min(_TASKS, max(1, len(rows))), np.float64)
    of_row = _ALL if inside is None else inside.contiguous().numpy().reshape(-1)
    if rows.size:
        loops.count(rows, of_row, sums)
    return torch.tensor(sums.sum())


def _rows(current: Tensor) -> tuple[np.ndarray, int]:
    """Return a flat array in which the steps of ``current`` [S, …] lie, and how far they are apart."""
    if not current[0].is_contiguous() or current.stride(0) < 0:
        current = current.contiguous()
    apart, places = current.stride(0), current[0].numel()
    reach = (len(current) - 1) * apart + places
    return current.as_strided((reach,), (1,)).numpy(), apart


def _three(tensor: Tensor | None, batch: int) -> np.ndarray:
    """Return the memory of a contiguous tensor [S, …] as [1, S, N]."""
    if tensor is None:
        return _NOTHING
    return tensor.numpy().reshape(batch, tensor.shape[0], -1) if tensor.numel() else tensor.numpy().reshape(batch, tensor.shape[0], 0)
