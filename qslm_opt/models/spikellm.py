"""SpikeLLM: transformers' LLaMA, each matrix of a block behind integer spikes of its inputs.

The decoder layers are transformers' own modules, made anew for every call without any weight; their seven
linear maps and two norms read the tensors that the call is about, so the forward pass is a pure function of
them. Without ``activation_bits`` this is a plain LLaMA. Shapes: B windows, T tokens, D width.

    x = E[ids];  n = norm(x);  x = x + o(attention(q(n), k(n), v(n)))
                 m = norm(x);  x = x + down(act(gate(m))·up(m))              once per block
    q(n) = W·spikes(n) + b, and so for each of the seven;  logits = head(norm(x))

What the released code spikes besides, the operands of q·kᵀ and p·v, is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from qslm_opt.errors import ModelError, in_a_line
from qslm_opt.models.config import shown
from qslm_opt.models.family import Family, Fired, Inputs, Tensors
from qslm_opt.models.spikellm_config import (
    EMBEDDING,
    HEAD,
    MATRICES,
    NORM,
    NORMS,
    SpikeLLMConfig,
    declared_rope,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import LlamaConfig

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import ModelConfig

    Linear = Callable[[str, Tensor], Tensor]
    """(matrix of ``MATRICES``, its inputs [B, T, K]) → its outputs [B, T, N]."""
    Rotation = tuple[Tensor, Tensor]
    Moments = Callable[[ModelConfig], Mapping[str, Tensor]]

MODEL_TYPES = ("spikellm", "llama")
_SCORED, _VALUES = ("self_attn.q_proj", "self_attn.k_proj"), "self_attn.v_proj"
_POSITIONS = ".rotary_emb.inv_freq"
"""What checkpoints of transformers before 4.32 hold besides weights."""


@lru_cache(maxsize=8)
def llama_config(cfg: SpikeLLMConfig) -> LlamaConfig:
    """Return transformers' config of the model; ModelError where transformers refuses it."""
    from transformers import LlamaConfig

    own = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "hidden_act",
        "attention_bias", "mlp_bias", "tie_word_embeddings",
    )  # fmt: skip
    keys: dict[str, Any] = {key: getattr(cfg, key) for key in own}
    keys |= {"rope_theta": float(cfg.rope_theta), "rope_scaling": cfg.rope() or None}
    keys["attn_implementation"] = "sdpa"
    try:
        return LlamaConfig(**keys)
    except Exception as error:  # noqa: BLE001 - the hub's own among them, by whatever class it has today
        raise ModelError(
            f"transformers refuses this LLaMA's config{_of_rope(cfg)} ({in_a_line(error)}); correct "
            "config.json."
        ) from None


@lru_cache(maxsize=8)
def positions(cfg: SpikeLLMConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> Rotation:
    """Return the cosines and sines [1, T, head_dim] that rotate queries and keys of T tokens.

    Raises:
        ModelError: ``rope_scaling`` cannot be computed, or is of another width than the heads.
    """
    import torch

    llama_config(cfg)
    try:  # on the CPU, where nothing but the numbers can fail
        width = _rotation(cfg, tokens, torch.device("cpu"), dtype)[0].shape[-1]
    except Exception as error:  # noqa: BLE001 - what transformers makes of numbers that cannot be
        raise ModelError(
            f"the rotary positions{_of_rope(cfg)} cannot be computed ({in_a_line(error)}); correct "
            "config.json."
        ) from None
    if width != cfg.head_dim:
        raise ModelError(
            f"the rotary positions{_of_rope(cfg)} are {width} wide and must be as wide as a head, "
            f"{cfg.head_dim}; correct config.json."
        )
    return _rotation(cfg, tokens, device, dtype)


def _rotation(cfg: SpikeLLMConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> Rotation:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    with torch.inference_mode(False), torch.no_grad():  # they are kept, and tuning reads them too
        rotary: Any = LlamaRotaryEmbedding(llama_config(cfg)).to(device)
        like = torch.empty(0, dtype=dtype, device=device)
        found: Rotation = rotary(like, torch.arange(tokens, device=device)[None])
    return found


def _of_rope(cfg: SpikeLLMConfig) -> str:
    return f" with rope_scaling {shown(cfg.rope_scaling)}" if cfg.rope_scaling else ""


def decoder_layer(cfg: SpikeLLMConfig, linear: Linear) -> nn.Module:
    """Return transformers' decoder layer without weights, its linear maps replaced by ``linear``."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    with torch.device("meta"):
        layer: nn.Module = LlamaDecoderLayer(llama_config(cfg), 0).eval()
    for matrix in MATRICES:
        part, _, name = matrix.partition(".")
        setattr(layer.get_submodule(part), name, _swapped(partial(linear, matrix)))
    return layer


def _swapped(compute: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a module that has no weight and calls ``compute``."""
    from torch import nn

    module = nn.Module()
    module.forward = compute
    return module


class Spiking:
    """The linear maps of one block in one call: spikes, then the product. Equal inputs spike once."""

    def __init__(self, p: Tensors, cfg: SpikeLLMConfig, i: int, ops: Ops, fired: Fired) -> None:
        self._p, self._cfg, self._ops, self._fired = p, cfg, ops, fired
        self._name = f"model.layers.{i}."
        self._scored: Tensor | float = 0.0
        """0 for every token [B, T, 1], NaN where its query or key is not finite."""
        self._seen: Tensor | None = None
        self._levels: list[Tensor] = []
        """What the spikes of the inputs seen last stand for: at the plain bits, and at the added ones."""

    def __call__(self, matrix: str, x: Tensor) -> Tensor:
        """Return ``W·spikes(x) + b``."""
        name = self._name + matrix
        if self._cfg.spikes:
            x = self._spike(name, x)
        y = self._ops.affine(x, self._p[f"{name}.weight"], self._p.get(f"{name}.bias"))
        return self._showing(matrix, y)

    def _showing(self, matrix: str, y: Tensor) -> Tensor:
        """Return what a matrix gave; values of tokens whose query or key is not a number are none either.

        Attention kernels may give finite numbers for them, and nothing else would tell.
        """
        if matrix in _SCORED:
            self._scored = self._scored + y.sum(dim=-1, keepdim=True) * 0
        return y + self._scored if matrix == _VALUES else y

    def _spike(self, name: str, x: Tensor) -> Tensor:
        if self._seen is not x:
            self._seen, self._levels = x, [self._level(x, bits) for bits in self._bits()]
        values = self._levels[0]
        if self._cfg.has_salient:
            values = values.lerp(self._levels[1], self._p[f"{name}.salient"])  # exact at 0 and 1
        self._fired.add(name, values)  # no spike is so small that its value is 0
        return values

    def _bits(self) -> tuple[int, ...]:
        cfg = self._cfg
        return (cfg.activation_bits, cfg.activation_bits + cfg.added_bits)[: 1 + cfg.has_salient]

    def _level(self, x: Tensor, bits: int) -> Tensor:
        from qslm_opt.kernels.fire.integer import integer_spikes

        return integer_spikes(x, bits, self._ops.rounding).values()


class SpikeLLM(Family):
    """The family: whole windows of language modelling."""

    config_class: ClassVar[type[ModelConfig]] = SpikeLLMConfig

    # ---------------------------------------------------------------------------------------- reading
    def recognises(self, names: Collection[str]) -> bool:
        """See ``Family``."""
        return EMBEDDING in names and any(name.endswith(".self_attn.q_proj.weight") for name in names)

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """See ``Family``; a head that config.json ties to the embedding need not be stored."""
        import torch

        found = {name: tensor for name, tensor in stored.items() if not name.endswith(_POSITIONS)}
        if values.get("tie_word_embeddings") and EMBEDDING in found:
            own = found.get(HEAD)
            if own is not None and not torch.equal(own, found[EMBEDDING]):
                raise ModelError(
                    f"config.json ties {HEAD!r} to {EMBEDDING!r}, and the checkpoint has other numbers under "
                    "each; set tie_word_embeddings to false, or remove the head."
                )
            found[HEAD] = found[EMBEDDING]
        return found

    def expanded(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See ``Family``; a head that is tied is stored once."""
        tied = _own(config).tie_word_embeddings
        return {name: tensor for name, tensor in tensors.items() if not (tied and name == HEAD)}

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Family``: the config.json of a LLaMA, with or without SpikeLLM's own keys."""
        kind = values.get("model_type") or self.name
        if kind not in MODEL_TYPES:
            raise ModelError(
                f"model_type {shown(kind)} is another family than {' or '.join(MODEL_TYPES)}, "
                "whose tensors these are."
            )
        plain = {k: v for k, v in values.items() if k != "rope_scaling" or isinstance(v, str)}
        return {**super().declared(plain), **declared_rope(values)}

    def declared_ties(self, values: Mapping[str, Any]) -> dict[str, str]:
        """See ``Family``."""
        return {HEAD: EMBEDDING} if values.get("tie_word_embeddings") else {}

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """See ``Family``; transformers reads it as a LLaMA's."""
        cfg = _own(config)
        values = {**cfg.to_dict(), "rope_scaling": cfg.rope() or None}
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **values}

    def needs_text(self, config: ModelConfig) -> bool:
        """See ``Family``: where some channels are salient, and the checkpoint does not say which."""
        cfg = _own(config)
        return cfg.has_salient and not cfg.salient_known

    def calibrated(
        self, config: ModelConfig, tensors: Mapping[str, Tensor], moments: Moments
    ) -> tuple[ModelConfig, dict[str, Tensor]]:
        """See ``Family``: the salient channels of every matrix, by what the plain LLaMA's matrices read."""
        from qslm_opt.kernels.fire.integer import salient_channels

        cfg = _own(config)
        read = moments(replace(cfg, activation_bits=0, added_bits=0, salient_share=0.0))
        known = replace(cfg, salient_known=True)
        masks = {
            f"{name}.salient": salient_channels(
                tensors[f"{name}.weight"], read[f"{name}.weight"].cpu(), cfg.salient_share
            )
            for name in cfg.sites()
        }
        merged = {**tensors, **masks}
        return known, {name: merged[name] for name in known.tensor_shapes()}

    # ------------------------------------------------------------------------------------- arithmetic
    def products(self, config: ModelConfig) -> dict[str, bool]:
        """See ``Family``."""
        inside = (f"model.layers.{i}.{matrix}.weight" for i in range(config.blocks) for matrix in MATRICES)
        return {**dict.fromkeys(inside, False), HEAD: True}

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """See ``Family``."""
        return (EMBEDDING,)

    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """See ``Family``: [B, T, D]."""
        from qslm_opt.kernels.ops import rows_of

        return rows_of(p[EMBEDDING], inputs.ids)

    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """See ``Family``: causal attention, so padding on the right changes no token before it."""
        from torch.func import functional_call

        cfg = _own(config)
        if self.needs_text(cfg):
            raise ModelError(
                "which channels are salient is not known; evaluate the model on a task, whose calibration "
                "text says it, or give --config salient_share=0."
            )
        layer = decoder_layer(cfg, Spiking(p, cfg, i, ops, fired))
        norms = {f"{norm}.weight": p[f"model.layers.{i}.{norm}.weight"] for norm in NORMS}
        rotation = positions(cfg, x.shape[1], x.device, x.dtype)
        out = functional_call(layer, norms, (x,), {"position_embeddings": rotation})
        after: Tensor = out[0] if isinstance(out, tuple) else out  # a tuple before transformers 4.54
        return after

    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """See ``Family``: [B, T, D]."""
        import torch
        from torch.func import functional_call
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        with torch.device("meta"):
            norm: nn.Module = LlamaRMSNorm(x.shape[-1], _own(config).rms_norm_eps)
        normed: Tensor = functional_call(norm, {"weight": p[NORM]}, (x,))
        return normed

    def head(self, config: ModelConfig) -> str:
        """See ``Family``."""
        return HEAD


def _own(config: ModelConfig) -> SpikeLLMConfig:
    assert isinstance(config, SpikeLLMConfig)
    return config
