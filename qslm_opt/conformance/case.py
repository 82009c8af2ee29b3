"""One family under test: a config, tensors that make its neurons fire, and small inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from qslm_opt.hierarchy.discover import discover
from qslm_opt.kernels.ops import REFERENCE, Ops
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.loading import LoadedModel, hash_weights

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.config import Kind, ModelConfig
    from qslm_opt.models.family import Family

Weights: TypeAlias = "Mapping[str, Any]"
SENTENCES = 3
TOKENS = 7
"""Tokens of the longest sentence, fewer where the model reads fewer."""
GAINS = (1.0, 2.0, 4.0, 0.5, 8.0, 16.0)
"""Factors of random matrices that are tried until every site fires."""


@dataclass(frozen=True)
class Output:
    """What one computation gave."""

    logits: Tensor
    """Class logits [B, C] or next-token logits [B, T, V]."""
    counts: dict[str, float]
    """Site → spikes."""

    def same(self, other: Output) -> bool:
        """Return whether both are equal bit for bit."""
        return self.counts == other.counts and torch.equal(self.logits, other.logits)

    def close(self, other: Output, tolerance: float = 1e-6) -> bool:
        """Return whether spikes are equal, and logits up to rounding."""
        equal = torch.allclose(self.logits, other.logits, rtol=tolerance, atol=tolerance)
        return self.counts == other.counts and equal

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return bool(torch.isfinite(self.logits).all()) and sum(self.counts.values()) < float("inf")


@dataclass(frozen=True)
class Case:
    """A family with everything that a check needs; made by ``make_case``."""

    family: Family
    config: ModelConfig
    tensors: dict[str, Tensor]
    """Canonical name → float32 tensor."""
    seed: int = 0

    @cached_property
    def p(self) -> dict[str, Tensor]:
        """The tensors in float64, so that another order of sums flips no spike."""
        return {name: tensor.double() for name, tensor in self.tensors.items()}

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of tasks that the model has a head for."""
        found: list[Kind] = ["classification"] if self.config.labels else []
        return (*found, "lm") if self.config.generates else tuple(found)

    @cached_property
    def pad_to(self) -> int | None:
        """Tokens of every sentence where pads are tokens like others."""
        return self.family.encoding(self.config).pad_to

    def inputs(self, kind: Kind, seed: int = 0) -> Inputs:
        """Return sentences of different lengths, or windows of one length."""
        draw = torch.Generator().manual_seed(1000 * self.seed + seed)
        tokens = self.pad_to or min(self.config.longest or TOKENS, TOKENS)
        ids = torch.randint(0, self.config.vocabulary, (SENTENCES, tokens), generator=draw)
        if kind == "lm" or self.pad_to:
            return Inputs(ids, None)
        lengths = torch.tensor([tokens, max(1, tokens - 2), max(1, tokens - 4)])
        return Inputs(ids * (torch.arange(tokens) < lengths[:, None]), lengths)

    def run(
        self, kind: Kind, p: Weights | None = None, inputs: Inputs | None = None, ops: Ops = REFERENCE
    ) -> Output:
        """Compute once; the case's own float64 tensors and inputs where none are given."""
        p = self.p if p is None else p
        inputs = self.inputs(kind) if inputs is None else inputs
        fired = Fired(inputs)
        with torch.inference_mode():
            h = self.family.forward(p, self.config, inputs, ops, fired)
            logits = self.read(kind, p, h, inputs, ops)
        return Output(logits, {site: float(count) for site, count in fired.counts.items()})

    def read(self, kind: Kind, p: Weights, h: Tensor, inputs: Inputs, ops: Ops = REFERENCE) -> Tensor:
        """Return the logits of ``finish``'s output ``h``."""
        if kind == "classification":
            return self.family.class_logits(p, self.config, h, inputs, ops)
        return linear(h, p[self.family.head(self.config)])

    def live(self, kind: Kind) -> list[str]:
        """Return the names of the tensors that a task of ``kind`` is said to read."""
        return [name for name in self.config.tensor_shapes() if self.config.is_live(name, kind)]

    def changed(self, name: str, strength: float = 1.0) -> dict[str, Tensor]:
        """Return the float64 tensors with another one under ``name``; of a sign-only one, signs flip."""
        value = self.p[name]
        if self.config.reads_sign_only(name):
            other = -value
        else:
            draw = torch.Generator().manual_seed(len(name))
            noise = torch.randn(value.shape, generator=draw, dtype=value.dtype)
            other = value * (1 + strength) + strength * noise.abs()
        return {**self.p, name: other}

    def hierarchy(self, kind: Kind) -> Hierarchy:
        """Return the tree for tasks of ``kind``."""
        return discover(self.config, self.config.tensor_shapes(), kind)

    def model(self) -> LoadedModel:
        """Return the case as ``load_model`` would give it."""
        return LoadedModel(self.config, self.tensors, "conformance", hash_weights(self.tensors), None)


def make_case(
    family: Family, config: ModelConfig, *, tensors: Mapping[str, Tensor] | None = None, seed: int = 0
) -> Case:
    """Return a case of ``config``; choose small sizes, every check computes the model many times.

    Args:
        tensors: canonical name → tensor, where random ones make no legal model of this family.
    """
    if tensors is not None:
        return Case(family, config, {name: tensor.float() for name, tensor in tensors.items()}, seed)
    best, most = None, -1
    for gain in GAINS:
        case = Case(family, config, random_tensors(config, seed, gain), seed)
        firing = len(case.config.sites()) - len(quiet_sites(case))
        if firing > most:
            best, most = case, firing
        if firing == len(case.config.sites()):
            break
    assert best is not None
    return best


def quiet_sites(case: Case) -> list[str]:
    """Return the sites whose neurons fire never, or always."""
    kind = case.kinds[0]
    counts, most = case.run(kind).counts, most_spikes(case, case.inputs(kind))
    return [site for site in case.config.sites() if not 0 < counts.get(site, 0.0) < most[site]]


def most_spikes(case: Case, inputs: Inputs) -> dict[str, int]:
    """Return site → spikes if every neuron fired at every token and step."""
    tokens = inputs.ids.numel() if inputs.lengths is None else int(inputs.lengths.sum())
    sites = case.config.sites().items()
    return {name: site.width * tokens * case.config.timesteps for name, site in sites}


def random_tensors(config: ModelConfig, seed: int = 0, gain: float = 1.0) -> dict[str, Tensor]:
    """Return float32 tensors by the shapes of ``config``: matrices that keep, times ``gain``, the size of
    what they read, norms near 1, positive neuron scalars.
    """
    draw = torch.Generator().manual_seed(seed)
    return {
        name: _random(config.role(name), shape, gain, draw)
        for name, shape in config.tensor_shapes().items()
    }


def _random(role: str, shape: tuple[int, ...], gain: float, draw: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=draw)
    if role in ("matrix", "head"):
        return noise * (gain / sqrt(max(1, shape[-1])))
    if role == "norm":
        return 1 + 0.2 * noise
    if role == "neuron":
        return 0.5 + 0.2 * noise.abs()
    if role == "mix":
        return noise.sigmoid()
    return noise if role in ("embedding", "decay") else 0.2 * noise
