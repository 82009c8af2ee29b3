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

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qslm_opt.errors import ModelError
from qslm_opt.models.config import shown
from qslm_opt.models.family import Family, Fired, Inputs
from qslm_opt.models.spikegpt_config import AUTHORS_TYPE, MODEL_TYPES, SpikeGPTConfig

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.kernels.products import Current
    from qslm_opt.models.config import ModelConfig

    Tensors = Mapping[str, Any]
    """Name → Tensor; matrices may be what the version's ``Ops.weight`` made of them."""

READ_BY_ROW = ("emb.weight",)
"""Tensors of which one row is read for a token."""


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


def embed(p: Tensors, cfg: SpikeGPTConfig, ids: Tensor, ops: Ops) -> Tensor:
    """Return the residual stream before block 0 [B, T, D] for token ids [B, T]."""
    from torch.nn.functional import layer_norm

    from qslm_opt.kernels.ops import rows_of

    x = rows_of(p["emb.weight"], ids)  # (B, T, D)
    if cfg.embedding_spikes:
        x = ops.heaviside(x)
    return layer_norm(x, (cfg.n_embd,), p["blocks.0.ln0.weight"], p["blocks.0.ln0.bias"])


def run_block(
    p: Tensors,
    cfg: SpikeGPTConfig,
    i: int,
    x: Tensor,
    state: BlockState,
    ops: Ops,
    lengths: Tensor | None = None,
) -> tuple[Tensor, BlockState, tuple[Tensor, Tensor]]:
    """Run block i over T tokens.

    Args:
        x: residual stream [B, T, D].
        state: the block's state before the first token.
        ops: the operations between the matrix products.
        lengths: tokens of each window that are not padding [B]; only counting reads it.

    Returns:
        The new residual stream, the state after the last token, and the spikes per window [B] of the first
        and the second sub-layer.
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
    return x, BlockState(att_last, ffn_last, wkv, lif_att, lif_ffn), (count1, count2)


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
    x = embed(p, cfg, ids, ops)
    if states is None:
        states = [empty_state(x.shape[0], cfg.n_embd, x) for _ in range(cfg.n_layer)]
    after, spikes = [], x.new_zeros(x.shape[0]).double()
    for i, state in enumerate(states):
        x, state, (first, second) = run_block(p, cfg, i, x, state, ops, lengths)
        after.append(state)
        spikes = spikes + (first + second)
    return finish(p, cfg, x), after, spikes


class SpikeGPT(Family):
    """The family: whole windows and sentences, from the empty state."""

    config_class: ClassVar[type[ModelConfig]] = SpikeGPTConfig

    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``."""
        return "emb.weight" in names and any(n.startswith("blocks.") and ".ffn." in n for n in names)

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``Family``; a head that config.json ties to the embedding need not be stored."""
        found = dict(stored)
        if values.get("tie_word_embeddings") and "head.weight" not in found and "emb.weight" in found:
            found["head.weight"] = found["emb.weight"]
        return found

    def declared_ties(self, values: Mapping[str, Any]) -> dict[str, str]:
        """See ``Family``."""
        return {"head.weight": "emb.weight"} if values.get("tie_word_embeddings") else {}

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``; ``model_type`` may be the family, or the authors' own."""
        found = dict(values)
        family = found.get("model_type") or self.name
        if family not in (self.name, *MODEL_TYPES):
            raise ModelError(
                f"model_type {shown(family)} is another family than {self.name!r}, whose tensors these are."
            )
        if family == self.name:
            found["model_type"] = found.get(AUTHORS_TYPE, MODEL_TYPES[0])
            if AUTHORS_TYPE not in found:
                del found["model_type"]
        return super().declared(found)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """See ``Family``; it is what ``from_pretrained`` reads, too."""
        kind = "SpikeGPTForSequenceClassification" if config.labels else "SpikeGPTForCausalLM"
        values = config.to_dict()
        family = {"model_type": self.name, AUTHORS_TYPE: values["model_type"]}
        return {"architectures": [kind], **values, **family}

    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``."""
        return products(_own(config))

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``."""
        return READ_BY_ROW

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``."""
        return embed(p, _own(config), inputs.ids, ops)

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``."""
        cfg = _own(config)
        state = empty_state(x.shape[0], cfg.n_embd, x)
        x, _, counts = run_block(p, cfg, i, x, state, ops, inputs.lengths)
        for part, count in zip((cfg.att_name(i), "ffn"), counts, strict=True):
            fired.put(f"blocks.{i}.{part}", count.sum(dtype=count.dtype))
        return x

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: [B, T, D]."""
        return finish(p, _own(config), x)

    def head(self, config: ModelConfig) -> str:
        """See ``Family``."""
        return "head.weight"

    def class_logits(
        self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops
    ) -> Tensor:
        """See ``Family``."""
        lengths = inputs.lengths
        if lengths is None:
            lengths = h.new_full(h.shape[:1], h.shape[1]).long()
        return class_logits(p, h, lengths)


def _own(config: ModelConfig) -> SpikeGPTConfig:
    assert isinstance(config, SpikeGPTConfig)
    return config
