"""SpikeGPT for the Hugging Face library: a config and two models, registered with the Auto classes.

Parameters carry the authors' names and ``forward`` calls the functions of ``spikegpt``: one arithmetic.
``import qslm_opt.models.hf`` once, then ``AutoModelForCausalLM.from_pretrained(folder)`` works.

Shapes: B sentences or windows, T tokens, D width, V vocabulary, C labels. Padding stands on the right.
"""

# mypy: disable-error-code="no-untyped-call, override, misc"
# The library's base classes are half typed.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from qslm_opt.errors import ModelError
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops
from qslm_opt.models import spikegpt
from qslm_opt.models.packed import load_packed
from qslm_opt.models.packed_file import PACKED_NAME
from qslm_opt.models.spikegpt import BlockState
from qslm_opt.models.spikegpt_config import AUTHORS_TYPE, SpikeGPTConfig

IGNORED = -100
"""Label of a position that has no part in the loss."""
_AUTO = {"lm": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification"}
_STORED_ONLY = (torch.float16, torch.bfloat16)
"""Types that weights may be stored in; a threshold needs the arithmetic in float32."""


class SpikeGPTHFConfig(PretrainedConfig):
    """``SpikeGPTConfig``'s keys; the authors' ``model_type`` is called ``rwkv_type``."""

    model_type = SpikeGPTConfig.family
    attribute_map = {  # noqa: RUF012 - the library's own declaration
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "ctx_len",
    }

    def __init__(
        self,
        vocab_size: int = 50277,
        n_layer: int = 18,
        n_embd: int = 768,
        rwkv_type: str = "RWKV",
        n_ffn: int = 0,
        n_labels: int = 0,
        has_head: bool = True,
        ctx_len: int = 1024,
        embed_spike: str = "on",
        rescale_every: int = 0,
        **kwargs: Any,
    ) -> None:
        sizes = (vocab_size, n_layer, n_embd, rwkv_type, n_ffn, n_labels, has_head, ctx_len)
        core = SpikeGPTConfig(*sizes, embed_spike, rescale_every)
        for key, value in _renamed(core.to_dict()).items():
            setattr(self, key, value)
        if n_labels and "id2label" not in kwargs:
            kwargs["num_labels"] = n_labels
        super().__init__(**{"tie_word_embeddings": False, "use_cache": True, **kwargs})

    @classmethod
    def of(cls, config: SpikeGPTConfig) -> SpikeGPTHFConfig:
        """Return the Hugging Face form of a config."""
        return cls(**_renamed(config.to_dict()))

    @property
    def core(self) -> SpikeGPTConfig:
        """The config that the forward functions read."""
        keys = [f.name for f in fields(SpikeGPTConfig) if f.name != "model_type"]
        return SpikeGPTConfig(model_type=self.rwkv_type, **{key: getattr(self, key) for key in keys})


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {AUTHORS_TYPE if key == "model_type" else key: value for key, value in values.items()}


@dataclass
class SpikeGPTCausalLMOutput(ModelOutput):
    """What ``SpikeGPTForCausalLM`` returns."""

    loss: Tensor | None = None
    """Mean negative log likelihood of the labels, in nats; None without labels."""
    logits: Tensor | None = None
    """Next-token logits [B, T, V], or of the last ``logits_to_keep`` positions."""
    state: list[BlockState] | None = None
    """State after the last token, one a block; None with ``use_cache=False``."""


class SpikeGPTPreTrainedModel(PreTrainedModel):
    """What both models share: parameters under the authors' names, and the body."""

    config_class = SpikeGPTHFConfig
    kind: ClassVar[str]
    """Kind of the tasks that the model's head is for."""
    base_model_prefix = ""
    main_input_name = "input_ids"
    _is_stateful = True
    _no_split_modules: list[str] = []  # noqa: RUF012 - the library's own declaration

    def __init__(self, config: SpikeGPTHFConfig) -> None:
        super().__init__(config)
        for name, shape in config.core.tensor_shapes().items():
            _add(self, name, shape)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> SpikeGPTPreTrainedModel:
        """Load a model as the library does; a packed folder gives the weights that its codes stand for.

        Raises:
            ModelError: a packed file is damaged, or packed for a task of the other kind.
        """
        source = pretrained_model_name_or_path
        if source is None or not _holds_packed(Path(source)):
            return super().from_pretrained(source, *model_args, **kwargs)
        packed = load_packed(source)
        if packed.kind != cls.kind:
            raise ModelError(
                f"model {str(source)!r} is packed for {packed.kind} and has only the head of that; "
                f"load it with {_AUTO[packed.kind]}."
            )
        if not isinstance(packed.config, SpikeGPTConfig):
            raise ModelError(
                f"model {str(source)!r} is a {packed.config.title}, which transformers has no class for; "
                "read it with qslm_opt.models.load_model."
            )
        own = SpikeGPTHFConfig.of(packed.config)
        given = kwargs.pop("config", None) or own
        if given.core != packed.config or given.num_labels != own.num_labels:
            raise ModelError(
                f"model {str(source)!r} is packed and is taken as it is; leave out what changes its config."
            )
        return super().from_pretrained(
            None, *model_args, config=given, state_dict=packed.weights(), **kwargs
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.get_submodule("emb")

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the language-model head, None when the config has none."""
        return self.get_submodule("head") if self.config.has_head else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint does not bring."""
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("time_"):
                parameter.fill_(0.5 if name.startswith("time_mix") else 0.0)

    def _body(
        self, input_ids: Tensor, lengths: Tensor | None, states: list[BlockState] | None
    ) -> tuple[dict[str, Tensor], Tensor, list[BlockState]]:
        """Return the parameters by name, ``ln_out``'s output [B, T, D] and the new states."""
        if self.training and torch.is_grad_enabled():
            raise ModelError(
                "the spikes of this model have no gradient, so training it here would change almost nothing; "
                "train with 'qslm-opt model train', or call model.eval()."
            )
        named = self.named_parameters(remove_duplicate=False)
        p: dict[str, Tensor] = {n: t.float() if t.dtype in _STORED_ONLY else t for n, t in named}
        ops = self._ops(p["emb.weight"].dtype)
        h, states, _ = spikegpt.forward(p, self.config.core, input_ids, ops, states, lengths)
        return p, h, states

    def _ops(self, dtype: torch.dtype) -> Ops:
        """Return the fast kernels where they apply: float32, and no gradient asked for."""
        plain = torch.is_grad_enabled() or dtype != torch.float32
        return REFERENCE if plain else fast_ops(self.device.type)


def _holds_packed(folder: Path) -> bool:
    return (folder / PACKED_NAME).is_file() and not (folder / "model.safetensors").exists()


def _add(root: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Put a parameter of ``shape`` at its dotted name, inside the module kind that it belongs to."""
    *path, owner, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if leaf not in ("weight", "bias"):
        if owner not in root._modules:
            root.add_module(owner, nn.Module())
        root.get_submodule(owner).register_parameter(leaf, nn.Parameter(torch.empty(shape)))
    elif owner not in root._modules:
        root.add_module(owner, _layer(owner, shape))


def _layer(owner: str, shape: tuple[int, ...]) -> nn.Module:
    if owner.startswith("ln"):
        return nn.LayerNorm(shape)
    if owner == "emb":
        return nn.Embedding(shape[0], shape[1])
    return nn.Linear(shape[1], shape[0], bias=False)


def _lengths(attention_mask: Tensor | None) -> Tensor | None:
    """Return the tokens of each row [B]; raise ModelError unless padding stands on the right."""
    if attention_mask is None:
        return None
    mask = attention_mask.to(torch.bool)
    lengths = mask.sum(dim=1)
    right = torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]
    if not bool((mask == right).all()) or not bool((lengths > 0).all()):
        raise ModelError(
            "attention_mask must hold ones, then zeros, and at least one token a row: "
            "the state runs from left to right; pad on the right."
        )
    return lengths


class SpikeGPTForCausalLM(SpikeGPTPreTrainedModel, GenerationMixin):
    """SpikeGPT with its language-model head. Generation carries the state from token to token."""

    kind = "lm"

    _tied_weights_keys = {"head.weight": "emb.weight"}  # noqa: RUF012 - read where the config ties them

    def __init__(self, config: SpikeGPTHFConfig) -> None:
        if not config.has_head:
            raise ModelError("has_head is false, so there is no language-model head; use another checkpoint.")
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: list[BlockState] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> SpikeGPTCausalLMOutput | tuple[Any, ...]:
        """Run the model.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for tokens, 0 for padding on the right [B, T].
            state: where an earlier call ended; ``input_ids`` then goes on from there.
            labels: token ids [B, T], shifted here; −100 and padding have no part in the loss.
            use_cache: return the state.
            logits_to_keep: only so many last positions; 0 keeps all.
        """
        lengths = None if state is not None else _lengths(attention_mask)
        p, h, after = self._body(input_ids, lengths, state)
        logits = spikegpt.lm_logits(p, h[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            if attention_mask is not None:
                labels = labels.masked_fill(attention_mask == 0, IGNORED)
            every = spikegpt.lm_logits(p, h[:, :-1])
            loss = cross_entropy(every.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
        output = SpikeGPTCausalLMOutput(loss, logits, None if use_cache is False else after)
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        state: list[BlockState] | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the next call's inputs: only the last token once there is a state."""
        _lengths(attention_mask)
        ids = input_ids if state is None else input_ids[:, -1:]
        return {"input_ids": ids, "state": state, "use_cache": use_cache, "logits_to_keep": 1}

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        """Beams change places after every token: run the whole window instead of carrying states."""
        return super()._beam_search(*args, **{**kwargs, "use_cache": False})

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


class SpikeGPTForSequenceClassification(SpikeGPTPreTrainedModel):
    """SpikeGPT with a classifier over the mean of each sentence's own positions."""

    kind = "classification"

    def __init__(self, config: SpikeGPTHFConfig) -> None:
        config.n_labels = config.num_labels
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Run the model.

        Args:
            input_ids: token ids [B, T].
            attention_mask: 1 for tokens, 0 for padding on the right [B, T]; padding never counts.
            labels: class of each sentence [B].

        Returns:
            ``logits`` [B, C] and, with labels, the mean cross entropy as ``loss``.
        """
        lengths = _lengths(attention_mask)
        if lengths is None:
            lengths = input_ids.new_full((input_ids.shape[0],), input_ids.shape[1])
        p, h, _ = self._body(input_ids, lengths, None)
        logits = spikegpt.class_logits(p, h, lengths)
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(SpikeGPTConfig.family, SpikeGPTHFConfig, exist_ok=True)
AutoModelForCausalLM.register(SpikeGPTHFConfig, SpikeGPTForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    SpikeGPTHFConfig, SpikeGPTForSequenceClassification, exist_ok=True
)
