"""The LIF scan and its surrogate gradient for float32 on a CUDA device, from the membrane at rest."""

from __future__ import annotations

from math import pi

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
AHEAD = 8
"""Tokens that are loaded before the first of them is needed."""


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    current, potential, tokens, width, TILE: tl.constexpr, AHEAD: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    place = tl.program_id(0).to(tl.int64) * tokens * width + channel
    v = tl.zeros((TILE,), tl.float32)
    for t in range(0, tokens, AHEAD):
        currents = ()
        for n in tl.static_range(AHEAD):
            there = inside & (t + n < tokens)
            currents = currents + (tl.load(current + place + n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
        for n in tl.static_range(AHEAD):
            h = v + (currents[n] - v) * 0.5
            tl.store(potential + place + n * width, h, mask=inside & (t + n < tokens))
            v = tl.where(h >= 1.0, 0.0, h)
        place += AHEAD * width


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    potential, gradient, out, tokens, width, rise, bend, TILE: tl.constexpr, AHEAD: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = channel < width
    place = (tl.program_id(0).to(tl.int64) * tokens + tokens - 1) * width + channel
    after = tl.zeros((TILE,), tl.float32)
    for t in range(0, tokens, AHEAD):
        hs = ()
        gs = ()
        for n in tl.static_range(AHEAD):
            there = inside & (t + n < tokens)
            hs = hs + (tl.load(potential + place - n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            gs = gs + (tl.load(gradient + place - n * width, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
        for n in tl.static_range(AHEAD):
            at = bend * (hs[n] - 1.0)
            slope = rise / (1.0 + at * at)
            through = (tl.where(hs[n] < 1.0, 1.0, 0.0) - hs[n] * slope) * 0.5
            after = gs[n] * slope + through * after
            tl.store(out + place - n * width, after * 0.5, mask=inside & (t + n < tokens))
        place -= AHEAD * width


def forward(current: Tensor) -> Tensor:
    """Return the membrane potentials before the reset for ``current``, both [B, T, D] contiguous."""
    batch, tokens, width = current.shape
    potential = torch.empty_like(current)
    with torch.cuda.device(current.device):
        _forward[batch, triton.cdiv(width, TILE)](
            current, potential, tokens, width, TILE=TILE, AHEAD=AHEAD, num_warps=2
        )
    return potential


def backward(potential: Tensor, gradient: Tensor, alpha: float) -> Tensor:
    """Return the gradient of the currents; see ``gradient_cpu.backward``."""
    batch, tokens, width = potential.shape
    out = torch.empty_like(potential)
    with torch.cuda.device(potential.device):
        _backward[batch, triton.cdiv(width, TILE)](
            potential, gradient, out, tokens, width, alpha / 2, pi / 2 * alpha, TILE=TILE, AHEAD=AHEAD,
            num_warps=2,
        )
    return out
