"""Where the currents of a step lie in memory, for kernels that take any step distance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def in_steps(current: Tensor, *, windows: bool = False) -> tuple[Tensor, int]:
    """Return a flat view or copy of currents, and how far one step lies behind the one before.

    A current that is the same at every step (``expand``) is not copied: its steps are 0 apart.

    Args:
        current: [S, …] of any strides, or with ``windows`` [B, T, N].
    """
    if windows:
        return current.contiguous().flatten(), current.shape[2]
    if not current[0].is_contiguous() or not current.numel():
        current = current.contiguous()
    apart, places = current.stride(0), current[0].numel()
    reach = (len(current) - 1) * apart + places if places else 0
    return current.as_strided((reach,), (1,)), apart


def per_step(x: Tensor, amplitudes: Sequence[Tensor]) -> Tensor:
    """Return the amplitudes [S] of the steps of ``x`` [S, …], in its dtype and on its device.

    Raises:
        ValueError: there are some for another number of steps.
    """
    if len(amplitudes) != len(x):
        raise ValueError(f"{len(amplitudes)} amplitudes do not fit {len(x)} steps; give one for each")
    return torch.stack([a.reshape(()) for a in amplitudes]).to(x)
