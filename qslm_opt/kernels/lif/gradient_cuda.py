"""The LIF scan and its surrogate gradient for float32 on a CUDA device, from the membrane at rest."""

from __future__ import annotations

from math import pi

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64


@triton.jit  # type: ignore[untyped-decorator]
def _forward(current, potential, tokens, width, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    place = tl.program_id(0).to(tl.int64) * tokens * width + channel
    v = tl.zeros((TILE,), tl.float32)
    for _ in range(tokens):
        i = tl.load(current + place, mask=inside, other=0.0)
        h = v + (i - v) * 0.5
        tl.store(potential + place, h, mask=inside)
        v = tl.where(h >= 1.0, 0.0, h)
        place += width


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    potential, gradient, out, tokens, width, rise, bend, TILE: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    place = (tl.program_id(0).to(tl.int64) * tokens + tokens - 1) * width + channel
    after = tl.zeros((TILE,), tl.float32)
    for _ in range(tokens):
        h = tl.load(potential + place, mask=inside, other=0.0)
        g = tl.load(gradient + place, mask=inside, other=0.0)
        at = bend * (h - 1.0)
        slope = rise / (1.0 + at * at)
        through = (tl.where(h < 1.0, 1.0, 0.0) - h * slope) * 0.5
        after = g * slope + through * after
        tl.store(out + place, after * 0.5, mask=inside)
        place -= width


def forward(current: Tensor) -> Tensor:
    """Return the membrane potentials before the reset for ``current``, both [B, T, D] contiguous."""
    batch, tokens, width = current.shape
    potential = torch.empty_like(current)
    with torch.cuda.device(current.device):
        _forward[batch, triton.cdiv(width, TILE)](current, potential, tokens, width, TILE=TILE, num_warps=2)
    return potential


def backward(potential: Tensor, gradient: Tensor, alpha: float) -> Tensor:
    """Return the gradient of the currents; see ``gradient_cpu.backward``."""
    batch, tokens, width = potential.shape
    out = torch.empty_like(potential)
    with torch.cuda.device(potential.device):
        _backward[batch, triton.cdiv(width, TILE)](
            potential, gradient, out, tokens, width, alpha / 2, pi / 2 * alpha, TILE=TILE, num_warps=2
        )
    return out
