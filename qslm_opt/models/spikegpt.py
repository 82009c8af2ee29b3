"""SpikeGPT: an RWKV language model whose residual stream is fed by spikes.

The forward pass is a pure function of a name → tensor mapping ``p`` with the authors' names, so a
quantized model is the same code with other tensors. Shapes: B windows, T tokens, D width, V vocabulary.

    x = ln0(H(emb[ids]))                                   H(x) = 1 if x ≥ 0 else 0
    x = x + LIF(time_mix(ln1(x)));  x = x + LIF(channel_mix(ln2(x)))        once per block
    logits = head(ln_out(x))   or   classifier(mean over the sentence of ln_out(x))

Neuron and WKV state is an explicit value: a whole window is ``run_block`` over T tokens from the empty
state, generation is the same function with T = 1 and the state carried along.
Source: Zhu et al., SpikeGPT (TMLR 2024) and the behaviour of its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.kernels.products import Current

    Tensors = Mapping[str, Any]
    """Name → Tensor; matrices may be what the version's ``Ops.weight`` made of them."""

MODEL_TYPES = ("RWKV", "RWKV-ffnPre")
READ_BY_ROW = ("emb.weight",)
"""Tensors of which one row is read for a token."""
CHARACTER_VOCAB = 77
"""Vocabulary of the authors' character model, the only one their RNN form runs with the Heaviside."""


@dataclass(frozen=True)
class SpikeGPTConfig:
    """Sizes and semantics of one SpikeGPT."""

    vocab_size: int
    n_layer: int
    n_embd: int
    model_type: str = "RWKV"
    """``RWKV``, or ``RWKV-ffnPre``: block 0 has a second channel mix in place of its time mix."""
    n_ffn: int = 0
    """Hidden width of the channel mix; 0 means 4·n_embd."""
    n_labels: int = 0
    """Rows of the classification head; 0 when the checkpoint has none."""
    has_head: bool = True
    ctx_len: int = 1024
    embed_spike: str = "on"
    """Heaviside on the embedding: ``on``, ``off``, or ``auto`` (on only for a vocabulary of 77)."""
    rescale_every: int = 0
    """Halve the residual after every so many blocks, with the block outputs scaled to match; 0 never."""

    def __post_init__(self) -> None:
        if self.n_ffn == 0:
            object.__setattr__(self, "n_ffn", 4 * self.n_embd)
        for key in ("vocab_size", "n_layer", "n_embd", "n_ffn", "ctx_len"):
            if getattr(self, key) < 1:
                raise ModelError(f"{key} {getattr(self, key)} is out of range; it must be at least 1.")
        if self.model_type not in MODEL_TYPES:
            raise ModelError(f"model_type {self.model_type!r} is unknown; use one of {MODEL_TYPES}.")
        if self.embed_spike not in ("on", "off", "auto"):
            raise ModelError(f"embed_spike {self.embed_spike!r} is unknown; use on, off or auto.")

    @property
    def embedding_spikes(self) -> bool:
        """Whether the embedding goes through the Heaviside, so that only its sign matters."""
        if self.embed_spike == "auto":
            return self.vocab_size == CHARACTER_VOCAB
        return self.embed_spike == "on"

    def att_name(self, i: int) -> str:
        """Return the name of block i's first sub-layer: ``att``, or ``ffnPre`` where it replaces it."""
        return "ffnPre" if i == 0 and self.model_type == "RWKV-ffnPre" else "att"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor of the checkpoint with its shape, in the authors' order."""
        d = self.n_embd
        shapes: dict[str, tuple[int, ...]] = {"emb.weight": (self.vocab_size, d)}
        for i in range(self.n_layer):
            names = ("ln1", "ln2", "ln0") if i == 0 else ("ln1", "ln2")
            shapes |= {f"blocks.{i}.{n}.{part}": (d,) for n in names for part in ("weight", "bias")}
            first = self.att_name(i)
            inner = self._time_mix_shapes() if first == "att" else self._channel_mix_shapes()
            shapes |= {f"blocks.{i}.{first}.{n}": shape for n, shape in inner.items()}
            shapes |= {f"blocks.{i}.ffn.{n}": shape for n, shape in self._channel_mix_shapes().items()}
        shapes |= {"ln_out.weight": (d,), "ln_out.bias": (d,)}
        if self.has_head:
            shapes["head.weight"] = (self.vocab_size, d)
        if self.n_labels:
            shapes["classifier.weight"] = (self.n_labels, d)
        return shapes

    def _time_mix_shapes(self) -> dict[str, tuple[int, ...]]:
        d = self.n_embd
        vectors: dict[str, tuple[int, ...]] = {"time_decay": (d,), "time_first": (d,)}
        vectors |= {f"time_mix_{z}": (1, 1, d) for z in "kvr"}
        return vectors | {f"{m}.weight": (d, d) for m in ("key", "value", "receptance", "output")}

    def _channel_mix_shapes(self) -> dict[str, tuple[int, ...]]:
        d, f = self.n_embd, self.n_ffn
        shapes: dict[str, tuple[int, ...]] = {f"time_mix_{z}": (1, 1, d) for z in "kr"}
        return shapes | {"key.weight": (f, d), "receptance.weight": (d, d), "value.weight": (d, f)}

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], **overrides: Any
    ) -> SpikeGPTConfig:
        """Infer the config from a checkpoint's names and shapes; ``overrides`` win.

        Raises:
            ModelError: when the names are not SpikeGPT's, or an override is unknown.
        """
        known = {f.name for f in fields(cls)}
        for key in overrides:
            if key not in known:
                raise ModelError(f"config key {key!r} is unknown.{did_you_mean(key, known)}")
        emb = shapes.get("emb.weight")
        places = (name.split(".")[1] for name in shapes if name.startswith("blocks."))
        blocks = {int(place) for place in places if place.isdecimal()}
        if emb is None or len(emb) != 2 or not blocks:
            raise ModelError(
                "the checkpoint is no SpikeGPT: it has no two-dimensional 'emb.weight', or no 'blocks.N.*'; "
                "give a SpikeGPT checkpoint with the authors' names."
            )
        pre = any(name.startswith("blocks.0.ffnPre.") for name in shapes)
        inferred = {
            "vocab_size": emb[0],
            "n_embd": emb[1],
            "n_layer": max(blocks) + 1,
            "model_type": "RWKV-ffnPre" if pre else "RWKV",
            "n_ffn": shapes.get("blocks.0.ffn.key.weight", (0,))[0],
            "n_labels": shapes.get("classifier.weight", (0,))[0],
            "has_head": "head.weight" in shapes,
        }
        return cls(**{**inferred, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict that ``from_dict`` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpikeGPTConfig:
        """Rebuild from ``to_dict``; keys that are not this config's are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    def with_semantics(self, embed_spike: str, rescale_every: int) -> SpikeGPTConfig:
        """Return a copy with another reading of the public checkpoint (see SpikeGPT's two forms)."""
        return replace(self, embed_spike=embed_spike, rescale_every=rescale_every)


@dataclass(frozen=True)
class BlockState:
    """What one block carries from token to token, for B windows."""

    att_last: Tensor  # (B, D) normalised last token at the first sub-layer
    ffn_last: Tensor  # (B, D) the same at the channel mix
    wkv: Tensor  # (3, B, D) numerator, denominator, running maximum
    lif_att: Tensor  # (B, D) membrane potentials after the first sub-layer
    lif_ffn: Tensor  # (B, D) membrane potentials after the channel mix


def empty_state(batch: int, width: int, like: Tensor) -> BlockState:
    """Return the state before the first token of a window, in the dtype and on the device of ``like``."""
    from qslm_opt.kernels.wkv.reference import initial_state

    zeros = like.new_zeros(4, batch, width)
    return BlockState(zeros[0], zeros[1], initial_state(batch, width, like), zeros[2], zeros[3])


def products(cfg: SpikeGPTConfig) -> dict[str, bool]:
    """Return the tensors that are read by ``ops.linear`` (False) or ``ops.nll`` (True) alone."""
    shapes = cfg.tensor_shapes().items()
    inside = [name for name, shape in shapes if name.startswith("blocks.") and len(shape) == 2]
    return dict.fromkeys(inside, False) | ({"head.weight": True} if cfg.has_head else {})


def embed(p: Tensors, cfg: SpikeGPTConfig, ids: Tensor) -> Tensor:
    """Return the residual stream before block 0 [B, T, D] for token ids [B, T]."""
    from torch.nn.functional import layer_norm

    from qslm_opt.kernels.ops import rows_of

    x = rows_of(p["emb.weight"], ids)  # (B, T, D)
    if cfg.embedding_spikes:
        x = (x >= 0).to(x.dtype)
    return layer_norm(x, (cfg.n_embd,), p["blocks.0.ln0.weight"], p["blocks.0.ln0.bias"])


def run_block(
    p: Tensors,
    cfg: SpikeGPTConfig,
    i: int,
    x: Tensor,
    state: BlockState,
    ops: Ops,
    lengths: Tensor | None = None,
) -> tuple[Tensor, BlockState, Tensor]:
    """Run block i over T tokens.

    Args:
        x: residual stream [B, T, D].
        state: the block's state before the first token.
        ops: the operations between the matrix products.
        lengths: tokens of each window that are not padding [B]; only counting reads it.

    Returns:
        The new residual stream, the state after the last token, and the spikes per window [B].
    """
    from qslm_opt.kernels.ops import divided

    name = f"blocks.{i}."
    scale = 2.0 ** (i // cfg.rescale_every) if cfg.rescale_every else 1.0
    norm1 = (p[name + "ln1.weight"], p[name + "ln1.bias"])
    norm2 = (p[name + "ln2.weight"], p[name + "ln2.bias"])
    wkv = state.wkv
    if cfg.att_name(i) == "att":
        y, att_last, wkv = time_mix(p, name + "att.", x, norm1, state.att_last, wkv, ops)
        gate = None
    else:
        y, gate, att_last = channel_mix(p, name + "ffnPre.", x, norm1, state.att_last, ops)
    x, lif_att, count1 = ops.lif_add(x, divided(y, scale) if scale != 1 else y, gate, state.lif_att, lengths)
    y, gate, ffn_last = channel_mix(p, name + "ffn.", x, norm2, state.ffn_last, ops)
    x, lif_ffn, count2 = ops.lif_add(x, divided(y, scale) if scale != 1 else y, gate, state.lif_ffn, lengths)
    if cfg.rescale_every and (i + 1) % cfg.rescale_every == 0:
        x = x / 2
    return x, BlockState(att_last, ffn_last, wkv, lif_att, lif_ffn), count1 + count2


def time_mix(
    p: Tensors,
    name: str,
    x: Tensor,
    norm: tuple[Tensor, Tensor],
    last: Tensor,
    wkv: Tensor,
    ops: Ops,
) -> tuple[Current, Tensor, Tensor]:
    """Return the currents ``Wo(sigmoid(r) · WKV(k, v))`` [B, T, D], the last token and the WKV state."""
    mixes = [p[f"{name}time_mix_{z}"].flatten() for z in "kvr"]
    (xk, xv, xr), last = ops.norm_shift_mix(x, *norm, last, mixes)
    k = ops.linear(xk, p[name + "key.weight"])  # (B, T, D)
    v = ops.linear(xv, p[name + "value.weight"])
    r = ops.linear(xr, p[name + "receptance.weight"])
    decay = -p[name + "time_decay"].exp()
    y, wkv = ops.gated_wkv(r, k, v, decay, p[name + "time_first"], wkv)
    return ops.linear(y, p[name + "output.weight"]), last, wkv


def channel_mix(
    p: Tensors, name: str, x: Tensor, norm: tuple[Tensor, Tensor], last: Tensor, ops: Ops
) -> tuple[Current, Current, Tensor]:
    """Return ``Wv(relu(Wk)²)`` and its gate ``Wr`` before the sigmoid [B, T, D], and the last token."""
    mixes = [p[f"{name}time_mix_{z}"].flatten() for z in "kr"]
    (xk, xr), last = ops.norm_shift_mix(x, *norm, last, mixes)
    hidden = ops.relu2(ops.linear(xk, p[name + "key.weight"]))  # (B, T, F)
    y = ops.linear(hidden, p[name + "value.weight"])
    return y, ops.linear(xr, p[name + "receptance.weight"]), last


def finish(p: Tensors, cfg: SpikeGPTConfig, x: Tensor) -> Tensor:
    """Return ``ln_out(x)``, what both heads read, in the shape of ``x``."""
    from torch.nn.functional import layer_norm

    return layer_norm(x, (cfg.n_embd,), p["ln_out.weight"], p["ln_out.bias"])


def lm_logits(p: Tensors, h: Tensor) -> Tensor:
    """Return next-token logits [..., V] of ``finish``'s output."""
    from torch.nn.functional import linear

    return linear(h, p["head.weight"])


def class_logits(p: Tensors, h: Tensor, lengths: Tensor) -> Tensor:
    """Return class logits [B, labels]: the mean over each sentence's own positions, then the classifier.

    Args:
        h: ``finish``'s output [B, T, D], padded on the right.
        lengths: tokens of each sentence [B]; positions at or beyond it never count.
    """
    import torch
    from torch.nn.functional import linear

    inside = torch.arange(h.shape[1], device=h.device) < lengths[:, None]  # (B, T)
    total = (h * inside.unsqueeze(-1)).sum(dim=1)
    return linear(total / lengths[:, None].to(h.dtype), p["classifier.weight"])


def forward(
    p: Tensors,
    cfg: SpikeGPTConfig,
    ids: Tensor,
    ops: Ops,
    states: list[BlockState] | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, list[BlockState], Tensor]:
    """Run the body over token ids [B, T]: ``finish``'s output, the new states, spikes per window.

    With ``states`` it goes on where an earlier call ended (recurrent form); without, windows start empty.
    """
    x = embed(p, cfg, ids)
    if states is None:
        states = [empty_state(x.shape[0], cfg.n_embd, x) for _ in range(cfg.n_layer)]
    after, spikes = [], x.new_zeros(x.shape[0]).double()
    for i, state in enumerate(states):
        x, state, count = run_block(p, cfg, i, x, state, ops, lengths)
        after.append(state)
        spikes = spikes + count
    return finish(p, cfg, x), after, spikes
