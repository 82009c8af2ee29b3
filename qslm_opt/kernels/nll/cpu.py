"""Negative log likelihood on the CPU: logits of a part of the rows in one buffer, one pass per row."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from qslm_opt.kernels.vector import SUMS, exp_nonpositive

LOGITS = 2**22
"""Logits that exist at once: 16 MiB, which stay in the last-level cache between product and sum."""
LANES = 64

Array = NDArray[np.float32]


@njit(parallel=True, fastmath=SUMS, cache=True)  # type: ignore[untyped-decorator]
def row_nll(logits: Array, targets: NDArray[np.int64], out: Array) -> None:
    """Write ``log Σ exp(logits) − logits[target]`` of each row to ``out`` [rows]; NaN for no finite row."""
    rows, vocab = logits.shape
    whole = vocab // LANES * LANES
    for row in prange(rows):
        z = logits[row]
        tops = np.full(LANES, z[0], np.float32)
        for start in range(0, whole, LANES):
            part = z[start : start + LANES]
            for j in range(LANES):
                if part[j] > tops[j]:
                    tops[j] = part[j]
        top = tops[0]
        for j in range(LANES):
            top = max(top, tops[j])
        for j in range(whole, vocab):
            top = max(top, z[j])
        total, finite = np.float32(0.0), np.float32(0.0)
        for j in range(vocab):
            total += exp_nonpositive(z[j] - top)
            finite += z[j] * np.float32(0.0)  # NaN where z is NaN or infinite
        out[row] = np.log(total) + top - z[targets[row]] + finite


def nll(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """See ``qslm_opt.kernels.ops.Nll``."""
    vocab = weight.shape[0]
    size = min(len(h), max(1, LOGITS // vocab))
    logits = h.new_empty(size, vocab)
    losses = torch.empty(len(h), dtype=torch.float32)
    for start in range(0, len(h), size):
        part = h[start : start + size]
        here = torch.mm(part, weight.t(), out=logits[: len(part)])
        wanted = targets[start : start + size].numpy()
        row_nll(here.numpy(), wanted, losses[start : start + size].numpy())
    return losses
