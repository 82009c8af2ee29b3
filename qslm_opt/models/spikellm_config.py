"""SpikeLLM's sizes, semantics and tensors: LLaMA's names, and the integer spikes in front of its matrices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qslm_opt.errors import ModelError
from qslm_opt.models.config import MOST_BLOCKS, MOST_SIZE, ModelConfig, Site, block_count, shown

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.models.config import Kind, Shapes

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
MATRICES = (*(f"self_attn.{m}" for m in ATTENTION), *(f"mlp.{m}" for m in MLP))
"""The matrices of a block, in the order in which they are computed; spikes stand in front of each."""
NORMS = ("input_layernorm", "post_attention_layernorm")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")
ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
MOST_ACTIVATION_BITS = 12
"""Most bits of an activation, the added ones among them; with more, zero points pass the original's bound."""
_LAYERS = "model.layers."
_POSITIVE = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
"""Keys of ``rope_scaling`` that are divided by."""
_NOT_NEGATIVE = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
_FACTORS = ("short_factor", "long_factor")
_MOST_ROPE = 1e30


@dataclass(frozen=True)
class SpikeLLMConfig(ModelConfig):
    """Sizes and semantics of one LLaMA whose matrices may read integer spikes; most keys are LLaMA's own."""

    family: ClassVar[str] = "spikellm"
    title: ClassVar[str] = "SpikeLLM"
    untold: ClassVar[tuple[str, ...]] = ("num_attention_heads",)
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "vocab_size": (1, MOST_SIZE), "hidden_size": (1, MOST_SIZE), "intermediate_size": (1, MOST_SIZE),
        "num_hidden_layers": (1, MOST_BLOCKS), "num_attention_heads": (1, MOST_SIZE),
        "num_key_value_heads": (0, MOST_SIZE), "head_dim": (0, MOST_SIZE), "rms_norm_eps": (0, 1e30),
        "rope_theta": (1, 1e30), "max_position_embeddings": (1, MOST_SIZE),
        "activation_bits": (0, MOST_ACTIVATION_BITS), "added_bits": (0, MOST_ACTIVATION_BITS),
        "salient_share": (0, 1),
    }  # fmt: skip

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0
    """Heads of keys and values; 0 means ``num_attention_heads``."""
    head_dim: int = 0
    """Width of a head; 0 means ``hidden_size / num_attention_heads``."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: str = ""
    """LLaMA's ``rope_scaling`` as JSON text; empty where there is none."""
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    activation_bits: int = 0
    """Bits of the integer spikes in front of every matrix of a block; 0: none, a plain LLaMA."""
    added_bits: int = 0
    """More bits for salient channels, which SpikeLLM reads as 2^added_bits steps."""
    salient_share: float = 0.0
    """Share of the input channels of a matrix that are salient."""
    salient_known: bool = False
    """Whether the tensors say which channels are salient; else a calibration text has to."""

    def __post_init__(self) -> None:
        self.check_bounds()
        if self.num_key_value_heads == 0:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        self._check_heads()
        if self.hidden_act not in ACTIVATIONS:
            raise ModelError(f"hidden_act {shown(self.hidden_act)} is unknown; use one of {ACTIVATIONS}.")
        self.rope()
        self._check_spikes()

    def _check_heads(self) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % groups or self.head_dim % 2 or self.head_dim < 2:
            raise ModelError(
                f"num_attention_heads {heads} must divide hidden_size {self.hidden_size}, "
                f"num_key_value_heads {groups} must divide the heads, and head_dim {self.head_dim} must be "
                "even and at least 2; correct them in config.json, or by --config KEY=VALUE."
            )

    def _check_spikes(self) -> None:
        bits = self.activation_bits
        if not bits and (self.added_bits or self.salient_share):
            raise ModelError(
                f"added_bits {self.added_bits} and salient_share {self.salient_share:g} say how spikes are "
                "made, and activation_bits 0 makes none; give activation_bits too, or leave them out."
            )
        if bits + self.added_bits > MOST_ACTIVATION_BITS:
            raise ModelError(
                f"activation_bits {bits} and added_bits {self.added_bits} are {bits + self.added_bits} bits "
                f"together; at most {MOST_ACTIVATION_BITS} can be: give fewer of either, --config KEY=VALUE."
            )

    def rope(self) -> dict[str, Any]:
        """Return ``rope_scaling`` as LLaMA's config.json has it; ModelError where it is none."""
        if not self.rope_scaling:
            return {}
        try:
            value = json.loads(self.rope_scaling)
        except (ValueError, RecursionError):
            value = None
        kind = value.get("rope_type") if isinstance(value, dict) else None
        if kind not in ROPES:
            raise ModelError(
                f"rope_scaling {self.rope_scaling[:80]!r} is no JSON object whose rope_type is one of "
                f"{', '.join(ROPES)}; correct it."
            )
        _check_rope(value, self.head_dim)
        return dict(value)

    @property
    def spikes(self) -> bool:
        """Whether matrices read integer spikes."""
        return self.activation_bits > 0

    @property
    def has_salient(self) -> bool:
        """Whether some channels have more bits than others."""
        return self.spikes and self.salient_share > 0 and self.added_bits > 0

    # -------------------------------------------------------------------------------------- structure
    def inputs(self, matrix: str) -> int:
        """Return the numbers per token that a matrix of ``MATRICES`` reads."""
        if matrix == "self_attn.o_proj":
            return self.num_attention_heads * self.head_dim
        return self.intermediate_size if matrix == "mlp.down_proj" else self.hidden_size

    def outputs(self, matrix: str) -> int:
        """Return the rows of a matrix of ``MATRICES``."""
        name = matrix.partition(".")[2]
        if name == "q_proj":
            return self.num_attention_heads * self.head_dim
        if name in ("k_proj", "v_proj"):
            return self.num_key_value_heads * self.head_dim
        return self.intermediate_size if name in ("gate_proj", "up_proj") else self.hidden_size

    def matrix_shapes(self, i: int, matrix: str) -> dict[str, tuple[int, ...]]:
        """Return the tensors of one matrix of block i: weight, bias, and which input channels are salient."""
        name, rows, width = f"{_LAYERS}{i}.{matrix}", self.outputs(matrix), self.inputs(matrix)
        found: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, width)}
        if self.attention_bias if matrix.startswith("self_attn") else self.mlp_bias:
            found[f"{name}.bias"] = (rows,)
        if self.salient_known:
            found[f"{name}.salient"] = (width,)
        return found

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``."""
        d = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab_size, d)}
        for i in range(self.num_hidden_layers):
            for matrix in MATRICES:
                shapes |= self.matrix_shapes(i, matrix)
            shapes |= {f"{_LAYERS}{i}.{norm}.weight": (d,) for norm in NORMS}
        return shapes | {NORM: (d,), HEAD: (self.vocab_size, d)}

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``."""
        modules = {"input/embed_tokens": [EMBEDDING]}
        for i in range(self.num_hidden_layers):
            parts = (NORMS[0], *MATRICES[: len(ATTENTION)], NORMS[1], *MATRICES[len(ATTENTION) :])
            for part in parts:
                own = [f"{_LAYERS}{i}.{part}.weight"] if part in NORMS else list(self.matrix_shapes(i, part))
                modules[f"attention.{i}/{part}"] = own
        return modules | {"output/norm": [NORM], "output/lm_head": [HEAD]}

    def role(self, name: str) -> Role:
        """See ``ModelConfig``."""
        if name == EMBEDDING:
            return "embedding"
        if name == HEAD:
            return "head"
        if name.endswith(".salient"):
            return "neuron"
        if name.endswith(".bias"):
            return "bias"
        return "norm" if name.endswith("norm.weight") else "matrix"

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``: everything; language modelling is the only task."""
        return True

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``: the inputs of every matrix of a block, where they are integer spikes."""
        if not self.spikes:
            return {}
        return {
            f"{_LAYERS}{i}.{matrix}": Site(i, self.inputs(matrix))
            for i in range(self.num_hidden_layers)
            for matrix in MATRICES
        }

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
    def generates(self) -> bool:
        """See ``ModelConfig``."""
        return True

    @property
    def longest(self) -> int:
        """See ``ModelConfig``."""
        return self.max_position_embeddings

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``."""
        return self.hidden_size

    @property
    def widest(self) -> int:
        """See ``ModelConfig``."""
        inside = 6 * self.hidden_size + 4 * self.intermediate_size
        return inside + (4 * max(self.hidden_size, self.intermediate_size) if self.spikes else 0)

    def describe(self) -> str:
        """See ``ModelConfig``."""
        heads = f"{self.num_attention_heads} heads"
        if self.num_key_value_heads != self.num_attention_heads:
            heads += f" ({self.num_key_value_heads} of keys and values)"
        return f"LLaMA, {self.num_hidden_layers} blocks of width {self.hidden_size}, {heads}{self._spiking()}"

    def _spiking(self) -> str:
        if not self.spikes:
            return ""
        more = f", {self.salient_share:.0%} of channels {self.added_bits} more" if self.has_salient else ""
        return f", integer spikes of {self.activation_bits} bits{more}"

    # ------------------------------------------------------------------------------- reading, writing
    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``."""
        keys = (
            "num_attention_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act",
            "max_position_embeddings", "activation_bits", "added_bits", "salient_share",
        )  # fmt: skip
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_shapes(cls, shapes: Shapes, **given: Any) -> SpikeLLMConfig:
        """See ``ModelConfig``; heads and rope settings stand in no shape, and come from ``given``."""
        cls.check_keys(given)
        embedding = shapes.get(EMBEDDING, ())
        blocks = block_count(shapes, _LAYERS)
        first = f"{_LAYERS}0."
        query, key = (shapes.get(f"{first}self_attn.{m}.weight") for m in ("q_proj", "k_proj"))
        gate = shapes.get(f"{first}mlp.gate_proj.weight")
        if len(embedding) != 2 or not blocks or query is None or key is None or gate is None:
            raise ModelError(
                f"the checkpoint is no {cls.title}: it has no two-dimensional {EMBEDDING!r}, or no complete "
                f"{first}*; give a checkpoint with LLaMA's names."
            )
        heads = given.get("num_attention_heads")
        if heads is None:
            raise ModelError(
                "the number of attention heads stands in no shape; put the model's config.json beside the "
                "weights, or give --config num_attention_heads=N."
            )
        head_dim = given.get("head_dim") or max(1, query[0] // heads)
        inferred = {
            "vocab_size": embedding[0],
            "hidden_size": embedding[1],
            "intermediate_size": gate[0],
            "num_hidden_layers": blocks,
            "head_dim": head_dim,
            "num_key_value_heads": key[0] // head_dim,
            "attention_bias": f"{first}self_attn.q_proj.bias" in shapes,
            "mlp_bias": f"{first}mlp.gate_proj.bias" in shapes,
            "salient_known": f"{first}self_attn.q_proj.salient" in shapes,
        }
        return cls(**{**inferred, **given})


def _check_rope(scaling: Mapping[str, Any], head_dim: int) -> None:
    """Raise ModelError for a number of ``rope_scaling`` that cannot be; what is missing transformers says."""
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        value = scaling.get(key)
        if value is not None and not (_is_number(value) and (value > 0 or key in _NOT_NEGATIVE)):
            least = "above 0" if key in _POSITIVE else "of at least 0"
            raise _wrong_rope(key, value, f"a number {least} and at most {_MOST_ROPE:g}")
    for key in _FACTORS:
        value = scaling.get(key)
        wanted = head_dim // 2
        if value is not None and not (
            isinstance(value, list) and len(value) == wanted and all(_is_number(v) and v > 0 for v in value)
        ):
            raise _wrong_rope(key, value, f"a list of {wanted} numbers above 0, half of head_dim {head_dim}")
    share = scaling.get("partial_rotary_factor")
    if share is not None and share != 1:
        raise _wrong_rope("partial_rotary_factor", share, "1, for a LLaMA rotates whole heads")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _MOST_ROPE


def _wrong_rope(key: str, value: Any, wanted: str) -> ModelError:
    return ModelError(
        f"rope_scaling has {key} {shown(value)}; it must be {wanted}: correct it in config.json, or give "
        "--config rope_scaling=JSON."
    )


def declared_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``rope_theta`` and ``rope_scaling`` of a config.json: transformers 4's keys, or 5's one.

    A ``rope_scaling`` of null, or of the default kind, says that there is none.

    Raises:
        ModelError: a rope key is no JSON object.
    """
    found: dict[str, Any] = {}
    if values.get("rope_theta") is not None:
        found["rope_theta"] = values["rope_theta"]
    for key in ("rope_scaling", "rope_parameters"):
        scaling = values.get(key)
        if key in values and not isinstance(values.get("rope_scaling"), str):
            found.setdefault("rope_scaling", "")
        if scaling is None or isinstance(scaling, str):
            continue
        if not isinstance(scaling, Mapping):
            raise ModelError(f"{key} is {str(scaling)[:80]!r}, and no object of rope settings; correct it.")
        own = {("rope_type" if k == "type" else k): v for k, v in scaling.items()}
        theta = own.pop("rope_theta", None)
        if theta is not None:
            found["rope_theta"] = theta
        if own.get("rope_type", "default") != "default":
            found["rope_scaling"] = json.dumps(own, sort_keys=True)
    return found
