"""Multi-step neurons for float32 on a CUDA device, operation by operation as in ``reference``.

Divisions are rounded as IEEE says and nothing is contracted, so that potentials are those of the CPU bit for
bit: at a threshold, one rounding more is another spike.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from qslm_opt.kernels.fire.layout import in_steps
from qslm_opt.kernels.fire.reference import Neuron

TILE = 512
"""Neurons of one program, where steps are few and neurons many."""
WINDOW_TILE = 64
"""Channels of one program of a scan over tokens."""
AHEAD = 8
"""Steps that are loaded before the first of them is needed."""


@triton.jit
def third(q):  # type: ignore[no-untyped-def]
    """−1, 0 or 1 (halves to even): a zero has the sign of ``q``, what is not a number stays so."""
    return tl.where(q > 0.5, 1.0, tl.where(q < -0.5, -1.0, q * 0.0))


@triton.jit
def side(q):  # type: ignore[no-untyped-def]
    """−1 or 1: the sign of ``q``; 0 for a zero, and what is not a number stays so."""
    return tl.where(q > 0.0, 1.0, tl.where(q < 0.0, -1.0, tl.abs(q)))


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    current, apart, thresholds, tau, keep, potentials, spikes, v_end, steps, width,
    LEAKY: tl.constexpr, SOFT: tl.constexpr, NOTED: tl.constexpr, TILE: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(width, TILE)
    b = (tl.program_id(0) // tiles).to(tl.int64)
    place = (tl.program_id(0) % tiles).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = place < width
    upto = tl.where(inside, steps, 0)
    v = tl.zeros((TILE,), tl.float32)
    for t in range(0, steps, AHEAD):
        currents = ()
        for n in tl.static_range(AHEAD):
            u = tl.load(current + (b * steps + t + n) * apart + place, mask=t + n < upto, other=0.0)
            currents = currents + (u,)  # type: ignore[assignment]  # noqa: RUF005
        for n in tl.static_range(AHEAD):
            live = t + n < upto
            threshold = tl.load(thresholds + t + n)
            if LEAKY:
                h = v + tl.div_rn(currents[n] - v, tau)
            else:
                h = v + currents[n]
            fired = tl.where(h - threshold >= 0.0, 1.0, 0.0)
            if SOFT:
                left = (h - threshold * fired) * keep
            else:
                left = h * (1.0 - fired)
            v = tl.where(live, left, v)
            out = (b * steps + t + n) * width + place
            tl.store(spikes + out, fired, mask=live)
            if NOTED:
                tl.store(potentials + out, h, mask=live)
    tl.store(v_end + b * width + place, v, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _ternary(  # type: ignore[no-untyped-def]
    x, apart, amplitudes, leak, potentials, out, steps, width,
    LEAKY: tl.constexpr, BIPOLAR: tl.constexpr, NOTED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = place < width
    here = place  # moves on step by step: steps times width may be beyond 32 bits
    m = tl.zeros((TILE,), tl.float32)
    fired = tl.zeros((TILE,), tl.float32)
    before = tl.zeros((TILE,), tl.float32)
    for t in range(steps):
        u = tl.load(x + here, mask=inside, other=0.0)
        a = tl.load(amplitudes + t)
        if LEAKY:
            m = tl.where(t == 0, u, leak * m * (before - fired) + u)
        else:
            m = u
        q = tl.div_rn(m, a)
        if BIPOLAR:
            fired = a * side(q)
        else:
            fired = a * third(q)
        before = tl.zeros((TILE,), tl.float32) + a
        tl.store(out + place, fired, mask=inside)
        if NOTED:
            tl.store(potentials + place, m, mask=inside)
        here += apart
        place += width


def fire(
    current: Tensor, neuron: Neuron, *, noted: bool = False, windows: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See ``fire.cpu.fire``."""
    steps = current.shape[int(windows)]
    values, apart = in_steps(current.detach(), windows=windows)
    spikes, v = current.new_empty(current.shape), current.new_empty(current.select(int(windows), 0).shape)
    potentials = current.new_empty(current.shape) if noted else None
    notes = spikes if potentials is None else potentials
    numbers = scalars(neuron, steps, current.device)
    if v.numel():
        batch, tile = (len(current), WINDOW_TILE) if windows else (1, TILE)
        width = v.numel() // batch
        with torch.cuda.device_of(current):
            _scan[(triton.cdiv(width, tile) * batch,)](
                values, apart, *numbers, notes, spikes, v, steps, width,
                LEAKY=neuron.tau is not None, SOFT=neuron.soft, NOTED=noted, TILE=tile,
                AHEAD=ahead_of(steps), num_warps=2, enable_fp_fusion=False,
            )  # fmt: skip
    return spikes, v, potentials


def ternary(
    x: Tensor, amplitudes: Tensor, leak: float, *, bipolar: bool = False, noted: bool = False
) -> tuple[Tensor, Tensor | None]:
    """See ``fire.cpu.ternary``."""
    values, apart = in_steps(x.detach())
    out, width = x.new_empty(x.shape), x.shape[1:].numel()
    potentials = x.new_empty(x.shape) if noted else None
    notes = out if potentials is None else potentials
    if width:
        with torch.cuda.device_of(x):
            _ternary[(triton.cdiv(width, TILE),)](
                values, apart, amplitudes.detach().contiguous(), leak, notes, out, len(x), width,
                LEAKY=leak != 0, BIPOLAR=bipolar, NOTED=noted, TILE=TILE, num_warps=2, enable_fp_fusion=False,
            )  # fmt: skip
    return out, potentials


def ahead_of(steps: int) -> int:
    """Return the steps that are loaded at once."""
    return min(AHEAD, 1 << (steps - 1).bit_length())


def scalars(neuron: Neuron, steps: int, device: torch.device) -> tuple[Tensor, float, float]:
    """Return thresholds, τ and share kept; τ is 1 without leak.

    The thresholds [S] lie between ``AHEAD`` others, so that kernels may read as far ahead as they compute.
    """
    tau = 1.0 if neuron.tau is None else float(neuron.tau)
    return _thresholds(neuron.thresholds(steps), device), tau, float(neuron.keep)


@lru_cache(maxsize=256)
def _thresholds(values: tuple[float, ...], device: torch.device) -> Tensor:
    around = (0.0,) * AHEAD
    return torch.tensor(around + values + around, dtype=torch.float32, device=device)[AHEAD:-AHEAD]
