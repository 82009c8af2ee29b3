"""SpikingBERT's checkpoints: up to five names for a tensor, and a training copy that nothing reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qslm_opt.cli.main import run
from qslm_opt.errors import ModelError
from qslm_opt.models import load_model, save_model
from qslm_opt.models.loading import hash_weights
from qslm_opt.models.registry import find_family
from qslm_opt.models.spikingbert import SpikingBERTConfig
from qslm_opt.pipeline import Session
from tests.models.spikingbert_case import CONFIG, FAMILY, spec_of, tensors_of, write_checkpoint, write_data

COPY = "snn_func_copy."


@pytest.fixture(scope="module")
def live() -> dict[str, Tensor]:
    return tensors_of()


def stored_as_the_original(live: Mapping[str, Tensor], lag: float = 0.05) -> dict[str, Tensor]:
    """Return every name, each with numbers of its own; those of the training copy are one step old."""
    names = FAMILY.expanded(CONFIG, live)
    return {n: t + lag if COPY in n else t.clone() for n, t in names.items()}


def test_every_alias_leads_to_the_live_tensor(live):
    loaded = FAMILY.canonical(stored_as_the_original(live), {})
    assert loaded.keys() == live.keys()
    assert all(torch.equal(loaded[name], live[name]) for name in live)
    named = [f"module.{name}" for name in FAMILY.expanded(CONFIG, live)]
    assert find_family(named).name == find_family(live).name == "spikingbert"


def test_a_change_under_one_name_is_never_a_silent_no_op(live):
    """Every name of every tensor: the loader either sees the change or names two names that differ."""
    stored = stored_as_the_original(live)
    seen, refused = [], []
    for name in stored:
        if COPY in name:
            continue
        changed = {**stored, name: stored[name] + 1}
        try:
            loaded = FAMILY.canonical(changed, {})
        except ModelError as error:
            refused.append(name)
            others = [other for other in stored if repr(other) in str(error)]
            assert len(others) == 2 and name in others
        else:
            seen.append(name)
            assert torch.equal(loaded[name], changed[name])
    assert set(seen) == {n for n in live if not n.startswith("network_")}, "these have one name"
    assert len(refused) == 3 * sum(n.startswith("network_") for n in live)


def test_one_alias_left_out_or_alone_is_still_the_tensor(live):
    stored = stored_as_the_original(live)
    for kept in ("network_", "snn_func.", "snn_ide_conv.snn_func."):
        single = ("fit_dense", "pooler_layer", "classification")
        found = FAMILY.canonical({n: t for n, t in stored.items() if n.startswith((kept, *single))}, {})
        assert found.keys() == live.keys() and hash_weights(found) == hash_weights(live)


def test_the_training_copy_is_not_read(live):
    early, late = (FAMILY.canonical(stored_as_the_original(live, lag), {}) for lag in (0.05, 9.0))
    assert hash_weights(early) == hash_weights(late) == hash_weights(live)
    assert find_family({n for n in stored_as_the_original(live) if COPY in n}) is None


def test_a_change_of_the_training_copy_is_told_and_changes_nothing(live, tmp_path):
    """Under both its names and under one; what shares the live numbers is no loss and is not told."""
    same = {name: tensor.clone() for name, tensor in FAMILY.expanded(CONFIG, live).items()}
    assert load_model(str(write_checkpoint(tmp_path / "a", same))).left_out == ""
    name = "network_x.word_embeddings.weight"
    for folder, prefixes in (("b", (COPY,)), ("c", (COPY, f"snn_ide_conv.{COPY}"))):
        zeroed = {f"{prefix}{name}": torch.zeros_like(live[name]) for prefix in prefixes}
        assert zeroed.keys() <= same.keys()
        found = load_model(str(write_checkpoint(tmp_path / folder, same | zeroed)))
        assert found.left_out.startswith("left out: 1 tensor of the training copy, snn_func_copy,")
        assert found.weights_hash == hash_weights(live)
    copied = {name for name in live if name.startswith("network_")}
    assert f" {len(copied)} tensors of the" in FAMILY.left_out(stored_as_the_original(live))


def test_the_training_copy_is_told_by_info(shared, capsys):
    """The golden file's copy shares the three embeddings with the live model; the rest is a step old."""
    folder = str(shared / "models/spikingbert-tiny")
    assert run(["model", "info", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"].startswith("left out: 67 tensors of the training copy")
    assert run(["model", "info", folder]) == 0
    assert found["left_out"] in " ".join(capsys.readouterr().out.split())


def test_the_training_copy_is_told_once_before_a_study(live, tmp_path):
    write_checkpoint(tmp_path / "model", stored_as_the_original(live))
    write_data(tmp_path / "data")
    said: list[str] = []
    Session.open(spec_of(tmp_path), said.append)
    assert len([line for line in said if "training copy" in line]) == 1


# ----------------------------------------------------------------------------------------- and back
def module_of(groups: list[tuple[list[int], list[str]]]) -> nn.Module:
    """Build a module tree whose parameters carry these names, one parameter for each group of aliases."""
    root = nn.Module()
    for shape, names in groups:
        parameter = nn.Parameter(torch.full(shape, float("nan")))
        for name in names:
            *parts, last = name.split(".")
            owner = root
            for part in parts:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            owner.register_parameter(last, parameter)
    return root


def test_an_export_loads_strictly_into_the_originals_names(shared, tmp_path):
    """Into the original's own names and shared storages, as its golden model lists them."""
    folder = shared / "models/spikingbert-tiny"
    expected = json.loads((folder / "expected.json").read_text())
    groups = [(expected["state_dict"][names[0]], names) for names in expected["storages"]]
    assert sum(len(names) for _, names in groups) == 356 and len(groups) == 143
    model = load_model(str(folder))
    shifted = {name: tensor + 0.25 for name, tensor in model.tensors.items()}
    save_model(tmp_path / "out", model.config, shifted)
    written = load_file(tmp_path / "out/model.safetensors")
    original = module_of(groups)
    original.load_state_dict(written, strict=True)
    values = original.state_dict()
    assert len(values) == 356
    for name, tensor in shifted.items():
        for alias in (n for _, names in groups if name in names for n in names):
            assert torch.equal(values[alias], tensor), alias
    again = load_model(str(tmp_path / "out"))
    assert again.config == model.config and again.weights_hash == hash_weights(shifted)


def test_every_alias_of_an_export_is_one_tensor(live, tmp_path):
    """torch.save keeps what is shared: the file of five names a tensor is no larger than that of one."""
    names = FAMILY.expanded(CONFIG, live)
    torch.save(names, tmp_path / "all.pth")
    torch.save(live, tmp_path / "one.pth")
    assert len(names) > 4 * len(live) - 20
    assert len({t.data_ptr() for t in names.values()}) == len(live)
    apart = (tmp_path / "all.pth").stat().st_size - (tmp_path / "one.pth").stat().st_size
    assert apart < 400 * len(names), "names cost bytes, numbers none"


def test_what_a_lean_model_has_not_is_exported_as_zeros(live):
    lean = CONFIG.lean("classification")
    kept = {name: live[name] for name in lean.tensor_shapes()}
    assert set(live) - set(kept) == set(CONFIG.unused_shapes())
    out = FAMILY.expanded(lean, kept)
    assert out.keys() == FAMILY.expanded(CONFIG, live).keys()
    assert all(not out[name].any() and out[name].shape == live[name].shape for name in set(live) - set(kept))


def test_the_depth_is_the_checkpoints_and_the_rest_the_files(tmp_path):
    """config.json of the case says 12 layers, as the originals' may: the original ignores it."""
    model = load_model(str(write_checkpoint(tmp_path / "m")), overrides={"timesteps": 5})
    assert model.config == CONFIG
    (tmp_path / "m/config.json").unlink()
    with pytest.raises(ModelError, match="num_attention_heads"):
        load_model(str(tmp_path / "m"))
    keys = {"timesteps": 5, "num_attention_heads": 4}
    assert load_model(str(tmp_path / "m"), overrides=keys).config == CONFIG
    assert SpikingBERTConfig(**FAMILY.declared(FAMILY.config_json(CONFIG))) == CONFIG


def test_a_checkpoint_that_differs_by_alias_is_refused_by_both_names(tmp_path, live):
    stored = stored_as_the_original(live)
    name = "snn_ide_conv.snn_func.network_s_list.4.dense.weight"
    stored[name] = stored[name].round()
    with pytest.raises(ModelError, match=r"'network_s5\.dense\.weight' and 'snn_ide_conv\.snn_func\.net"):
        load_model(str(write_checkpoint(tmp_path / "m", stored)))


@pytest.mark.parametrize("name", ["network_s_list.99999999999.fc.weight", "network_s9.query.weight", "x"])
def test_an_unknown_name_is_refused(tmp_path, live, name):
    stored = {**FAMILY.expanded(CONFIG, live), name: torch.zeros(3, 3)}
    with pytest.raises(ModelError):
        load_model(str(write_checkpoint(tmp_path / "m", stored)))


def test_unused_tensors_are_stored_beside_the_model_and_counted_nowhere(live):
    from qslm_opt.hierarchy.discover import discover

    tree = discover(CONFIG, CONFIG.tensor_shapes(), "classification")
    dead = {t.name for t in tree.tensors() if not t.live}
    assert dead == set(CONFIG.unused_shapes()) == {t.name for t in tree.blocks[-1].tensors()}
    assert tree.blocks[-1].unit == "aux"
    assert tree.fp32_bytes() == 4 * sum(live[name].numel() for name in live if name not in dead)
    none = replace(CONFIG, fit_size=0, has_feedback=False, has_pooler=False)
    assert none.lean("classification").tensor_shapes() == none.tensor_shapes()
