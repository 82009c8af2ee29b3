"""A model family: how its checkpoints are read, and its arithmetic as a pure function of tensors.

Shapes: B sequences, T tokens of each, padded on the right, S time steps, N neurons. What stands between two
blocks, the stream ``x``, is one tensor whose shape is the family's own. Neurons start at rest in every call
and nothing is kept between two, so there is no state to reset and no mode to set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qslm_opt.errors import ModelError
from qslm_opt.models.config import shown

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.config import ModelConfig


Tensors = Mapping[str, Any]
"""Name → Tensor; matrices may be what the version's ``Ops.weight`` made of them."""


@dataclass(frozen=True)
class Inputs:
    """Sequences that are computed together."""

    ids: Tensor
    """(B, T) int64, padded on the right."""
    lengths: Tensor | None
    """(B,) tokens of each sequence; None when nothing is padded."""
    pad_to: int | None = None
    """Tokens of each sequence, its pads included, where pads are tokens that all compute the same: the first
    pad of a sequence stands for all of them. None: the pads behind ``lengths`` count nowhere."""
    segments: Tensor | None = None
    """(B, T) int64, 0 or 1: the sentence of a pair that a token is of, where a family tells; None: all 0."""

    def inside(self) -> Tensor | None:
        """Return (B, T) bool, True where a token is not padding; None when none is."""
        if self.lengths is None:
            return None
        import torch

        last = self.lengths if self.pad_to is None else (self.lengths + 1).clamp(max=self.pad_to)
        return torch.arange(self.ids.shape[1], device=self.ids.device) < last[:, None]

    def weights(self) -> Tensor | None:
        """Return (B, T) int64, how many tokens each place stands for, 0 on padding; None when all for one."""
        inside = self.inside()
        if inside is None or self.lengths is None or self.pad_to is None:
            return None if inside is None else inside.long()
        import torch

        first = torch.arange(self.ids.shape[1], device=self.ids.device) == self.lengths[:, None]
        return torch.where(first, self.pad_to - self.lengths[:, None], inside.long())


class Fired:
    """Counts spikes by site while blocks run; padding never counts."""

    def __init__(self, inputs: Inputs | None) -> None:
        """Count spikes for ``inputs``; nothing without."""
        self._counting = inputs is not None
        self._weights = None if inputs is None else inputs.weights()
        self.counts: dict[str, Tensor] = {}
        """Site → spikes, a float64 scalar; NaN where a current was not finite."""

    def add(self, site: str, spikes: Tensor, v: Tensor | None = None) -> None:
        """Count the spikes [B, T, N], or [S, B, T, N] of S time steps, of either sign.

        A spike that is not a number makes the count NaN, and so does ``v``, the membrane potentials after the
        last step: a neuron whose current was not a number never fires, and only its potential tells.
        """
        if not self._counting:
            return
        from qslm_opt.kernels.fire.count import count_spikes

        self.put(site, count_spikes(spikes, self._weights, v))

    def put(self, site: str, count: Tensor) -> None:
        """Note a site's spikes, a float64 scalar, as a kernel counted them."""
        self.counts[site] = count


@dataclass(frozen=True)
class Encoding:
    """How a sentence becomes token ids."""

    special: bool = False
    """Whether the tokenizer's special tokens stand around it ([CLS] … [SEP])."""
    longest: int | None = None
    """Most ids of a sentence, special ones included; the rest is cut off. None: as long as it is."""
    pad_to: int | None = None
    """Every sentence is padded to so many ids, and its pads are tokens like others; None: only batches are
    padded, and pads count nowhere."""
    pads_alike: bool = False
    """Whether all pads of a sentence compute the same, as they do where no token knows its place: then one
    stands for all, see ``Inputs.pad_to``."""


def bare(name: str, prefixes: Sequence[str]) -> str:
    """Return a name without any of the prefixes, however many stand in front of it."""
    while True:
        found = next((p for p in prefixes if name.startswith(p)), None)
        if found is None:
            return name
        name = name.removeprefix(found)


def declared_labels(values: Mapping[str, Any]) -> int | None:
    """Return the classes that Hugging Face's library reads from a config.json; None where it says none.

    It writes no ``id2label`` for a sequence classifier of two classes.

    Raises:
        ModelError: ``id2label`` is no object with an entry for each class.
    """
    names, made = values.get("id2label"), values.get("architectures")
    if names is not None:
        if not isinstance(names, Mapping) or not names:
            raise ModelError(
                f"id2label is {shown(names)}; it must be an object with an entry for each class: correct it, "
                "or remove it and give --config num_labels=N."
            )
        return len(names)
    classifies = isinstance(made, list) and any(str(m).endswith("ForSequenceClassification") for m in made)
    return 2 if classifies else None


class Family(ABC):
    """One model family. An instance has no state: it names functions.

    A family that another package brings is registered by an entry point in the group ``qslm_opt.families``,
    and is right when ``qslm_opt.conformance.check_family`` passes.
    """

    config_class: ClassVar[type[ModelConfig]]
    keeps_batches: ClassVar[bool] = False
    """Whether a search computes sentences in the batches of any evaluation, where False puts hard ones into
    batches of their own. It must where membrane potentials reach the threshold but for rounding: last digits,
    which differ between batches, then turn whole sentences."""
    tokens_anywhere: ClassVar[bool] = False
    """Whether products may read tokens otherwise than as [B, T, K] or [S, B, T, K], sentences and tokens
    flattened for instance. Calibration then computes only sentences of one length together: no padding."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """Other values of ``model_type`` in a config.json by which models of a family that is not built in are
    known."""

    @property
    def name(self) -> str:
        """Name in the registry."""
        return self.config_class.family

    # ---------------------------------------------------------------------------------------- reading
    @abstractmethod
    def recognises(self, names: Collection[str]) -> bool:
        """Return whether a checkpoint with these names is one of this family; prefixes are gone."""

    prefixes: ClassVar[tuple[str, ...]] = ("module.", "_orig_mod.")
    """What training tools put in front of every name."""

    def without_prefix(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors without prefixes; ModelError when a name is there with and without one."""
        keys: dict[str, str] = {}
        for key in stored:
            name = bare(key, self.prefixes)
            if name in keys:
                prefix = max(key, keys[name], key=len).removesuffix(name)
                raise ModelError(f"the checkpoint has {name!r} with and without {prefix!r}.")
            keys[name] = key
        return {name: stored[key] for name, key in keys.items()}

    def canonical(self, stored: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint by canonical name; each alias is resolved.

        Tensors of another type than float (positions, counters) that the forward pass does not read are gone.

        Args:
            stored: without prefixes.
            values: the ``config.json`` beside the checkpoint; empty where there is none.

        Raises:
            ModelError: two names of one tensor hold different numbers.
        """
        return dict(stored)

    def left_out(self, stored: Mapping[str, Tensor]) -> str:
        """Return in words what ``canonical`` leaves out though it has numbers of its own; else nothing.

        Args:
            stored: without prefixes.
        """
        return ""

    def expanded(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo ``canonical``: every name that the original code's ``load_state_dict`` asks for."""
        return dict(tensors)

    def declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config keys that a ``config.json`` beside the checkpoint says, in our names.

        Where a key stands under its own name and under another word, its own name is read; null says nothing.

        Raises:
            ModelError: the file is of another family, or says what this one cannot be.
        """
        words, own = self.config_class.words, self.config_class.key_names()
        said = {word: value for word, value in values.items() if value is not None}
        other = {word: value for word, value in said.items() if word in words and words[word] not in said}
        self.config_class.check_keys(other)
        found = {words[word]: value for word, value in other.items()}
        return {**found, **{key: value for key, value in said.items() if key in own}}

    def described(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``declared``, and what a ``config.json`` says that is else left to the tensors.

        Raises:
            ModelError: as ``declared``.
        """
        key = self.config_class.words.get("num_labels", "num_labels")
        count = declared_labels(values) if key in self.config_class.key_names() else None
        return {**({} if count is None else {key: count}), **self.declared(values)}

    def declared_ties(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return name → name of the tensor whose storage it shares, as a ``config.json`` alone says."""
        return {}

    def needs_text(self, config: ModelConfig) -> bool:
        """Return whether the model is not complete before it has looked at a calibration text."""
        return False

    def calibrated(
        self, config: ModelConfig, tensors: Mapping[str, Tensor],
        moments: Callable[[ModelConfig], Mapping[str, Tensor]],
    ) -> tuple[ModelConfig, dict[str, Tensor]]:  # fmt: skip
        """Return config and tensors with what the text tells, where ``needs_text``.

        Args:
            moments: of a config, the mean of x xᵀ [K, K] over the inputs of each of ``products``.
        """
        return config, dict(tensors)

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """Return what ``declared`` reads back."""
        return {"model_type": self.name, **config.to_dict()}

    def encoding(self, config: ModelConfig) -> Encoding:
        """Return how sentences are encoded."""
        return Encoding()

    # ------------------------------------------------------------------------------------- arithmetic
    @abstractmethod
    def products(self, config: ModelConfig) -> dict[str, bool]:
        """Return the tensors read by ``ops.linear`` (False) or, as the head, by ``ops.nll`` (True) alone."""

    def read_by_row(self, config: ModelConfig) -> tuple[str, ...]:
        """Return tensors of which one row is read for a token, by ``rows_of``."""
        return ()

    def reuses(self, config: ModelConfig) -> bool:
        """Return whether a kept stream may be gone on from: no block reads another's tensors.

        Where False, the stream may be anything, and every evaluation computes the whole model.
        """
        return True

    @abstractmethod
    def embed(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """Return the stream in front of block 0."""

    @abstractmethod
    def run_block(
        self, p: Tensors, config: ModelConfig, i: int, x: Tensor, inputs: Inputs, ops: Ops, fired: Fired
    ) -> Tensor:
        """Return the stream behind block ``i``; it reads no tensor of another block."""

    @abstractmethod
    def finish(self, p: Tensors, config: ModelConfig, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
        """Return what the heads read, from the stream behind the last block: [B, T, D]; or [B, D] where a
        family has no language-model head.
        """

    def head(self, config: ModelConfig) -> str:
        """Return the name of the language-model head [V, D]."""
        raise NotImplementedError(f"{self.config_class.title} has no language-model head")

    def class_logits(
        self, p: Tensors, config: ModelConfig, h: Tensor, inputs: Inputs, ops: Ops
    ) -> Tensor:
        """Return class logits [B, C] of ``finish``'s output."""
        raise NotImplementedError(f"{self.config_class.title} has no classification head")

    # -------------------------------------------------------------------------------------- conclusions
    def forward(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """Run the whole body: ``finish``'s output."""
        x = self.embed(p, config, inputs, ops, fired)
        for i in range(config.blocks):
            x = self.run_block(p, config, i, x, inputs, ops, fired)
        return self.finish(p, config, x, inputs, ops)

    def logits(self, p: Tensors, config: ModelConfig, inputs: Inputs, ops: Ops, fired: Fired) -> Tensor:
        """Return class logits [B, C] where the model classifies, else next-token logits [B, T, V]."""
        from torch.nn.functional import linear

        h = self.forward(p, config, inputs, ops, fired)
        if config.labels:
            return self.class_logits(p, config, h, inputs, ops)
        return linear(h, p[self.head(config)])
