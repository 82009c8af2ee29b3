"""Weights that stay in an arena on the CPU while torch computes, and the operations that take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qslm_opt.kernels.cpu import NUMBA
from qslm_opt.kernels.packed.arena import COLUMNS, GROUPS, ROWS
from qslm_opt.kernels.packed.cpu import product_parallel, read_all, read_rows

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Ops, Weight
    from qslm_opt.kernels.packed.arena import Arena

FEW_ROWS, FEW_GROUPED_ROWS = 32, 12
"""Rows of activations up to which codes are multiplied as they are, with a scale a row or tensor, and with
scales inside rows; more are worth a dequantized matrix (measured on matrices of 256 to 8192 rows)."""


class Buffer:
    """One piece of memory for the weights of the product that is being computed."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def take(self, rows: int, columns: int) -> Tensor:
        """Return float32 [rows, columns] of no particular values; the last one taken is no longer valid."""
        if self._values.numel() < rows * columns:
            self._values = torch.empty(rows * columns)
        return self._values[: rows * columns].view(rows, columns)

    @property
    def held_bytes(self) -> int:
        """Bytes of the memory."""
        return self._values.numel() * self._values.element_size()


@dataclass(frozen=True, eq=False)
class HeldWeight:
    """One tensor of an arena, as products and the embedding read it."""

    arena: Arena
    row: int
    """Of the arena's table."""
    buffer: Buffer

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        where = self._where
        return int(where[ROWS]), int(where[COLUMNS])

    @property
    def _where(self) -> Any:
        return self.arena.table[self.row]

    def whole(self) -> Tensor:
        """Return the weights [N, K] in the shared buffer."""
        out = self.buffer.take(*self.shape)
        read_all(self.arena.views, self._where, out.numpy())
        return out

    def vector(self) -> Tensor:
        """Return all weights [N · K] in memory of their own."""
        out = np.empty(self.shape, np.float32)
        read_all(self.arena.views, self._where, out)
        return torch.from_numpy(out.reshape(-1))

    def rows(self, ids: Tensor) -> Tensor:
        """Return the weights of some rows: float32 [*ids, K]."""
        flat = ids.reshape(-1).numpy()
        out = np.empty((len(flat), self.shape[1]), np.float32)
        read_rows(self.arena.views, self._where, flat, out)
        return torch.from_numpy(out).reshape(*ids.shape, -1)

    def product(self, x: Tensor) -> Tensor:
        """Return ``x · weightᵀ`` [..., N] for x [..., K] float32."""
        rows, columns = self.shape
        flat = x.reshape(-1, columns)
        if len(flat) > (FEW_GROUPED_ROWS if self._where[GROUPS] > 1 else FEW_ROWS):
            return torch.nn.functional.linear(x, self.whole())
        y = flat.new_empty(len(flat), rows)
        product_parallel(self.arena.views, self._where, flat.contiguous().numpy(), y.numpy())
        return y.reshape(*x.shape[:-1], rows)


def _linear(x: Tensor, weight: Weight) -> Tensor:
    return weight.product(x) if isinstance(weight, HeldWeight) else torch.nn.functional.linear(x, weight)


def _nll(h: Tensor, weight: Weight, targets: Tensor) -> Tensor:
    return NUMBA.nll(h, weight.whole() if isinstance(weight, HeldWeight) else weight, targets)


PACKED_NUMBA: Ops = replace(NUMBA, name="numba-packed", linear=_linear, nll=_nll)
"""The numba version of the operations over weights that stay packed.

More than ``FEW_ROWS`` rows of activations give bit for bit what the plain version gives: the same float32
weights go to the same library.
"""
