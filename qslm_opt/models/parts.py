"""Pieces that transformer families share: LayerNorm, affine maps, heads. Tensors are read by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import layer_norm

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.family import Tensors


def norm(p: Tensors, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return LayerNorm over the last axis."""
    return layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)


def affine(p: Tensors, name: str, x: Tensor, ops: Ops) -> Tensor:
    """Return ``W x + b`` [..., N]; W is one of the family's ``products``."""
    return ops.affine(x, p[f"{name}.weight"], p[f"{name}.bias"])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return [..., T, D] as [..., heads, T, D/heads]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Undo ``split_heads``."""
    return x.transpose(-3, -2).flatten(-2)
