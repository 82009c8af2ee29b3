"""The suite finds what is wrong: each deliberately broken family fails the check that is about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from qslm_opt.conformance import CHECKS, Case, check_family, make_case
from qslm_opt.kernels.fire.reference import Neuron
from qslm_opt.models.config import ModelConfig
from qslm_opt.models.family import Encoding, Fired, Inputs
from qslm_opt.models.parts import affine
from tests.conformance.tiny_family import EMB, Tiny, TinyConfig

SIZES = {"vocab_size": 11, "width": 8, "layers": 2, "teacher": True}
BOTH = {**SIZES, "classes": 3, "has_head": True}


def case_of(family: Tiny, config: TinyConfig | None = None) -> Case:
    return make_case(family, config or family.config_class(**BOTH))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_example_passes_every_check(check):
    check(case_of(Tiny()))


@pytest.mark.parametrize("more", [{"classes": 2}, {"has_head": True, "timesteps": 1}])
def test_the_example_passes_with_one_head(more):
    check_family(Tiny(), TinyConfig(**SIZES, **more), seed=2)


def test_tensors_may_be_given_where_random_ones_are_no_legal_model():
    tensors = make_case(Tiny(), TinyConfig(**BOTH), seed=5).tensors
    check_family(Tiny(), TinyConfig(**BOTH), tensors=tensors)
    silent = {name: torch.full_like(tensor, -1.0) for name, tensor in tensors.items()}
    with pytest.raises(AssertionError, match=r"neurons_fire: neurons of emb.*give tensors="):
        check_family(Tiny(), TinyConfig(**BOTH), tensors=silent)


def test_check_family_names_the_check_that_fails():
    with pytest.raises(AssertionError, match=r"^pure: .*state was carried over"):
        check_family(CarriesState(), TinyConfig(**BOTH))


# ------------------------------------------------------------------------------------ broken arithmetic
class CarriesState(Tiny):
    calls = 0

    def run_block(self, p, config, i, x, inputs, ops, fired):
        self.calls += 1
        return super().run_block(p, config, i, x + self.calls, inputs, ops, fired)


class WritesIds(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        found = super().embed(p, config, inputs, ops, fired)
        inputs.ids[:, -1] = 0
        return found


class WritesTensors(Tiny):
    def finish(self, p, config, x, inputs, ops):
        p["blocks.0.bias"].add_(0.25)
        return super().finish(p, config, x, inputs, ops)


class WritesStream(Tiny):
    def run_block(self, p, config, i, x, inputs, ops, fired):
        x = x.clone() if i == 0 else x
        return x.add_(super().run_block(p, config, i, x, inputs, ops, fired))


class SkipsOverBlocks(Tiny):
    """The last block adds what the first one read: more than the stream."""

    def run_block(self, p, config, i, x, inputs, ops, fired):
        if i == 0:
            self.first = x
        return super().run_block(p, config, i, x, inputs, ops, fired) + (self.first if i else 0)


class ReadsAnotherBlock(Tiny):
    def run_block(self, p, config, i, x, inputs, ops, fired):
        return super().run_block(p, config, i, x, inputs, ops, fired) + p["blocks.0.bias"]


class PoolsPadding(Tiny):
    def class_logits(self, p, config, h, inputs, ops):
        return super().class_logits(p, config, h, Inputs(inputs.ids, None), ops)


class NormalizesTheBatch(Tiny):
    def finish(self, p, config, x, inputs, ops):
        h = super().finish(p, config, x, inputs, ops)
        return h - h.mean(dim=0, keepdim=True)


class CountsPadding(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        found = super().embed(p, config, inputs, ops, Fired(None))
        fired.put("emb", found.sum(dtype=torch.float64))
        return found


class LooksAhead(Tiny):
    def finish(self, p, config, x, inputs, ops):
        h = super().finish(p, config, x, inputs, ops)
        return h + h.roll(-1, dims=1) if inputs.lengths is None else h


class ForgetsSite(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        return super().embed(p, config, inputs, ops, Fired(None))


class CountsHalf(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        found = super().embed(p, config, inputs, ops, fired)
        fired.put("emb", fired.counts["emb"] / 2 + 0.25)
        return found


class HidesNan(Tiny):
    def run_block(self, p, config, i, x, inputs, ops, fired):
        current = linear(x, p[f"blocks.{i}.weight"], p[f"blocks.{i}.bias"])
        spikes, _ = ops.fire(current, Neuron(tau=config.tau))
        fired.add(f"blocks.{i}", spikes)
        return x + spikes


class NeverFires(Tiny):
    def run_block(self, p, config, i, x, inputs, ops, fired):
        spikes, v = ops.fire(affine(p, f"blocks.{i}", x, ops), Neuron(tau=config.tau, threshold=1e9))
        fired.add(f"blocks.{i}", spikes, v)
        return x + spikes


class AlwaysFires(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        return super().embed({EMB: p[EMB].abs()}, config, inputs, ops, fired)


class WrongStream(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        return super().embed(p, config, inputs, ops, fired)[:1]


class ReadsDirectly(Tiny):
    def run_block(self, p, config, i, x, inputs, ops, fired):
        return super().run_block(p, config, i, x, inputs, ops, fired) + p["blocks.0.weight"].sum() * 0


class NamesNotAllProducts(Tiny):
    def products(self, config):
        return {n: head for n, head in super().products(config).items() if n != "blocks.1.weight"}


class NamesTooManyProducts(Tiny):
    def products(self, config):
        return {**super().products(config), EMB: False}


class IndexesRows(Tiny):
    def embed(self, p, config, inputs, ops, fired):
        return super().embed({EMB: p[EMB][:]}, config, inputs, ops, fired)


class ForgetsTheHead(Tiny):
    def products(self, config):
        return dict.fromkeys(super().products(config), False)


# --------------------------------------------------------------------------------------- broken storage
class LosesNames(Tiny):
    def expanded(self, config, tensors):
        return {f"model.{name}": tensor for name, tensor in tensors.items()}


class KeepsPrefix(Tiny):
    def without_prefix(self, stored):
        return dict(stored)


class KnowsEverything(Tiny):
    def recognises(self, names):
        return True


class LosesSemantics(Tiny):
    def config_json(self, config):
        return {k: v for k, v in super().config_json(config).items() if k != "tau"}


class Changes(Tiny):
    def canonical(self, stored, values):
        return {name: tensor * 2 for name, tensor in stored.items()}


FAMILIES = {
    "pure": (CarriesState, WritesIds, WritesTensors),
    "prefix": (WritesStream, SkipsOverBlocks),
    "blocks_apart": (ReadsAnotherBlock,),
    "padding": (PoolsPadding,),
    "batches": (NormalizesTheBatch, CountsPadding),
    "causal": (LooksAhead,),
    "spikes": (ForgetsSite, CountsHalf),
    "neurons_fire": (NeverFires, AlwaysFires),
    "nan_shows": (HidesNan,),
    "shapes": (WrongStream,),
    "products": (ReadsDirectly, NamesNotAllProducts, NamesTooManyProducts, IndexesRows),
    "calibration": (NamesTooManyProducts,),
    "products_are_matrices": (ForgetsTheHead,),
    "names": (LosesNames, KeepsPrefix, KnowsEverything, Changes),
    "checkpoint": (Changes, LosesNames),
}


@pytest.mark.parametrize(
    ("check", "family"), [(check, f) for check, found in FAMILIES.items() for f in found]
)
def test_a_broken_family_fails_its_check(check, family):
    case = case_of(family())
    with pytest.raises(AssertionError) as failure:
        CHECKS[check](case)
    assert len(str(failure.value)) > 40, "it says what is wrong"


# --------------------------------------------------------------------------------------- broken configs
def broken(**methods: Callable[..., Any]) -> type[TinyConfig]:
    return dataclass(frozen=True)(type("Broken", (TinyConfig,), {**methods, "__annotations__": {}}))


def family_of(config_class: type[TinyConfig]) -> Tiny:
    return type("Family", (Tiny,), {"config_class": config_class})()


def without(unit: str) -> Callable[[TinyConfig], dict[str, list[str]]]:
    return lambda self: {u: n for u, n in TinyConfig.modules(self).items() if u != unit}


def renamed(old: str, new: str) -> Callable[[TinyConfig], dict[str, list[str]]]:
    return lambda self: {new if u == old else u: n for u, n in TinyConfig.modules(self).items()}


def live_also(more: str) -> Callable[..., bool]:
    return lambda self, name, kind: name == more or TinyConfig.is_live(self, name, kind)


CONFIGS = {
    "hierarchy": [
        {"modules": without("input/emb")},
        {"modules": renamed("attention.1/mix", "attention.2/mix")},
        {"modules": renamed("attention.1/mix", "attention.1.mix")},
        {"modules": lambda self: dict(reversed(TinyConfig.modules(self).items()))},
        {"modules": lambda self: {**TinyConfig.modules(self), "output/again": [EMB]}},
    ],
    "roles": [
        {"role": lambda self, name: "weights"},
        {"role": lambda self, name: "matrix"},
        {"role": lambda self, name: "bias"},
        {"is_live": live_also("teacher.weight")},
    ],
    "liveness": [
        {"is_live": live_also("teacher.weight")},
        {"is_live": lambda self, name, kind: "bias" not in name and TinyConfig.is_live(self, name, kind)},
    ],
    "sign_only": [{"reads_sign_only": lambda self, name: name in (EMB, "blocks.1.weight")}],
    "lean": [
        {"lean": lambda self, kind: self},
        {"lean": lambda self, kind: replace(TinyConfig.lean(self, kind), tau=3.0)},
    ],
    "packing": [{"lean": lambda self, kind: replace(TinyConfig.lean(self, kind), tau=9.0)}],
    "hostile_values": [{"__post_init__": lambda self: None}],
    "config_rejects": [
        {"check_keys": classmethod(lambda cls, values: None)},
        {"from_shapes": classmethod(lambda cls, shapes, **given: cls(**BOTH))},
    ],
    "config_round_trip": [
        {"to_dict": lambda self: {**ModelConfig.to_dict(self), "tau": 2.5}},
        {"from_dict": classmethod(lambda cls, values: cls(**values))},
    ],
    "semantics": [{"semantics": lambda self: {}}],
    "shapes_round_trip": [
        {"from_shapes": classmethod(lambda cls, shapes, **given: cls(**BOTH))},
        {"from_shapes": classmethod(lambda cls, shapes, **given: cls(**{**BOTH, "classes": 4, **given}))},
    ],
    "sites": [{"sites": lambda self: dict(reversed(TinyConfig.sites(self).items()))}],
    "facts": [{"describe": lambda self: "two\nlines"}, {"labels": 0, "generates": False}],
    "shapes": [{"stream_width": 3}],
    "config_json": [{"from_shapes": classmethod(lambda cls, shapes, **given: cls(**BOTH))}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "number"), [(check, n) for check, found in CONFIGS.items() for n in range(len(found))]
)
def test_a_broken_config_fails_its_check(check, number):
    methods = CONFIGS[check][number]
    family = family_of(broken(**methods))
    config = family.config_class(**BOTH, timesteps=3, tau=1.5)
    case = Case(family, config, make_case(Tiny(), TinyConfig(**BOTH, timesteps=3, tau=1.5)).tensors)
    with pytest.raises(AssertionError) as failure:
        CHECKS[check](case)
    assert len(str(failure.value)) > 40, "it says what is wrong"


def test_every_check_has_something_broken_that_fails_it():
    assert {*FAMILIES, *CONFIGS, "pads_alike"} == set(CHECKS)


def test_a_family_whose_pads_are_tokens_passes_once_it_says_so():
    class PadsAreTokens(Tiny):
        def encoding(self, config):
            return Encoding(pad_to=5)

        def class_logits(self, p, config, h, inputs, ops):
            return super().class_logits(p, config, h, Inputs(inputs.ids, None), ops)

    check_family(PadsAreTokens(), TinyConfig(**BOTH))


def test_one_pad_that_does_not_stand_for_all_is_found():
    class SaysAlike(Tiny):
        def encoding(self, config):
            return Encoding(pad_to=6, pads_alike=True)

    with pytest.raises(AssertionError, match="one pad in the place of all"):
        CHECKS["pads_alike"](case_of(SaysAlike()))


def test_a_family_that_reuses_nothing_may_read_what_it_likes():
    class ComputesAtOnce(SkipsOverBlocks):
        def reuses(self, config):
            return False

    check_family(ComputesAtOnce(), TinyConfig(**BOTH))
