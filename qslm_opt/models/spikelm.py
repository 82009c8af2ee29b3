"""SpikeLM: BERT whose linear maps read ternary spikes over S time steps.

The embedding is presented at every step. Each linear map of a block spikes its input, and the maps to keys
and values spike their output once more; queries and the softmax stay floats. A spike is −a, 0 or a with an
amplitude a of its own for each site and step:

    m_t = 0.25·m_{t−1}·(a_{t−1} − o_{t−1}) + x_t          o_t = a_t·clamp(round(m_t / a_t), −1, 1)

keys and values without the first term. With ``input_bits`` 1, ``o_t = a_t·sign(m_t)``. The heads read the
mean over the steps at position 0. Amplitudes are parameters as they are stored: the released code estimates
one that is exactly 1.0 anew from the first batch that it sees, here it is 1.0.

Shapes: S steps, B sentences, T tokens, D width, F width of the feed-forward part.
Source: Xing et al., SpikeLM (ICML 2024), and the behaviour of its released code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

from qslm_opt.errors import ModelError
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
from qslm_opt.models.family import Encoding, Family, Fired, Inputs
from qslm_opt.models.parts import affine, merge_heads, norm, split_heads

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import Kind, Shapes
    from qslm_opt.models.family import Tensors

LEAK = 0.25
EMBEDDINGS = "bert.embeddings."
WORDS, POSITIONS, TYPES = (
    f"{EMBEDDINGS}{part}_embeddings.weight" for part in ("word", "position", "token_type")
)
POOLER, CLASSIFIER = "bert.pooler.dense", "classifier"
INNER_EPS = 1e-12
"""Of every LayerNorm inside the blocks; the config's own is that of the embedding."""
MOST_AMPLITUDES = 2**16
"""Most blocks × steps."""
_LAYER = "bert.encoder.layer."
_ACT = ".act_clip_val"
_QUERY, _KEY, _VALUE = (f"attention.self.{part}" for part in ("query", "key", "value"))
_CLIP_KEY, _CLIP_VALUE = "attention.self.clip_key", "attention.self.clip_value"
_MIXED, _HIDDEN, _OUT = "attention.output.dense", "intermediate.dense", "output.dense"
_LINEAR = (_QUERY, _KEY, _VALUE, _MIXED, _HIDDEN, _OUT)
_SITES = (
    _QUERY + _ACT, _KEY + _ACT, _CLIP_KEY, _VALUE + _ACT, _CLIP_VALUE, _MIXED + _ACT, _HIDDEN + _ACT,
    _OUT + _ACT,
)  # fmt: skip
"""What spikes in a block, in the order of computation: names of the amplitudes without their step."""
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
_CONSTANT = ".weight_clip_val"
"""A buffer that is 1 and that the released code reads nowhere."""
_POSITION_IDS = f"{EMBEDDINGS}position_ids"
"""0, 1, 2, …, int64."""


@dataclass(frozen=True)
class SpikeLMConfig(ModelConfig):
    """Sizes and semantics of one SpikeLM with a classification head; keys are BERT's."""

    family: ClassVar[str] = "spikelm"
    title: ClassVar[str] = "SpikeLM"
    told_by_shapes: ClassVar[tuple[str, ...]] = ("timesteps",)
    words: ClassVar[Mapping[str, str]] = {"T": "timesteps"}
    untold: ClassVar[tuple[str, ...]] = ("num_attention_heads",)
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "vocab_size": (1, MOST_SIZE), "hidden_size": (1, MOST_SIZE), "num_hidden_layers": (1, MOST_BLOCKS),
        "intermediate_size": (1, MOST_SIZE), "max_position_embeddings": (1, MOST_SIZE),
        "num_labels": (1, MOST_SIZE), "num_attention_heads": (1, MOST_SIZE),
        "type_vocab_size": (1, MOST_SIZE), "timesteps": (1, MOST_STEPS), "stored_steps": (0, MOST_STEPS),
        "input_bits": (1, 2), "layer_norm_eps": (0, 1),
    }  # fmt: skip

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    max_position_embeddings: int
    num_labels: int
    num_attention_heads: int = 0
    """No shape tells it, and there is no default."""
    type_vocab_size: int = 2
    timesteps: int = 4
    """Steps that are computed, the first of those that amplitudes are stored for."""
    stored_steps: int = 0
    """Steps that amplitudes are stored for; 0 means ``timesteps``."""
    input_bits: int = 2
    """2: ternary spikes; 1: spikes of either sign."""
    layer_norm_eps: float = 1e-12
    """Of the embedding's LayerNorm."""

    def __post_init__(self) -> None:
        self.check_bounds()
        if self.stored_steps == 0:
            object.__setattr__(self, "stored_steps", self.timesteps)
        self._check_steps()
        self._check_heads()

    def _check_steps(self) -> None:
        if self.timesteps > self.stored_steps:
            raise ModelError(
                f"config key 'timesteps' is {self.timesteps}, but the model has amplitudes for "
                f"{self.stored_steps} steps; use 1 to {self.stored_steps}, the first so many are computed."
            )
        if self.num_hidden_layers * self.stored_steps > MOST_AMPLITUDES:
            raise ModelError(
                f"{self.num_hidden_layers:,} blocks of {self.stored_steps:,} steps are too many; "
                f"blocks times steps must be at most {MOST_AMPLITUDES:,}: correct them in config.json, or "
                "give fewer --timesteps."
            )

    def _check_heads(self) -> None:
        heads, width = self.num_attention_heads, self.hidden_size
        if heads < 1 or width % heads:
            said = f"its {heads} attention heads must" if heads else "no file says how many attention heads"
            raise ModelError(
                f"this is a SpikeLM, and {said} divide its width {width}; give --config "
                "num_attention_heads=N, or a config.json beside the weights that says it."
            )

    # ------------------------------------------------------------------------------------------ sizes
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
        return self.num_labels

    @property
    def longest(self) -> int:
        """See ``ModelConfig``: positions are learned."""
        return self.max_position_embeddings

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``: every step has a stream of its own."""
        return self.timesteps * self.hidden_size

    @property
    def widest(self) -> int:
        """See ``ModelConfig``: spikes, potentials and currents of the widest map."""
        return self.timesteps * (2 * self.hidden_size + 4 * max(self.intermediate_size, self.hidden_size))

    def describe(self) -> str:
        """See ``ModelConfig``."""
        spikes = "ternary spikes" if self.input_bits == 2 else "spikes of either sign"
        steps = f"{self.timesteps} step{'s' if self.timesteps > 1 else ''}"
        if self.timesteps < self.stored_steps:
            steps = f"the first {self.timesteps} of {self.stored_steps} steps"
        return (
            f"SpikeLM, {self.blocks} blocks of width {self.hidden_size} with {self.num_attention_heads} "
            f"heads, {spikes} over {steps}"
        )

    # -------------------------------------------------------------------------------------- structure
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``; amplitudes are scalars."""
        d = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            WORDS: (self.vocab_size, d), POSITIONS: (self.max_position_embeddings, d),
            TYPES: (self.type_vocab_size, d), **norm_shapes(f"{EMBEDDINGS}LayerNorm", d),
        }  # fmt: skip
        for i in range(self.blocks):
            shapes |= self._block_shapes(f"{_LAYER}{i}.")
        return {**shapes, **affine_shapes(POOLER, d, d), **affine_shapes(CLASSIFIER, self.num_labels, d)}

    def _block_shapes(self, block: str) -> dict[str, tuple[int, ...]]:
        d, f = self.hidden_size, self.intermediate_size
        sizes = {_HIDDEN: (f, d), _OUT: (d, f)}
        shapes: dict[str, tuple[int, ...]] = {}
        for part in _LINEAR:
            shapes |= affine_shapes(f"{block}{part}", *sizes.get(part, (d, d)))
        for part in _NORMS:
            shapes |= norm_shapes(f"{block}{part}", d)
        steps = range(self.stored_steps)
        return shapes | {f"{block}{site}.{t}": () for site in _SITES for t in steps}

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``; amplitudes stand with the map whose spikes they are."""
        modules = {f"input/{name.split('.')[-2]}": [name] for name in (WORDS, POSITIONS, TYPES)}
        modules["input/LayerNorm"] = pair(f"{EMBEDDINGS}LayerNorm")
        for i in range(self.blocks):
            modules |= {
                f"attention.{i}/{unit}": [f"{_LAYER}{i}.{name}" for name in names]
                for unit, names in self._block_modules().items()
            }
        modules |= {"output/pooler": pair(POOLER), "output/classifier": pair(CLASSIFIER)}
        if self.timesteps < self.stored_steps:
            modules["aux/amplitudes"] = [
                f"{_LAYER}{i}.{name}" for i in range(self.blocks) for name in self._unread()
            ]
        return modules

    def _block_modules(self) -> dict[str, list[str]]:
        modules = {
            part: [*pair(part), *_amplitudes(part + _ACT, self.timesteps)]
            for part in (_QUERY, _KEY, _VALUE, _MIXED)
        }
        modules[_KEY] += _amplitudes(_CLIP_KEY, self.timesteps)
        modules[_VALUE] += _amplitudes(_CLIP_VALUE, self.timesteps)
        modules[_NORMS[0]] = pair(_NORMS[0])
        modules |= {
            part: [*pair(part), *_amplitudes(part + _ACT, self.timesteps)] for part in (_HIDDEN, _OUT)
        }
        return {**modules, _NORMS[1]: pair(_NORMS[1])}

    def _unread(self) -> Iterator[str]:
        """Yield the amplitudes of a block that belong to steps which are not computed."""
        for site in _SITES:
            yield from _amplitudes(site, self.stored_steps)[self.timesteps :]

    def role(self, name: str) -> Role:
        """See ``ModelConfig``."""
        if name in (WORDS, POSITIONS, TYPES):
            return "embedding"
        if name == f"{CLASSIFIER}.weight":
            return "head"
        if "LayerNorm" in name:
            return "norm"
        if name.endswith(".bias"):
            return "bias"
        return "matrix" if name.endswith(".weight") else "neuron"

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``: everything but the amplitudes of steps that are not computed."""
        step = name.rpartition(".")[2]
        return not step.isdecimal() or int(step) < self.timesteps

    def lean(self, kind: Kind) -> SpikeLMConfig:
        """See ``ModelConfig``."""
        return replace(self, stored_steps=self.timesteps)

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``: eight a block, named as their amplitudes are."""
        widths = {_OUT + _ACT: self.intermediate_size}
        return {
            f"{_LAYER}{i}.{site}": Site(i, widths.get(site, self.hidden_size))
            for i in range(self.blocks)
            for site in _SITES
        }

    # ------------------------------------------------------------------------------- reading, writing
    @classmethod
    def from_shapes(cls, shapes: Shapes, **given: Any) -> SpikeLMConfig:
        """See ``ModelConfig``."""
        cls.check_keys(given)
        sizes = (WORDS, POSITIONS, TYPES, f"{_LAYER}0.{_HIDDEN}.weight", f"{CLASSIFIER}.weight")
        missing = [name for name in sizes if len(shapes.get(name, ())) != 2]
        steps = block_count(shapes, f"{_LAYER}0.{_QUERY}{_ACT}.")
        if missing or not steps:
            raise ModelError(
                f"the checkpoint is no SpikeLM that classifies: it has no two-dimensional {missing[0]!r}; "
                "give a fine-tuned one with the authors' names." if missing else
                "the checkpoint is no SpikeLM: it has no amplitudes 'act_clip_val.N'; give one of SpikeLM."
            )  # fmt: skip
        (vocab, width), (longest, _), (types, _), (hidden, _), (labels, _) = (shapes[n] for n in sizes)
        found = {
            "vocab_size": vocab, "hidden_size": width, "max_position_embeddings": longest,
            "type_vocab_size": types, "intermediate_size": hidden, "num_labels": labels,
            "num_hidden_layers": block_count(shapes, _LAYER), "timesteps": steps, "stored_steps": steps,
        }  # fmt: skip
        return cls(**{**found, **given})

    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``."""
        keys = ("num_attention_heads", "timesteps", "input_bits", "layer_norm_eps")
        return {key: getattr(self, key) for key in keys}


def _amplitudes(site: str, steps: int) -> list[str]:
    return [f"{site}.{t}" for t in range(steps)]


class SpikeLM(Family):
    """The family: sentences as BERT reads them, computed over all steps at once."""

    config_class: ClassVar[type[ModelConfig]] = SpikeLMConfig
    prefixes: ClassVar[tuple[str, ...]] = (*Family.prefixes, "student.")

    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``."""
        return WORDS in names and f"{_LAYER}0.{_QUERY}{_ACT}.0" in names

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``Family``: without two kinds of buffers that hold nothing of their own."""
        return {n: t for n, t in stored.items() if n != _POSITION_IDS and not n.endswith(_CONSTANT)}

    def expanded(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See ``Family``."""
        cfg = _own(config)
        maps = [f"{_LAYER}{i}.{part}" for i in range(cfg.blocks) for part in _LINEAR]
        buffers = {f"{name}{_CONSTANT}": torch.ones(1) for name in maps}
        return {**tensors, _POSITION_IDS: torch.arange(cfg.max_position_embeddings)[None], **buffers}

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``."""
        family = values.get("model_type") or self.name
        if family not in (self.name, "bert"):
            raise ModelError(
                f"model_type {shown(family)} is another family than {self.name!r}, whose tensors these are."
            )
        return super().declared(values)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """See ``Family``."""
        return {**super().config_json(config), "T": config.timesteps}

    def encoding(self, config: ModelConfig) -> Encoding:
        """See ``Family``: [CLS] sentence [SEP]."""
        return Encoding(special=True, longest=config.longest)

    # ------------------------------------------------------------------------------------- arithmetic
    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``."""
        inside = [f"{_LAYER}{i}.{part}" for i in range(config.blocks) for part in _LINEAR]
        return dict.fromkeys((f"{name}.weight" for name in (*inside, POOLER, CLASSIFIER)), False)

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``."""
        return WORDS, POSITIONS, TYPES

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``: [S, B, T, D], the same at every step."""
        cfg, ids = _own(config), inputs.ids
        places = torch.arange(ids.shape[1], device=ids.device)
        x = rows_of(p[WORDS], ids) + rows_of(p[TYPES], torch.zeros_like(places[:1]))
        x = norm(p, f"{EMBEDDINGS}LayerNorm", x + rows_of(p[POSITIONS], places), cfg.layer_norm_eps)
        return x.expand(cfg.timesteps, *x.shape)

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``."""
        block = _Block(p, _own(config), f"{_LAYER}{i}.", ops, fired)
        x = block.normed(_NORMS[0], x + block.map(_MIXED, block.mixed(x, inputs)))
        return block.normed(_NORMS[1], x + block.map(_OUT, gelu(block.map(_HIDDEN, x))))

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: [B, D], of the mean over the steps at position 0."""
        return torch.tanh(affine(p, POOLER, x[:, :, 0].mean(dim=0), ops))

    def class_logits(
        self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops
    ) -> Tensor:
        """See ``Family``."""
        return affine(p, CLASSIFIER, h, ops)


@dataclass(frozen=True)
class _Block:
    """The parts of one block. Activations are [S, B, T, …]."""

    p: Tensors
    cfg: SpikeLMConfig
    name: str
    ops: Ops
    fired: Fired

    def spikes(self, site: str, x: Tensor, leak: float) -> Tensor:
        """Return the spikes that a site makes of ``x``."""
        site = self.name + site
        amplitudes = [self.p[name] for name in _amplitudes(site, self.cfg.timesteps)]
        fire = self.ops.ternary if self.cfg.input_bits == 2 else self.ops.bipolar
        found: Tensor = fire(x, amplitudes, leak)
        self.fired.add(site, found)
        return found

    def map(self, part: str, x: Tensor) -> Tensor:
        """Return ``W o + b`` of the spikes o that the map makes of its input."""
        return affine(self.p, self.name + part, self.spikes(part + _ACT, x, LEAK), self.ops)

    def normed(self, part: str, x: Tensor) -> Tensor:
        return norm(self.p, self.name + part, x, INNER_EPS)

    def mixed(self, x: Tensor, inputs: Inputs) -> Tensor:
        """Return what attention mixes of the values, step by step; nothing attends to padding."""
        heads = self.cfg.num_attention_heads
        queries = self.map(_QUERY, x)
        keys = self.spikes(_CLIP_KEY, self.map(_KEY, x), 0)
        values = self.spikes(_CLIP_VALUE, self.map(_VALUE, x), 0)
        q, k, v = (split_heads(z.flatten(0, 1), heads) for z in (queries, keys, values))  # (S·B, heads, T, …)
        inside = inputs.inside()
        seen = None if inside is None else inside.repeat(len(x), 1)[:, None, None]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        found: Tensor = merge_heads(mixed).unflatten(0, x.shape[:2])
        return found


def _own(config: ModelConfig) -> SpikeLMConfig:
    assert isinstance(config, SpikeLMConfig)
    return config
