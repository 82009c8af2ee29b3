"""SpikeGPT, one token of one window at a time: the whole step is one compiled function.

It computes what ``spikegpt.forward`` computes with T = 1, from an ``Arena`` in any formats: packed weights
and float32 ones go through the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qslm_opt.kernels.mix.cpu import layer_norm
from qslm_opt.kernels.packed.arena import Views
from qslm_opt.kernels.packed.cpu import product, read_row
from qslm_opt.kernels.packed.spread import Room, room
from qslm_opt.kernels.packed.step import blend, gated_wkv, heaviside, lif_add, relu2, vector
from qslm_opt.kernels.vector import SUMS
from qslm_opt.kernels.wkv.reference import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.kernels.packed.arena import Arena
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig

Array = NDArray[np.float32]
Slots = NDArray[np.int64]
_ONE = np.float32(1.0)

_TIME = (
    "time_mix_k", "time_mix_v", "time_mix_r", "time_decay", "time_first", "key.weight", "value.weight",
    "receptance.weight", "output.weight",
)  # fmt: skip
_CHANNEL = ("time_mix_k", "time_mix_r", "key.weight", "receptance.weight", "value.weight")
_NORMS = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias")
_ENDS = (
    "emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight", "ln_out.bias", "head.weight",
)  # fmt: skip
_FIRST, _FFN = len(_NORMS), len(_NORMS) + len(_TIME)


class Plan(NamedTuple):
    """Where the step finds a model's tensors, and how it is to be read."""

    ends: Slots
    """[6]: rows of the table that hold embedding, ln0, ln_out and head."""
    blocks: Slots
    """[L, 18]: norms, first sub-layer, channel mix; -1 where ``ffnPre`` has fewer tensors than ``att``."""
    pre: bool
    """Whether block 0 begins with a channel mix."""
    spikes: bool
    """Whether the embedding goes through the Heaviside."""
    rescale: int


class State(NamedTuple):
    """What a window carries from token to token, one row a block."""

    att_last: Array
    ffn_last: Array
    wkv: Array
    """[L, 3, D]"""
    lif_att: Array
    lif_ffn: Array


class Scratch(NamedTuple):
    """Working memory of a step."""

    x: Array
    norm: Array
    vectors: Array
    """[4, D]: vectors as they are decoded."""
    blends: Array
    """[3, 1, D]"""
    parts: Array
    """[4, 1, D]: products."""
    hidden: Array
    """[1, F]"""
    room: Room


def plan_of(config: SpikeGPTConfig, arena: Arena) -> Plan:
    """Return where the tensors of an arena that holds the whole model lie."""
    index: Mapping[str, int] = arena.index
    rows = []
    for i in range(config.n_layer):
        name, first = f"blocks.{i}.", config.att_name(i)
        inner = _TIME if first == "att" else _CHANNEL
        row = [index[name + part] for part in _NORMS] + [index[f"{name}{first}.{part}"] for part in inner]
        row += [-1] * (_FFN - len(row)) + [index[f"{name}ffn.{part}"] for part in _CHANNEL]
        rows.append(row)
    pre = config.att_name(0) != "att"
    ends = np.array([index[name] for name in _ENDS], np.int64)
    return Plan(ends, np.array(rows, np.int64), pre, config.embedding_spikes, config.rescale_every)


def new_state(config: SpikeGPTConfig) -> State:
    """Return the state before the first token."""
    flat = [np.zeros((config.n_layer, config.n_embd), np.float32) for _ in range(4)]
    wkv = np.zeros((config.n_layer, 3, config.n_embd), np.float32)
    wkv[:, 2] = NEVER
    return State(flat[0], flat[1], wkv, flat[2], flat[3])


def new_scratch(config: SpikeGPTConfig, arena: Arena) -> Scratch:
    """Return working memory for steps of a model."""
    d, f = config.n_embd, config.n_ffn

    def make(*shape: int) -> Array:
        return np.empty(shape, np.float32)

    parts = make(4, 1, d), make(1, f), room(arena)
    return Scratch(make(d), make(d), make(4, d), make(3, 1, d), *parts)


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _mix(views: Views, table: Any, slots: Slots, norm: Slots, last: Array, work: Scratch) -> None:
    """Blend the normalised token with the last one, once a slot, and keep it as the last."""
    weight = vector(views, table, norm[0], work.room, work.vectors[0])
    bias = vector(views, table, norm[1], work.room, work.vectors[1])
    layer_norm(work.x, weight, bias, work.norm)
    for m in range(len(slots)):
        factor = vector(views, table, slots[m], work.room, work.vectors[0])
        blend(work.norm, last, factor, work.blends[m, 0])
    last[:] = work.norm


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _time_mix(
    views: Views, table: Any, slots: Slots, norm: Slots, last: Array, wkv: Array, work: Scratch
) -> None:
    """Leave the currents in ``parts[0]``."""
    _mix(views, table, slots[:3], norm, last, work)
    for m in range(3):
        product(views, table[slots[5 + m]], work.blends[m], work.parts[1 + m], work.room)
    decay = vector(views, table, slots[3], work.room, work.vectors[0])
    first = vector(views, table, slots[4], work.room, work.vectors[1])
    k, v, r = work.parts[1, 0], work.parts[2, 0], work.parts[3, 0]
    gated_wkv(r, k, v, decay, first, wkv[0], wkv[1], wkv[2], work.blends[0, 0])
    product(views, table[slots[8]], work.blends[0], work.parts[0], work.room)


@njit(fastmath=SUMS)  # type: ignore[untyped-decorator]
def _channel_mix(views: Views, table: Any, slots: Slots, norm: Slots, last: Array, work: Scratch) -> None:
    """Leave the currents in ``parts[0]`` and their gate in ``parts[1]``."""
    _mix(views, table, slots[:2], norm, last, work)
    product(views, table[slots[2]], work.blends[0], work.hidden, work.room)
    relu2(work.hidden[0])
    product(views, table[slots[4]], work.hidden, work.parts[0], work.room)
    product(views, table[slots[3]], work.blends[1], work.parts[1], work.room)


@njit(fastmath=SUMS, cache=True)  # type: ignore[untyped-decorator]
def step(
    views: Views, table: Any, plan: Plan, state: State, token: int, work: Scratch, logits: Array
) -> int:
    """Read one token: carry ``state`` on, write the next token's logits [1, V], return the spikes."""
    ends, x, fired = plan.ends, work.x, 0
    read_row(views, table[ends[0]], token, work.room, work.norm)
    if plan.spikes:
        heaviside(work.norm)
    weight = vector(views, table, ends[1], work.room, work.vectors[0])
    bias = vector(views, table, ends[2], work.room, work.vectors[1])
    layer_norm(work.norm, weight, bias, x)
    factor = _ONE
    for i in range(len(plan.blocks)):
        slots = plan.blocks[i]
        gated = plan.pre and i == 0
        if gated:
            _channel_mix(views, table, slots[_FIRST:_FFN], slots[:2], state.att_last[i], work)
        else:
            _time_mix(views, table, slots[_FIRST:_FFN], slots[:2], state.att_last[i], state.wkv[i], work)
        fired += lif_add(x, work.parts[0, 0], work.parts[1, 0], gated, factor, state.lif_att[i])
        _channel_mix(views, table, slots[_FFN:], slots[2:4], state.ffn_last[i], work)
        fired += lif_add(x, work.parts[0, 0], work.parts[1, 0], True, factor, state.lif_ffn[i])
        if plan.rescale and (i + 1) % plan.rescale == 0:
            factor *= np.float32(0.5)
            for j in range(x.shape[0]):
                x[j] *= np.float32(0.5)
    weight = vector(views, table, ends[3], work.room, work.vectors[0])
    bias = vector(views, table, ends[4], work.room, work.vectors[1])
    layer_norm(x, weight, bias, work.blends[0, 0])
    product(views, table[ends[5]], work.blends[0], logits, work.room)
    return fired
