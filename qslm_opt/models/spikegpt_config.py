"""SpikeGPT's sizes, semantics and tensors, and where they stand in the tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qslm_opt.errors import ModelError
from qslm_opt.models.config import MOST_BLOCKS, MOST_SIZE, ModelConfig, Site, shown

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Role
    from qslm_opt.models.config import Kind, Shapes

MODEL_TYPES = ("RWKV", "RWKV-ffnPre")
AUTHORS_TYPE = "rwkv_type"
"""What a config.json calls the authors' ``model_type``, which there is the family."""
CHARACTER_VOCAB = 77
"""Vocabulary of the authors' character model, the only one their RNN form runs with the Heaviside."""
EMB, HEAD, CLASSIFIER = "emb.weight", "head.weight", "classifier.weight"
_MATRICES = {"att": ("key", "value", "receptance", "output"), "ffn": ("key", "receptance", "value")}
_MIXES = {"att": "kvr", "ffn": "kr"}


@dataclass(frozen=True)
class SpikeGPTConfig(ModelConfig):
    """Sizes and semantics of one SpikeGPT."""

    family: ClassVar[str] = "spikegpt"
    title: ClassVar[str] = "SpikeGPT"
    words: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "intermediate_size": "n_ffn",
        "max_position_embeddings": "ctx_len", "num_labels": "n_labels", AUTHORS_TYPE: "model_type",
    }  # fmt: skip
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "vocab_size": (1, MOST_SIZE), "n_layer": (1, MOST_BLOCKS), "n_embd": (1, MOST_SIZE // 4),
        "n_ffn": (0, MOST_SIZE), "n_labels": (0, MOST_SIZE), "ctx_len": (1, MOST_SIZE),
        "rescale_every": (0, MOST_SIZE),
    }  # fmt: skip

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
        self.check_bounds()
        if self.n_ffn == 0:
            object.__setattr__(self, "n_ffn", 4 * self.n_embd)
        if self.model_type not in MODEL_TYPES:
            raise ModelError(f"model_type {shown(self.model_type)} is unknown; use one of {MODEL_TYPES}.")
        if self.embed_spike not in ("on", "off", "auto"):
            raise ModelError(f"embed_spike {shown(self.embed_spike)} is unknown; use on, off or auto.")

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
        cls, shapes: Shapes, **overrides: Any
    ) -> SpikeGPTConfig:
        """Infer the config from a checkpoint's names and shapes; ``overrides`` win.

        Raises:
            ModelError: when the names are not SpikeGPT's, or an override is unknown.
        """
        cls.check_keys(overrides)
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

    def with_semantics(self, embed_spike: str, rescale_every: int) -> SpikeGPTConfig:
        """Return a copy with another reading of the public checkpoint (see SpikeGPT's two forms)."""
        return replace(self, embed_spike=embed_spike, rescale_every=rescale_every)

    # -------------------------------------------------------------------------------------- structure
    @property
    def blocks(self) -> int:
        """See ``ModelConfig``."""
        return self.n_layer

    @property
    def vocabulary(self) -> int:
        """See ``ModelConfig``."""
        return self.vocab_size

    @property
    def labels(self) -> int:
        """See ``ModelConfig``."""
        return self.n_labels

    @property
    def generates(self) -> bool:
        """See ``ModelConfig``."""
        return self.has_head

    @property
    def longest(self) -> None:
        """Any number of tokens: the state goes on."""
        return None

    @property
    def stream_width(self) -> int:
        """See ``ModelConfig``."""
        return self.n_embd

    @property
    def widest(self) -> int:
        """See ``ModelConfig``."""
        return 2 * self.n_ffn + 10 * self.n_embd

    def describe(self) -> str:
        """See ``ModelConfig``."""
        return f"SpikeGPT {self.model_type}, {self.n_layer} blocks of width {self.n_embd}"

    def modules(self) -> dict[str, list[str]]:
        """See ``ModelConfig``."""
        modules = {"input/emb": [EMB], "input/ln0": _norm("blocks.0.ln0")}
        for i in range(self.n_layer):
            unit, name, first = f"attention.{i}", f"blocks.{i}", self.att_name(i)
            modules[f"{unit}/ln1"] = _norm(f"{name}.ln1")
            modules |= _mixer(f"{unit}/{first}", f"{name}.{first}", "att" if first == "att" else "ffn")
            modules[f"{unit}/ln2"] = _norm(f"{name}.ln2")
            modules |= _mixer(f"{unit}/ffn", f"{name}.ffn", "ffn")
        modules["output/ln_out"] = _norm("ln_out")
        if self.has_head:
            modules["output/head"] = [HEAD]
        if self.n_labels:
            modules["output/classifier"] = [CLASSIFIER]
        return modules

    def role(self, name: str) -> Role:
        """See ``ModelConfig``."""
        if name == EMB:
            return "embedding"
        if name in (HEAD, CLASSIFIER):
            return "head"
        part = name.split(".")[-2 if name.endswith((".weight", ".bias")) else -1]
        if part.startswith("ln"):
            return "norm"
        if part.startswith("time_mix"):
            return "mix"
        return "decay" if part.startswith("time_") else "matrix"

    def is_live(self, name: str, kind: Kind) -> bool:
        """See ``ModelConfig``."""
        if name == CLASSIFIER:
            return kind == "classification"
        return name != HEAD or kind == "lm" or not self.n_labels

    def reads_sign_only(self, name: str) -> bool:
        """See ``ModelConfig``."""
        return name == EMB and self.embedding_spikes

    def lean(self, kind: Kind) -> SpikeGPTConfig:
        """See ``ModelConfig``: without the other task's head."""
        if kind == "lm":
            return replace(self, n_labels=0)
        return replace(self, has_head=self.has_head and not self.n_labels)

    def semantics(self) -> dict[str, Any]:
        """See ``ModelConfig``."""
        return {"embed_spike": self.embed_spike, "rescale_every": self.rescale_every}

    def sites(self) -> dict[str, Site]:
        """See ``ModelConfig``: two a block, in front of the residual stream."""
        return {
            f"blocks.{i}.{part}": Site(i, self.n_embd)
            for i in range(self.n_layer)
            for part in (self.att_name(i), "ffn")
        }


def _norm(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def _mixer(unit: str, name: str, kind: str) -> dict[str, list[str]]:
    modules = {f"{unit}.{m}": [f"{name}.{m}.weight"] for m in _MATRICES[kind]}
    vectors = ["time_decay", "time_first"] if kind == "att" else []
    vectors += [f"time_mix_{z}" for z in _MIXES[kind]]
    return modules | {f"{unit}.time": [f"{name}.{v}" for v in vectors]}
