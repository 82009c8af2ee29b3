"""SpikingBERT: a BERT of integrate-and-fire neurons that sees every token over S time steps.

    c = LN(word + position + type);  z = IF(c)                     the same current at every step
    K = IF(Wk z), V = IF(Wv z);  A = IF(softmax((Wq z) Kᵀ/√d + mask) V)          once per encoder
    O = IF(LN(Wo A + z));  M = IF(gelu(Wi O));  z = IF(LN(Wf M + O))
    logits = Wc (spikes of the last z at [CLS] / S)

IF: ``u ← u + I``, a spike where u ≥ threshold, then ``u ← (u − threshold)·leak``. Attention runs within each
step. Shapes: B sentences, T tokens, S steps, D width; the stream is [S, B, T, D].
Source: Bal and Sengupta, SpikingBERT (AAAI 2024) and the behaviour of its released code.

A checkpoint of the original holds every tensor under three names, and a copy of all of them that only
training reads. Here each has one name: ``canonical`` refuses names of one tensor that hold different numbers,
and ``expanded`` writes the same numbers under all of them. The copy is not kept: the original overwrites it
with the live weights in every training step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import gelu

from qslm_opt.errors import ModelError
from qslm_opt.kernels.fire.reference import Neuron
from qslm_opt.kernels.ops import rows_of
from qslm_opt.models.config import (
    MOST_BLOCKS,
    MOST_SIZE,
    MOST_STEPS,
    ModelConfig,
    Site,
    affine_shapes,
    block_count,
    norm_shapes,
    pair,
    shown,
)
from qslm_opt.models.family import Encoding, Family, Fired, Inputs, Tensors
from qslm_opt.models.parts import affine, merge_heads, norm, split_heads

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import Kind, Shapes

EPS = 1e-12
"""Of every LayerNorm."""
MASKED = -1e4
"""Added to the attention scores of padding."""
EMBEDDINGS = tuple(f"network_x.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
FEEDBACK = "network_s{}.fc.weight"
_SITES = {
    "key": "attn.key", "value": "attn.value", "attention": "attn.query",
    "self_output": "attn.self_output", "intermediate": "ffn.intermediate", "output": "ffn.output",
}  # fmt: skip
"""Groups of neurons of an encoder, in the order in which they compute → the module in front of them."""
_NORMED = ("self_output", "output")
_LIVE, _COPY = ("", "snn_func.", "snn_ide_conv.snn_func."), ("snn_func_copy.", "snn_ide_conv.snn_func_copy.")
_LISTED = re.compile(r"network_s_list\.([0-9]{1,5})\.(.+)")
_OWN = re.compile(r"network_s([0-9]{1,5})\.(.+)")


@dataclass(frozen=True)
class SpikingBERTConfig(ModelConfig):
    """Sizes and semantics of one SpikingBERT; sizes have the names of the original's config.json."""

    family: ClassVar[str] = "spikingbert"
    title: ClassVar[str] = "SpikingBERT"
    words: ClassVar[Mapping[str, str]] = {"T": "timesteps", "num_labels": "n_labels"}
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "vocab_size": (1, MOST_SIZE), "hidden_size": (1, MOST_SIZE), "num_hidden_layers": (1, MOST_BLOCKS),
        "intermediate_size": (1, MOST_SIZE), "max_position_embeddings": (1, MOST_SIZE),
        "type_vocab_size": (1, MOST_SIZE), "n_labels": (1, MOST_SIZE), "num_attention_heads": (1, MOST_SIZE),
        "timesteps": (1, MOST_STEPS), "threshold": (1e-6, 1e6), "leak": (0, 1), "fit_size": (0, MOST_SIZE),
    }  # fmt: skip

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    n_labels: int
    num_attention_heads: int = 12
    timesteps: int = 100
    threshold: float = 1.0
    leak: float = 1.0
    """Share of the potential that is left from step to step."""
    fit_size: int = 0
    """Width of the teacher that ``fit_dense`` maps to in training; 0 when the checkpoint has none."""
    has_feedback: bool = True
    """Whether the original has a matrix from the last encoder back to the first, which inference skips."""
    has_pooler: bool = True
    has_unused: bool = True
    """Whether the tensors of these three, which inference never reads, are stored."""

    def __post_init__(self) -> None:
        self.check_bounds()
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"config key 'num_attention_heads' is {self.num_attention_heads}; it must divide the width "
                f"{self.hidden_size}: correct config.json, or give --config num_attention_heads=N."
            )

    # -------------------------------------------------------------------------------------------- sizes
    @property
    def blocks(self) -> int:
        """See ``ModelConfig``."""
        return self.num_hidden_layers

    @property
    def vocabulary(self) -> int:
        """See ``ModelConfig``."""
        return self.vocab_size

    @property
    def labels(self) -> int:
        """See ``ModelConfig``."""
        return self.n_labels

    @property
    def longest(self) -> int:
        """See ``ModelConfig``."""
        return self.max_position_embeddings

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``; four spikes of one byte are as large as one number."""
        return -(-self.timesteps * self.hidden_size // 4)

    @property
    def widest(self) -> int:
        """See ``ModelConfig``: beside vectors, the attention scores of a longest sentence, thrice."""
        scores = 3 * self.num_attention_heads * self.max_position_embeddings
        return self.timesteps * (8 * self.hidden_size + 4 * self.intermediate_size + scores)

    def describe(self) -> str:
        """See ``ModelConfig``."""
        return (
            f"SpikingBERT, {self.num_hidden_layers} encoders of width {self.hidden_size}, "
            f"{self.num_attention_heads} heads, {self.timesteps} time steps"
        )

    # ---------------------------------------------------------------------------------------- structure
    def layers(self, i: int) -> dict[str, str]:
        """Return site → prefix of the tensors in front of it, of encoder ``i``."""
        ends = ("dense", "dense", "query", "dense", "dense", "dense")
        places = zip(_SITES, ends, strict=True)
        return {site: f"network_s{6 * i + k}.{end}" for k, (site, end) in enumerate(places, start=1)}

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``."""
        d, f = self.hidden_size, self.intermediate_size
        rows = (self.vocab_size, self.max_position_embeddings, self.type_vocab_size)
        shapes: dict[str, tuple[int, ...]] = {n: (r, d) for n, r in zip(EMBEDDINGS, rows, strict=True)}
        shapes |= norm_shapes("network_x.LayerNorm", d)
        for i in range(self.blocks):
            for site, name in self.layers(i).items():
                shapes |= affine_shapes(
                    name, f if site == "intermediate" else d, f if site == "output" else d
                )
                if site in _NORMED:
                    shapes |= norm_shapes(_norm_of(name), d)
        shapes |= affine_shapes("classification", self.n_labels, d)
        return shapes | (self.unused_shapes() if self.has_unused else {})

    def unused_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that the original has and inference never reads, the training copy aside."""
        d = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_feedback:
            shapes[FEEDBACK.format(6 * self.blocks + 1)] = (d, d)
        if self.fit_size:
            shapes |= affine_shapes("fit_dense", self.fit_size, d)
        if self.has_pooler:
            shapes |= affine_shapes("pooler_layer.dense", d, d)
        return shapes

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``."""
        modules = {f"input/{name.split('.')[1]}": [name] for name in EMBEDDINGS}
        modules["input/LayerNorm"] = pair("network_x.LayerNorm")
        for i in range(self.blocks):
            for site, name in self.layers(i).items():
                normed = pair(_norm_of(name)) if site in _NORMED else []
                modules[f"attention.{i}/{_SITES[site]}"] = pair(name) + normed
        modules["output/classification"] = pair("classification")
        for name in self.unused_shapes() if self.has_unused else ():
            part = "feedback" if name.startswith("network_s") else name.split(".")[0]
            modules.setdefault(f"aux/{part}", []).append(name)
        return modules

    def role(self, name: str) -> Role:
        """See ``ModelConfig``."""
        if name in EMBEDDINGS:
            return "embedding"
        if "LayerNorm" in name:
            return "norm"
        if name.endswith(".bias"):
            return "bias"
        return "head" if name == "classification.weight" else "matrix"

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``."""
        return name not in self.unused_shapes()

    def lean(self, kind: Kind) -> SpikingBERTConfig:
        """See ``ModelConfig``."""
        return replace(self, has_unused=False)

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``."""
        d, f = self.hidden_size, self.intermediate_size
        return {"embedding": Site(None, d)} | {
            f"encoder{i}.{site}": Site(i, f if site == "intermediate" else d)
            for i in range(self.blocks)
            for site in _SITES
        }

    # --------------------------------------------------------------------------------- reading, writing
    @classmethod
    def from_shapes(cls, shapes: Shapes, **given: Any) -> SpikingBERTConfig:
        """See ``ModelConfig``."""
        cls.check_keys(given)
        rows = [shapes.get(name, ()) for name in EMBEDDINGS]
        encoders = (block_count(shapes, "network_s") - 1) // 6
        if any(len(shape) != 2 for shape in rows) or encoders < 1 or "classification.weight" not in shapes:
            raise ModelError(
                "the checkpoint is no SpikingBERT: it lacks an embedding 'network_x.*_embeddings.weight', an "
                "encoder's 'network_sN.*', or 'classification.weight'; give a complete checkpoint."
            )
        feedback = FEEDBACK.format(6 * encoders + 1)
        inferred = {
            "vocab_size": rows[0][0], "hidden_size": rows[0][1], "num_hidden_layers": encoders,
            "intermediate_size": shapes.get("network_s5.dense.weight", (0,))[0],
            "max_position_embeddings": rows[1][0], "type_vocab_size": rows[2][0],
            "n_labels": shapes["classification.weight"][0],
            "fit_size": shapes.get("fit_dense.weight", (0,))[0],
            "has_feedback": feedback in shapes, "has_pooler": "pooler_layer.dense.weight" in shapes,
        }  # fmt: skip
        return cls(**{**inferred, **given})

    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``."""
        keys = ("num_attention_heads", "timesteps", "threshold", "leak")
        return {key: getattr(self, key) for key in keys}


def _norm_of(name: str) -> str:
    return f"{name.removesuffix('.dense')}.LayerNorm"


def live_name(stored: str) -> str | None:
    """Return the canonical name of what the original calls ``stored``; None for its training copy."""
    if stored.startswith(_COPY):
        return None
    return _live(stored.removeprefix("snn_ide_conv.").removeprefix("snn_func."))


def _copied_name(stored: str) -> str:
    """Return the canonical name of the tensor that one of the training copy is a copy of."""
    return _live(stored.removeprefix("snn_ide_conv.").removeprefix("snn_func_copy."))


def _live(name: str) -> str:
    """Return the canonical name of what stands in a list of the original's."""
    listed = _LISTED.fullmatch(name)
    return f"network_s{int(listed[1]) + 1}.{listed[2]}" if listed else name


def original_names(name: str) -> list[str]:
    """Return every name that the original has for a canonical one, those of the training copy included."""
    if not name.startswith("network_"):
        return [name]
    own = _OWN.fullmatch(name)
    inner = f"network_s_list.{int(own[1]) - 1}.{own[2]}" if own else name
    return [name, *(prefix + inner for prefix in (*_LIVE[1:], *_COPY))]


class SpikingBERT(Family):
    """The family: classification by the firing rates at [CLS]."""

    config_class: ClassVar[type[ModelConfig]] = SpikingBERTConfig
    keeps_batches: ClassVar[bool] = True
    """Where all values at a step fire, attention is 1, the threshold, but for the rounding of a softmax."""

    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``."""
        own = {live_name(name) for name in names}
        return EMBEDDINGS[0] in own and "network_s1.dense.weight" in own

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``Family``; the training copy is gone."""
        found: dict[str, Tensor] = {}
        named: dict[str, str] = {}
        for key, tensor in stored.items():
            name = live_name(key)
            if name is None:
                continue
            if name in found and not _same(found[name], tensor):
                raise ModelError(
                    f"the checkpoint has different numbers under {named[name]!r} and {key!r}, two names of "
                    "one tensor; write what you change under every name."
                )
            found.setdefault(name, tensor)
            named.setdefault(name, key)
        return found

    def left_out(self, stored: Mapping[str, Tensor]) -> str:
        """See ``Family``: tensors of the training copy, which lags behind the live ones by a step."""
        live = {live_name(key): tensor for key, tensor in stored.items() if live_name(key) is not None}
        copies = ((_copied_name(key), tensor) for key, tensor in stored.items() if live_name(key) is None)
        others = {name for name, tensor in copies if name not in live or not _same(live[name], tensor)}
        if not others:
            return ""
        what = "1 tensor" if len(others) == 1 else f"{len(others)} tensors"
        return f"left out: {what} of the training copy, snn_func_copy, with other numbers than the live ones"

    def expanded(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See ``Family``; the training copy holds the live numbers, what is not stored is 0."""
        unused = _own(config).unused_shapes()
        some = tensors["classification.weight"]
        whole = {**{n: some.new_zeros(shape) for n, shape in unused.items()}, **tensors}
        return {alias: tensor for name, tensor in whole.items() for alias in original_names(name)}

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``; the depth in a file of the original's is ignored, as it ignores it."""
        kind, act = values.get("model_type") or self.name, values.get("hidden_act") or "gelu"
        if kind not in (self.name, "bert"):
            raise ModelError(
                f"model_type {shown(kind)} is another family than {self.name!r}, whose tensors these are."
            )
        if act != "gelu":
            raise ModelError(f"hidden_act {shown(act)} is not SpikingBERT's; it must be 'gelu'.")
        keys = super().declared(values)
        ours = values.get("model_type") == self.name
        return keys if ours else {k: v for k, v in keys.items() if k != "num_hidden_layers"}

    def described(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``; without tensors, the depth is what the file says."""
        depth = values.get("num_hidden_layers")
        return {**({} if depth is None else {"num_hidden_layers": depth}), **super().described(values)}

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """See ``Family``; the original reads it, too."""
        theirs = {"hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        values = super().config_json(config)
        del values["has_unused"]  # ``expanded`` writes them all
        return {**values, **theirs}

    def encoding(self, config: ModelConfig) -> Encoding:
        """See ``Family``."""
        return Encoding(special=True, longest=config.longest)

    # --------------------------------------------------------------------------------------- arithmetic
    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``."""
        cfg = _own(config)
        inside = [f"{name}.weight" for i in range(cfg.blocks) for name in cfg.layers(i).values()]
        return dict.fromkeys([*inside, "classification.weight"], False)

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``."""
        return EMBEDDINGS

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``: spikes [S, B, T, D]."""
        ids = inputs.ids
        word, position, kind = (p[name] for name in EMBEDDINGS)
        places = torch.arange(ids.shape[1], device=ids.device)
        kinds = torch.zeros_like(places) if inputs.segments is None else inputs.segments
        c = rows_of(word, ids) + rows_of(position, places) + rows_of(kind, kinds)  # (B, T, D)
        c = norm(p, "network_x.LayerNorm", c, EPS)
        current = c.expand(config.timesteps, *c.shape)
        return _kept(_fire(_own(config), ops, fired, "embedding", current))

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``: spikes [S, B, T, D] from such."""
        cfg = _own(config)
        names = cfg.layers(i)

        def fire(site: str, current: Tensor) -> Tensor:
            return _fire(cfg, ops, fired, f"encoder{i}.{site}", current)

        z = x.to(p[f"{names['key']}.bias"].dtype)
        k = fire("key", affine(p, names["key"], z, ops))
        v = fire("value", affine(p, names["value"], z, ops))
        q = affine(p, names["attention"], z, ops)
        a = fire("attention", attend(q, k, v, cfg.num_attention_heads, inputs.inside()))
        y = affine(p, names["self_output"], a, ops) + z
        o = fire("self_output", norm(p, _norm_of(names["self_output"]), y, EPS))
        m = fire("intermediate", gelu(affine(p, names["intermediate"], o, ops)))
        y = affine(p, names["output"], m, ops) + o
        return _kept(fire("output", norm(p, _norm_of(names["output"]), y, EPS)))

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: firing rates [B, D] at the first token."""
        return x[:, :, 0].to(p["classification.bias"].dtype).sum(dim=0) / config.timesteps

    def class_logits(
        self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops
    ) -> Tensor:
        """See ``Family``."""
        return affine(p, "classification", h, ops)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, inside: Tensor | None) -> Tensor:
    """Return ``softmax(q kᵀ/√d + mask) v`` by heads [S, B, T, D], for each time step by itself.

    Args:
        inside: (B, T) bool, True where a token is not padding; None when none is.
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))  # (S, B, heads, T, d)
    scores = q @ k.transpose(-1, -2) / sqrt(q.shape[-1])
    if inside is not None:
        scores = scores + (~inside).to(q.dtype)[:, None, None, :] * MASKED
    return merge_heads(scores.softmax(dim=-1) @ v)


def _fire(cfg: SpikingBERTConfig, ops: Ops, fired: Fired, site: str, current: Tensor) -> Tensor:
    neuron = Neuron(tau=None, threshold=cfg.threshold, soft=True, keep=cfg.leak)
    spikes, v = ops.fire(current, neuron)
    fired.add(site, spikes, v)
    return spikes


def _kept(spikes: Tensor) -> Tensor:
    """Return spikes as bytes, a quarter of float32; as they are where a gradient passes them."""
    return spikes if spikes.requires_grad else spikes.to(torch.uint8)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _own(config: ModelConfig) -> SpikingBERTConfig:
    assert isinstance(config, SpikingBERTConfig)
    return config
