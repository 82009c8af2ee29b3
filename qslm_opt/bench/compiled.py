"""The version that a user of plain torch would write: the truth's functions through ``torch.compile``.

What has no loop over tokens is compiled as it is (LayerNorm with shift and mixes, relu²). Of the two scans
one step is compiled and called in a Python loop over the tokens: a compiled loop would be unrolled, thousands
of operations that take longer to compile than they ever save. Products and the loss are torch's own, float32.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from qslm_opt.bench.memory import is_out_of_memory
from qslm_opt.kernels.lif.reference import TAU, THRESHOLD, heaviside
from qslm_opt.kernels.mix.reference import norm_shift_mix_reference
from qslm_opt.kernels.ops import REFERENCE, Ops, count_spikes, plain
from qslm_opt.kernels.products import Current
from qslm_opt.kernels.wkv.reference import initial_state
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

COMPILE_SECONDS = 180.0
"""No further function is compiled after this; the version is then not measured."""

Compile = Callable[..., Any]


class CannotCompileError(Exception):
    """``torch.compile`` does not work here, or takes too long; the text says why in one line."""


def compiled_ops(
    cfg: SpikeGPTConfig,
    batch: int,
    tokens: int,
    device: torch.device,
    *,
    compiler: Compile = torch.compile,
    seconds_limit: float = COMPILE_SECONDS,
) -> Ops:
    """Return the operations for windows of this shape, compiled and called once.

    Raises:
        CannotCompileError: no C++ compiler or Triton, an error of the compiler, or ``seconds_limit`` is over.
    """
    start = perf_counter()
    with _quiet():
        torch.compiler.reset()  # what other shapes left counts towards dynamo's limit
        ops, calls = _build(cfg, batch, tokens, device, compiler)
        with torch.inference_mode():
            for name, call in calls:
                _try(name, call)
                if perf_counter() - start > seconds_limit:
                    raise CannotCompileError(f"torch.compile took more than {seconds_limit:g} s ({name})")
    return ops


def _try(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CannotCompileError(
            f"torch.compile fails here ({name}): {type(error).__name__}: {lines[0] if lines else ''}"[:300]
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the compiler tells its own users off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of processes costs more here
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _build(
    cfg: SpikeGPTConfig, batch: int, tokens: int, device: torch.device, compiler: Compile
) -> tuple[Ops, list[tuple[str, Callable[[], object]]]]:
    """Return the operations, and a call of each in the form in which a forward pass calls it."""
    d, f = cfg.n_embd, cfg.n_ffn
    made = {name: compiler(function, dynamic=False) for name, function in _PIECES.items()}

    def mix(
        x: Tensor, weight: Tensor, bias: Tensor, last: Tensor, mixes: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        blends, end = made["norm_shift_mix"](x, weight, bias, last, list(mixes))
        return blends, end

    def lif_add(
        x: Tensor, current: Current, gate: Current | None, v: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        u, g = plain(current), None if gate is None else plain(gate)
        step, out, spikes = made["lif" if g is None else "lif_gated"], [], []
        for t in range(x.shape[1]):
            gated = () if g is None else (g[:, t],)
            x_t, v, fired = step(x[:, t], u[:, t], v, *gated)
            out.append(x_t)
            spikes.append(fired)
        return torch.stack(out, dim=1), v, count_spikes(torch.stack(spikes, dim=1), lengths)

    def gated_wkv(
        r: Current, k: Current, v: Current, w: Tensor, u: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        rs, ks, vs = plain(r), plain(k), plain(v)
        (p, q, o), out = state.unbind(0), []
        for t in range(ks.shape[1]):
            y, p, q, o = made["wkv"](rs[:, t], ks[:, t], vs[:, t], w, u, p, q, o)
            out.append(y)
        return torch.stack(out, dim=1), torch.stack((p, q, o))

    def relu2(x: Current) -> Tensor:
        found: Tensor = made["relu2"](plain(x))
        return found

    ops = replace(
        REFERENCE, name="compiled", norm_shift_mix=mix, gated_wkv=gated_wkv, lif_add=lif_add, relu2=relu2
    )
    zeros = torch.zeros(batch, tokens, d, device=device)
    row, vector = torch.zeros(batch, d, device=device), torch.zeros(d, device=device)
    two = zeros[:, :2]  # its rows lie as those of a whole window, which is what the compiler looks at
    state = initial_state(batch, d, zeros)
    hidden = torch.zeros(batch, tokens, f, device=device)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("mix of k, v, r", lambda: mix(zeros, vector, vector, row, [vector] * 3)),
        ("mix of k, r", lambda: mix(zeros, vector, vector, row, [vector] * 2)),
        ("relu2", lambda: relu2(hidden)),
        ("step of LIF", lambda: lif_add(two, two, None, row, None)),
        ("step of gated LIF", lambda: lif_add(two, two, two, row, None)),
        ("step of WKV", lambda: gated_wkv(two, two, two, vector, vector, state)),
    ]
    return ops, calls


def _lif(x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token of ``lif_reference``: the residual, the membrane potentials and the spikes [B, D]."""
    v = v + (u - v) / TAU
    fired = heaviside(v - THRESHOLD)
    return x + fired, v * (1 - fired), fired


def _lif_gated(x: Tensor, u: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _lif(x, torch.sigmoid(gate) * u, v)


def _wkv(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, p: Tensor, q: Tensor, o: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One token of ``wkv_reference`` with its gate: the output and the state [B, D]."""
    top = torch.maximum(o, u + k)
    a, b = torch.exp(o - top), torch.exp(u + k - top)
    y = torch.sigmoid(r) * ((a * p + b * v) / (a * q + b))
    top = torch.maximum(w + o, k)
    a, b = torch.exp(w + o - top), torch.exp(k - top)
    return y, a * p + b * v, a * q + b, top


def _relu2(x: Tensor) -> Tensor:
    return torch.relu(x).square()


_PIECES: dict[str, Callable[..., Any]] = {
    "norm_shift_mix": norm_shift_mix_reference,
    "lif": _lif,
    "lif_gated": _lif_gated,
    "wkv": _wkv,
    "relu2": _relu2,
}
