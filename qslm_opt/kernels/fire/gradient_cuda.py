"""Surrogate gradients of the scans for float32 on a CUDA device: see ``gradient_cpu`` for the formulas."""

from __future__ import annotations

from math import pi

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.fire.cuda import TILE, WINDOW_TILE, ahead_of, scalars, side, third
from qslm_opt.kernels.fire.reference import Neuron


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    potentials, gradient, last, thresholds, gain, share, keep, out, steps, width, rise, bend,
    SOFT: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(width, TILE)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    channel = (tl.program_id(0) % tiles).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = channel < width
    upto = tl.where(inside, steps, 0)
    place = (b * steps + steps - 1) * width + channel
    after = tl.load(last + b * width + channel, mask=inside, other=0.0)
    for t in range(0, steps, AHEAD):
        ahead = place  # moves back step by step: steps times width may be beyond 32 bits
        hs = ()
        gs = ()
        for n in tl.static_range(AHEAD):
            there = t + n < upto
            hs = hs + (tl.load(potentials + ahead, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            gs = gs + (tl.load(gradient + ahead, mask=there, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005
            ahead -= width
        for n in tl.static_range(AHEAD):
            threshold = tl.load(thresholds + steps - 1 - t - n)
            x = hs[n] - threshold
            slope = rise / (1.0 + bend * x * (bend * x))
            if SOFT:
                through = keep * (1.0 - threshold * slope)
            else:
                through = tl.where(x >= 0.0, 0.0, 1.0) - hs[n] * slope
            here = gs[n] * slope + through * after
            after = here * share
            tl.store(out + place, here * gain, mask=t + n < upto)
            place -= width


@triton.jit  # type: ignore[untyped-decorator]
def _ternary(  # type: ignore[no-untyped-def]
    potentials, gradient, amplitudes, leak, out, sums, steps, width, end,
    BIPOLAR: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = place < width
    place += end
    after = tl.zeros((TILE,), tl.float32)
    for back in range(steps):
        t = steps - 1 - back
        a = tl.load(amplitudes + t)
        m = tl.load(potentials + place, mask=inside, other=0.0)
        g = tl.load(gradient + place, mask=inside, other=0.0)
        q = tl.div_rn(m, a)
        if BIPOLAR:
            c = side(q)
            linear = tl.where(tl.abs(q) <= 1.0, 1.0, 0.0)
        else:
            c = third(q)
            linear = tl.where(tl.abs(q) < 1.5, 1.0, 0.0)
        carried = leak * m * after
        spikes = g - carried
        after = linear * spikes + leak * (a - a * c) * after
        tl.store(out + place, after, mask=inside)
        place -= width
        of_amplitude = tl.where(inside, (c - linear * q) * spikes + carried, 0.0)
        tl.store(sums + tl.program_id(0) * steps + t, tl.sum(of_amplitude, 0))


def fire_gradient(
    potentials: Tensor, gradient: Tensor, last: Tensor, neuron: Neuron, alpha: float, *, windows: bool = False
) -> Tensor:
    """See ``fire.cpu.fire_gradient``."""
    out, steps = torch.empty_like(potentials), potentials.shape[int(windows)]
    thresholds, tau, keep = scalars(neuron, steps, potentials.device)
    share = 1.0 if neuron.tau is None else 1 - 1 / tau
    if last.numel():
        batch, tile = (len(potentials), WINDOW_TILE) if windows else (1, TILE)
        width = last.numel() // batch
        with torch.cuda.device_of(potentials):
            _scan[(triton.cdiv(width, tile) * batch,)](
                potentials, gradient.contiguous(), last.contiguous(), thresholds, 1 / tau,
                share, keep, out, steps, width, alpha / 2, pi / 2 * alpha, SOFT=neuron.soft,
                TILE=tile, AHEAD=ahead_of(steps), num_warps=2,
            )  # fmt: skip
    return out


def ternary_gradient(
    potentials: Tensor, gradient: Tensor, amplitudes: Tensor, leak: float, *, bipolar: bool = False
) -> tuple[Tensor, Tensor]:
    """See ``fire.cpu.ternary_gradient``."""
    out, steps, width = torch.empty_like(potentials), len(potentials), potentials.shape[1:].numel()
    programs = triton.cdiv(width, TILE)
    sums = potentials.new_zeros(programs, steps)
    if width:
        with torch.cuda.device_of(potentials):
            _ternary[(programs,)](
                potentials, gradient.contiguous(), amplitudes.detach().contiguous(), leak, out, sums, steps,
                width, (steps - 1) * width, BIPOLAR=bipolar, TILE=TILE, num_warps=2,
            )  # fmt: skip
    return out, sums.sum(dim=0, dtype=torch.float64).to(potentials.dtype)
