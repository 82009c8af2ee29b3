"""Checks of what goes to disk and comes back: names, lean models, checkpoints and packed files."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from qslm_opt.conformance.case import Case
from qslm_opt.errors import ModelError
from qslm_opt.formats import Layout
from qslm_opt.models.loading import load_model, save_model
from qslm_opt.models.packing import Origin, pack_model
from qslm_opt.models.registry import registered
from qslm_opt.quant import QuantizedView
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SETTING = QuantSetting({"network": Layout.parse("channel/midrise").with_bits(4)})
_DEFAULTS = ("embed_spike", "rescale_every")
"""Config keys that ``load_model`` takes by name."""


def check_names(case: Case) -> None:
    """``canonical`` undoes ``expanded``, prefixes go, and the family knows its own names."""
    family, config = case.family, case.config
    stored = family.expanded(config, case.tensors)
    values = json.loads(json.dumps(family.config_json(config)))
    _check_equal("canonical(expanded(x))", family.canonical(stored, values), case.tensors)
    for prefix in family.prefixes:
        named = {prefix + name: tensor for name, tensor in stored.items()}
        _check_equal(f"without_prefix of {prefix!r}", family.without_prefix(named), stored)
        twice = {**stored, **dict(list(named.items())[:1])}
        try:
            family.without_prefix(twice)
        except ModelError:
            continue
        raise AssertionError("without_prefix must refuse a tensor with and without its prefix.")
    assert family.recognises(set(stored)), "recognises() must know the names that expanded() writes."
    assert not family.recognises({"of.another.family"}), (
        "recognises() must not know every name, or the family would take other families' checkpoints."
    )


def check_config_json(case: Case) -> None:
    """``declared`` reads back ``config_json``, and takes nothing that is no key of the config."""
    family, config = case.family, case.config
    declared = family.declared(json.loads(json.dumps(family.config_json(config))))
    type(config).check_keys(declared)
    found = type(config).from_shapes(config.tensor_shapes(), **declared)
    assert found == config, "from_shapes with what declared() reads from config_json() must be the config."


def check_lean(case: Case) -> None:
    """The lean model has every tensor that is live, no other, and computes the same."""
    for kind in case.kinds:
        lean = case.config.lean(kind)
        names, live = set(lean.tensor_shapes()), set(case.live(kind))
        assert names == live, (
            f"lean({kind!r}) must have exactly the live tensors; it has {sorted(names - live)[:3]} too many "
            f"and lacks {sorted(live - names)[:3]}."
        )
        assert lean.lean(kind) == lean, f"lean({kind!r}) of a lean config must be itself."
        assert lean.semantics() == case.config.semantics(), f"lean({kind!r}) must keep the semantics."
        few = Case(case.family, lean, {name: case.tensors[name] for name in lean.tensor_shapes()}, case.seed)
        assert kind in few.kinds, f"lean({kind!r}) must keep the head of its task."
        assert case.run(kind).same(few.run(kind)), f"the lean model computes other {kind} logits or spikes."


def check_checkpoint(case: Case) -> None:
    """What ``save_model`` writes, ``load_model`` reads: the same config and the same bits."""
    with TemporaryDirectory() as folder, registered(case.family):
        save_model(Path(folder) / "model", case.config, case.tensors)
        model = _load(Path(folder) / "model", case)
    assert model.config == case.config, "a saved model must load with the config it was saved with."
    _check_equal("a saved and loaded model", model.tensors, case.tensors)


def check_packing(case: Case) -> None:
    """A packed model loads with the weights that its setting simulates, and computes the same."""
    for kind in case.kinds:
        hierarchy = case.hierarchy(kind)
        view = QuantizedView(case.tensors, hierarchy)
        with TemporaryDirectory() as folder, registered(case.family):
            path = Path(folder) / "packed"
            origin = Origin(None, kind, "0/0")
            pack_model(path, case.model(), hierarchy, SETTING, view.codes(SETTING), origin)
            packed = _load(path, case)
        simulated = view.apply(SETTING)
        _check_equal("a packed model", packed.tensors, {n: simulated[n] for n in packed.tensors})
        assert packed.config == case.config.lean(kind), "a packed model must have the lean config."
        few = Case(case.family, packed.config, packed.tensors, case.seed)
        with torch.inference_mode():
            wanted = case.run(kind, {n: t.double() for n, t in simulated.items()})
        assert few.run(kind).same(wanted), f"a packed model computes other {kind} logits or spikes."


def _load(folder: Path, case: Case) -> Any:
    keys = {key: getattr(case.config, key) for key in _DEFAULTS if key in case.config.key_names()}
    return load_model(str(folder), family=case.family.name, **keys)


def _check_equal(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert set(found) == set(wanted), (
        f"{what} has other names: {sorted(set(found) ^ set(wanted))[:3]}."
    )
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{what} has other numbers in {name!r}."
