"""Negative log likelihood on a CUDA device: logits are written once and read once.

The head has its rows padded to a multiple of eight: a product with an odd number of columns runs at half the
rate or less. Columns at or beyond the vocabulary never count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.products import Current, Scaled
from qslm_opt.kernels.terms import parts

if TYPE_CHECKING:
    from collections.abc import Callable

LOGITS = 2**29
"""Most logits that exist at once: 2 GiB, and no more than a sixteenth of the device's memory."""
SPAN = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _rows(  # type: ignore[no-untyped-def]
    logits, scale, targets, out, vocab, stride, SCALED: tl.constexpr, SPAN: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, SPAN)
    top = tl.full((SPAN,), -3.0e38, tl.float32)
    total = tl.zeros((SPAN,), tl.float32)
    finite = tl.zeros((SPAN,), tl.float32)
    for start in range(0, vocab, SPAN):
        column = start + lane
        inside = column < vocab
        z = tl.load(logits + row * stride + column, mask=inside, other=0.0)
        if SCALED:
            z = z * tl.load(scale + column, mask=inside, other=0.0)
        finite += z * 0.0  # NaN where a logit is NaN or infinite
        z = tl.where(inside, z, -3.0e38)
        higher = tl.maximum(top, z)
        total = total * tl.exp(top - higher) + tl.exp(z - higher)
        top = higher
    highest = tl.max(top, 0)
    summed = tl.sum(total * tl.exp(top - highest), 0)
    target = tl.load(targets + row)
    wanted = tl.load(logits + row * stride + target)
    if SCALED:
        wanted = wanted * tl.load(scale + target)
    tl.store(out + row, tl.log(summed) + highest - wanted + tl.sum(finite, 0))


def nll(
    h: Tensor, targets: Tensor, vocab: int, columns: int, product: Callable[[Tensor], Current]
) -> Tensor:
    """Return the negative log likelihood of each row [rows].

    Args:
        h: what the head reads [rows, D].
        targets: [rows] int64, each below ``vocab``.
        columns: columns of what ``product`` makes of some rows of ``h``.
    """
    losses = torch.empty(len(h), dtype=torch.float32, device=h.device)
    memory = torch.cuda.get_device_properties(h.device).total_memory if h.is_cuda else 2**62
    size = max(1, min(LOGITS, memory // (16 * h.element_size())) // columns)
    for start in range(0, len(h), size):
        part = h[start : start + size]
        current = product(part)
        logits, scale = parts(current)
        with torch.cuda.device(h.device):
            _rows[(len(part),)](
                logits, scale, targets[start:], losses[start:], vocab, columns,
                SCALED=isinstance(current, Scaled), SPAN=SPAN, num_warps=8,
            )  # fmt: skip
        del current, logits, scale  # before the next part needs as much
    return losses
