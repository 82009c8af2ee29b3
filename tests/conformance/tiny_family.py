"""A whole model family in one file: the example of docs/families.md.

Token embedding → N blocks ``x + LIF(W x + b)`` over S time steps → mean over steps → classes or next tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from qslm_opt.errors import ModelError
from qslm_opt.kernels.fire.reference import Neuron
from qslm_opt.kernels.ops import rows_of
from qslm_opt.models.config import (
    MOST_BLOCKS,
    MOST_STEPS,
    ModelConfig,
    Site,
    affine_shapes,
    at_least,
    at_most,
    block_count,
    pair,
)  # fmt: skip
from qslm_opt.models.family import Family
from qslm_opt.models.parts import affine

EMB, HEAD = "emb.weight", "head.weight"


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """Sizes and semantics."""

    family: ClassVar[str] = "tiny"
    title: ClassVar[str] = "Tiny"

    vocab_size: int
    width: int
    layers: int
    classes: int = 0
    has_head: bool = False
    teacher: bool = False
    """Whether a projection of the teacher's is stored, which no task reads."""
    timesteps: int = 2
    tau: float = 2.0

    def __post_init__(self) -> None:
        at_least(1, vocab_size=self.vocab_size, width=self.width, layers=self.layers, tau=self.tau)
        at_least(1, timesteps=self.timesteps)
        at_least(0, classes=self.classes)
        at_most(MOST_BLOCKS, layers=self.layers)
        at_most(MOST_STEPS, timesteps=self.timesteps)

    @property
    def blocks(self) -> int:
        return self.layers

    @property
    def vocabulary(self) -> int:
        return self.vocab_size

    @property
    def labels(self) -> int:
        return self.classes

    @property
    def generates(self) -> bool:
        return self.has_head

    @property
    def longest(self) -> None:
        return None

    @property
    def stream_width(self) -> int:
        return self.timesteps * self.width

    @property
    def widest(self) -> int:
        return 4 * self.stream_width

    def describe(self) -> str:
        return f"Tiny, {self.layers} blocks of width {self.width}, {self.timesteps} steps"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {EMB: (self.vocab_size, self.width)}
        for i in range(self.layers):
            shapes |= affine_shapes(f"blocks.{i}", self.width, self.width)
        if self.classes:
            shapes |= affine_shapes("classes", self.classes, self.width)
        if self.has_head:
            shapes[HEAD] = (self.vocab_size, self.width)
        return shapes | ({"teacher.weight": (3, self.width)} if self.teacher else {})

    def modules(self) -> dict[str, list[str]]:
        units = {"input/emb": [EMB]}
        units |= {f"attention.{i}/mix": pair(f"blocks.{i}") for i in range(self.layers)}
        if self.classes:
            units["output/classes"] = pair("classes")
        if self.has_head:
            units["output/head"] = [HEAD]
        return units | ({"aux/teacher": ["teacher.weight"]} if self.teacher else {})

    def role(self, name: str) -> Any:
        if name.endswith(".bias"):
            return "bias"
        return {EMB: "embedding", HEAD: "head", "classes.weight": "head"}.get(name, "matrix")

    def is_live(self, name: str, kind: str) -> bool:
        dead = {"teacher.weight", HEAD} if kind == "classification" else {"teacher.weight", *pair("classes")}
        return name not in dead

    def reads_sign_only(self, name: str) -> bool:
        return name == EMB

    def lean(self, kind: str) -> TinyConfig:
        if kind == "lm":
            return replace(self, teacher=False, classes=0)
        return replace(self, teacher=False, has_head=False)

    def sites(self) -> dict[str, Site]:
        inner = {f"blocks.{i}": Site(i, self.width) for i in range(self.layers)}
        return {"emb": Site(None, self.width), **inner}

    @classmethod
    def from_shapes(cls, shapes: Any, **given: Any) -> TinyConfig:
        cls.check_keys(given)
        if EMB not in shapes:
            raise ModelError(f"the checkpoint is no Tiny: it has no {EMB!r}.")
        rows, width = shapes[EMB]
        found = {
            "vocab_size": rows, "width": width, "layers": block_count(shapes, "blocks."),
            "classes": shapes.get("classes.weight", (0,))[0], "has_head": HEAD in shapes,
            "teacher": "teacher.weight" in shapes,
        }  # fmt: skip
        return cls(**{**found, **given})

    def semantics(self) -> dict[str, Any]:
        return {"timesteps": self.timesteps, "tau": self.tau}


class Tiny(Family):
    """The arithmetic."""

    config_class: ClassVar[Any] = TinyConfig

    def recognises(self, names: Any) -> bool:
        return EMB in names and "blocks.0.weight" in names

    def products(self, config: Any) -> dict[str, bool]:
        found = {f"blocks.{i}.weight": False for i in range(config.layers)}
        if config.classes:
            found["classes.weight"] = False
        return found | ({HEAD: True} if config.has_head else {})

    def read_by_row(self, config: Any) -> tuple[str, ...]:
        return (EMB,)

    def embed(self, p: Any, config: Any, inputs: Any, ops: Any, fired: Any) -> torch.Tensor:
        current = rows_of(p[EMB], inputs.ids)
        spikes = ops.heaviside(current)
        spikes = spikes.expand(config.timesteps, *spikes.shape)
        fired.add("emb", spikes)
        return spikes

    def run_block(
        self, p: Any, config: Any, i: int, x: Any, inputs: Any, ops: Any, fired: Any
    ) -> torch.Tensor:
        spikes, v = ops.fire(affine(p, f"blocks.{i}", x, ops), Neuron(tau=config.tau))
        fired.add(f"blocks.{i}", spikes, v)
        return x + spikes

    def finish(self, p: Any, config: Any, x: Any, inputs: Any, ops: Any) -> torch.Tensor:
        return x.mean(dim=0)

    def head(self, config: Any) -> str:
        return HEAD

    def class_logits(self, p: Any, config: Any, h: Any, inputs: Any, ops: Any) -> torch.Tensor:
        inside = inputs.inside()
        weights = h.new_ones(h.shape[:2]) if inside is None else inside.to(h.dtype)
        pooled = (h * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return affine(p, "classes", pooled, ops)
