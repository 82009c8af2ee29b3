"""SpikeBERT: a spiking transformer that classifies; every token is presented over S time steps.

Shapes: B sentences, T tokens, S steps, D width, F hidden width, H heads of d = D / H numbers.

    x = H(emb[ids])  at every step                              H(x) = 1 if x ≥ 0 else 0
    q, k, v = LIF(LN(W x + b)) each;  y = LIF½(c · (q kᵀ) v)  per head;  x = x + LIF(LN(W y + b))
    x = x + LIF(LN(W₂ LIF(LN(W₁ x + b₁)) + b₂))                              once per block
    logits = classifier(mean over steps and tokens of LN(x))

There is no softmax, no mask and no position: sentences are padded to ``length``, and pads are tokens like
others, all alike, so that one is computed for all of a sentence. Where a batch alone is padded, its pads
count nowhere, and a sentence gives what it gives unpadded.
The stream is [S, B, T, D]; in front of block 0 its steps are equal, and it is [1, B, T, D].
Source: Lv et al., SpikeBERT (arXiv 2308.15122) and the behaviour of its released code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

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
from qslm_opt.models.family import Encoding, Family, Fired, Inputs
from qslm_opt.models.parts import affine, merge_heads, norm, split_heads

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import Kind, Shapes
    from qslm_opt.models.family import Tensors

EMB, CLASSIFIER = "emb.weight", "classifier"
_MOST_LENGTH = 4096
_ATTENTION = {part: (f"attn.{part}_m", f"attn.{part}_ln") for part in ("q", "k", "v", "last")}
_MLP = {"1": ("mlp.fc1", "mlp.ln1"), "2": ("mlp.fc2", "mlp.ln2")}


@dataclass(frozen=True)
class SpikeBERTConfig(ModelConfig):
    """Sizes and semantics of one SpikeBERT, in the authors' words."""

    family: ClassVar[str] = "spikebert"
    title: ClassVar[str] = "SpikeBERT"
    words: ClassVar[Mapping[str, str]] = {
        "T": "timesteps", "hidden_size": "dim", "num_hidden_layers": "depths", "num_labels": "num_classes",
        "intermediate_size": "hidden", "num_attention_heads": "heads",
    }  # fmt: skip
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "vocab_size": (1, MOST_SIZE), "depths": (1, MOST_BLOCKS), "dim": (1, MOST_SIZE // 4),
        "num_classes": (1, MOST_SIZE), "hidden": (0, MOST_SIZE), "heads": (1, MOST_SIZE),
        "timesteps": (1, MOST_STEPS), "tau": (1, 1e6), "common_thr": (1e-6, 1e6), "qk_scale": (1e-6, 1e6),
        "length": (2, _MOST_LENGTH),
    }  # fmt: skip

    vocab_size: int
    depths: int
    dim: int
    num_classes: int
    hidden: int = 0
    """Hidden width of the MLP; 0 means 4·dim."""
    transforms: bool = False
    """Whether the checkpoint holds the maps that only distillation reads."""
    heads: int = 8
    timesteps: int = 4
    tau: float = 2.0
    common_thr: float = 1.0
    """Threshold of every neuron but those behind the attention product, which have half of it."""
    qk_scale: float = 0.125
    length: int = 128
    """Ids that every sentence is cut or padded to."""

    def __post_init__(self) -> None:
        self.check_bounds()
        if self.hidden == 0:
            object.__setattr__(self, "hidden", 4 * self.dim)
        for key in ("tau", "common_thr", "qk_scale"):
            object.__setattr__(self, key, float(getattr(self, key)))
        if self.dim % self.heads:
            raise ModelError(
                f"config key 'heads' is {self.heads}; it must divide the width {self.dim}: correct "
                "config.json, or give --config heads=N."
            )

    @property
    def blocks(self) -> int:
        """See ``ModelConfig``."""
        return self.depths

    @property
    def vocabulary(self) -> int:
        """See ``ModelConfig``."""
        return self.vocab_size

    @property
    def labels(self) -> int:
        """See ``ModelConfig``."""
        return self.num_classes

    @property
    def longest(self) -> int:
        """See ``ModelConfig``."""
        return self.length

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``."""
        return self.timesteps * self.dim

    @property
    def widest(self) -> int:
        """See ``ModelConfig``: in the attention, or between the MLP's two matrices."""
        return self.timesteps * (max(5 * self.dim, 3 * self.hidden) + 3 * self.dim)

    def describe(self) -> str:
        """See ``ModelConfig``."""
        return f"SpikeBERT, {self.depths} blocks of width {self.dim}, {self.timesteps} time steps"

    # -------------------------------------------------------------------------------------- structure
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``; in the authors' order."""
        d, f, shapes = self.dim, self.hidden, dict[str, tuple[int, ...]]({EMB: (self.vocab_size, self.dim)})
        sizes = [(part, d, d) for part in _ATTENTION.values()]
        sizes += [(_MLP["1"], f, d), (_MLP["2"], d, f)]
        for i in range(self.depths):
            for (matrix, ln), out, width in sizes:
                shapes.update(affine_shapes(f"blocks.{i}.{matrix}", out, width))
                shapes.update(norm_shapes(f"blocks.{i}.{ln}", out))
        shapes.update(norm_shapes("last_ln", d))
        for i in range(self.depths if self.transforms else 0):
            shapes.update(affine_shapes(f"transforms.{i}.fc", d, d))
            shapes.update(norm_shapes(f"transforms.{i}.ln", d))
        shapes.update(affine_shapes(CLASSIFIER, self.num_classes, d))
        return shapes

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``."""
        modules = {"input/emb": [EMB]}
        for i in range(self.depths):
            for part in (part for both in (*_ATTENTION.values(), *_MLP.values()) for part in both):
                modules[f"attention.{i}/{part}"] = pair(f"blocks.{i}.{part}")
        modules |= {"output/last_ln": pair("last_ln"), f"output/{CLASSIFIER}": pair(CLASSIFIER)}
        for i in range(self.depths if self.transforms else 0):
            modules |= {f"aux/transforms.{i}.{part}": pair(f"transforms.{i}.{part}") for part in ("fc", "ln")}
        return modules

    def role(self, name: str) -> Role:
        """See ``ModelConfig``."""
        if name == EMB:
            return "embedding"
        module, _, kind = name.rpartition(".")
        if re.search(r"[._]ln\d?$", module):
            return "norm"
        if kind == "bias":
            return "bias"
        return "head" if module == CLASSIFIER else "matrix"

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``."""
        return not name.startswith("transforms.")

    def reads_sign_only(self, name: str) -> bool:
        """See ``ModelConfig``."""
        return name == EMB

    def lean(self, kind: Kind) -> SpikeBERTConfig:
        """See ``ModelConfig``."""
        return replace(self, transforms=False)

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``."""
        found = {"input": Site(None, self.dim)}
        for i in range(self.depths):
            for part in ("q", "k", "v", "attn", "last"):
                found[f"blocks.{i}.attn.{part}_lif"] = Site(i, self.dim)
            found[f"blocks.{i}.mlp.lif1"] = Site(i, self.hidden)
            found[f"blocks.{i}.mlp.lif2"] = Site(i, self.dim)
        return found

    # ------------------------------------------------------------------------------- reading, writing
    @classmethod
    def from_shapes(cls, shapes: Shapes, **given: Any) -> SpikeBERTConfig:
        """See ``ModelConfig``."""
        cls.check_keys(given)
        emb, classifier = shapes.get(EMB, ()), shapes.get(f"{CLASSIFIER}.weight", ())
        if len(emb) != 2 or len(classifier) != 2:
            raise ModelError(
                f"the checkpoint is no SpikeBERT: {EMB!r} or '{CLASSIFIER}.weight' is missing or no matrix; "
                "give a SpikeBERT checkpoint with the authors' names."
            )
        inferred = {
            "vocab_size": emb[0],
            "dim": emb[1],
            "depths": block_count(shapes, "blocks."),
            "num_classes": classifier[0],
            "hidden": next(iter(shapes.get("blocks.0.mlp.fc1.weight", (0,))), 0),
            "transforms": any(name.startswith("transforms.") for name in shapes),
        }
        return cls(**{**inferred, **given})

    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``."""
        keys = ("heads", "timesteps", "tau", "common_thr", "qk_scale", "length")
        return {key: getattr(self, key) for key in keys}


class SpikeBERT(Family):
    """The family: sentences, each padded to one length."""

    config_class: ClassVar[type[ModelConfig]] = SpikeBERTConfig

    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``."""
        return EMB in names and any(n.startswith("blocks.") and ".attn.q_m." in n for n in names)

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``."""
        family = values.get("model_type") or self.name
        if family != self.name:
            raise ModelError(
                f"model_type {shown(family)} is another family than {self.name!r}, whose tensors these are."
            )
        return super().declared(values)

    def encoding(self, config: ModelConfig) -> Encoding:
        """See ``Family``."""
        return Encoding(True, config.longest, config.longest, pads_alike=True)

    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``."""
        roles = {name: config.role(name) for name in config.tensor_shapes() if config.is_live(name, "lm")}
        return dict.fromkeys((name for name, role in roles.items() if role in ("matrix", "head")), False)

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``."""
        return (EMB,)

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``: [1, B, T, D], the same at every step."""
        spikes = ops.heaviside(rows_of(p[EMB], inputs.ids))[None]
        fired.add("input", spikes.expand(config.timesteps, -1, -1, -1))
        return spikes

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``: [S, B, T, D]."""
        block = _Block(p, _own(config), f"blocks.{i}.", inputs.weights(), ops, fired)
        return block.mlp(block.attention(x))

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: the mean over steps and tokens [B, D]."""
        h, weights = norm(p, "last_ln", x).mean(dim=0), inputs.weights()  # (B, T, D)
        if weights is None:
            return h.mean(dim=1)
        return (h * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)

    def class_logits(self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``."""
        return affine(p, CLASSIFIER, h, ops)


@dataclass(frozen=True)
class _Block:
    """One block over all steps."""

    p: Tensors
    config: SpikeBERTConfig
    name: str
    weights: Tensor | None
    """(B, T), see ``Inputs.weights``."""
    ops: Ops
    fired: Fired

    def attention(self, x: Tensor) -> Tensor:
        """Return ``x`` with the spikes of the attention added [S, B, T, D]."""
        cfg = self.config
        q, k, v = (
            split_heads(self._spikes(x, _ATTENTION[part], f"attn.{part}_lif"), cfg.heads) for part in "qkv"
        )  # (S, B, H, T, d)
        if self.weights is not None:
            v = v * self.weights[:, None, :, None]
        # Spikes are 0 or 1 and products of them whole numbers: both orders give the same bits.
        y = q @ (k.mT @ v) if q.shape[-1] < q.shape[-2] else (q @ k.mT) @ v
        y = self._fire(merge_heads(y) * cfg.qk_scale, cfg.common_thr / 2, "attn.attn_lif")
        return x + self._spikes(y, _ATTENTION["last"], "attn.last_lif")

    def mlp(self, x: Tensor) -> Tensor:
        """Return ``x`` with the spikes of the MLP added [S, B, T, D]."""
        return x + self._spikes(self._spikes(x, _MLP["1"], "mlp.lif1"), _MLP["2"], "mlp.lif2")

    def _spikes(self, x: Tensor, tensors: tuple[str, str], site: str) -> Tensor:
        """Return ``LIF(LN(W x + b))`` [S, B, T, N]; what is the same at every step is computed once."""
        matrix, ln = (self.name + part for part in tensors)
        current = norm(self.p, ln, affine(self.p, matrix, x, self.ops))
        if len(current) == 1:
            current = current.expand(self.config.timesteps, *current.shape[1:])
        return self._fire(current, self.config.common_thr, site)

    def _fire(self, current: Tensor, threshold: float, site: str) -> Tensor:
        spikes, v = self.ops.fire(current, Neuron(self.config.tau, threshold))
        self.fired.add(self.name + site, spikes, v)
        return spikes


def _own(config: ModelConfig) -> SpikeBERTConfig:
    assert isinstance(config, SpikeBERTConfig)
    return config
