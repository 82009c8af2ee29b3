"""SpikeLM: its config, names and tree, the golden cases, and what a forward pass may depend on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.errors import ModelError  # noqa: E402
from qslm_opt.hierarchy.discover import discover  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE, fast_ops  # noqa: E402
from qslm_opt.models.family import Fired, Inputs  # noqa: E402
from qslm_opt.models.loading import load_model, save_model  # noqa: E402
from qslm_opt.models.spikelm import LEAK, SpikeLM, SpikeLMConfig  # noqa: E402

FAMILY = SpikeLM()
CONFIG = SpikeLMConfig(50, 16, 2, 24, 32, 3, num_attention_heads=2, timesteps=3)
BINARY = replace(CONFIG, input_bits=1)
QUERY = "bert.encoder.layer.0.attention.self.query"


def random_tensors(cfg: SpikeLMConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights at which every site fires up, down and not at all."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in cfg.tensor_shapes().items():
        noise = torch.randn(shape, generator=g)
        role = cfg.role(name)
        if role == "neuron":
            low = 0.1 if ".output.dense.act" in name and "attention" not in name else 0.8
            noise = low + torch.rand(shape, generator=g)
        elif role == "norm":
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif role in ("matrix", "head"):
            noise = noise * 1.3 / shape[1] ** 0.5
        found[name] = noise
    return found


def padded(lengths: list[int], vocabulary: int, seed: int = 1) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (len(lengths), max(lengths)), generator=g)
    of = torch.tensor(lengths)
    return Inputs(ids * (torch.arange(max(lengths)) < of[:, None]), of)


class Seen(Fired):
    """Keeps the spikes of every site, and of its steps those that are no padding."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.spikes: dict[str, torch.Tensor] = {}

    def add(self, site: str, spikes: torch.Tensor, v: torch.Tensor | None = None) -> None:
        super().add(site, spikes, v)
        self.spikes[site] = spikes

    def table(self, site: str, inside: torch.Tensor | None) -> list[list[int]]:
        """Return [minus, zero, plus] of every step."""
        steps = self.spikes[site] if inside is None else self.spikes[site][:, inside]
        return [[int((o < 0).sum()), int((o == 0).sum()), int((o > 0).sum())] for o in steps]


def run(cfg, tensors, inputs, dtype=torch.float64, ops=REFERENCE) -> tuple[torch.Tensor, Seen]:
    seen = Seen(inputs)
    p = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    with torch.inference_mode():
        return FAMILY.logits(p, cfg, inputs, ops, seen), seen


# -- the golden cases ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(shared: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    folder = shared / "models" / "spikelm-tiny"
    model = load_model(str(folder / "model.pth"), overrides={"num_attention_heads": 4})
    texts = ((folder / name).read_text() for name in ("inputs.json", "expected.json"))
    return model, *map(json.loads, texts)


def golden_inputs(given: dict[str, Any]) -> Inputs:
    return Inputs(torch.tensor(given["input_ids"]), torch.tensor(given["lengths"]))


def test_golden_logits_and_every_spike_in_float64(tiny) -> None:
    model, given, expected = tiny
    inputs = golden_inputs(given)
    logits, seen = run(model.config, model.tensors, inputs)
    exact = torch.tensor(expected["logits"], dtype=torch.float64)
    torch.testing.assert_close(logits, exact, rtol=0, atol=1e-10)
    valid, whole = expected["counts_valid_positions"], expected["counts_all_positions_padded_batch"]
    assert set(seen.spikes) == set(valid) == set(model.config.sites())
    for site, counts in valid.items():
        assert seen.table(site, inputs.inside()) == counts, site
        assert seen.table(site, None) == whole[site], site
        assert float(seen.counts[site]) == sum(minus + plus for minus, _, plus in counts), site


def test_golden_logits_of_sentences_alone_and_without_a_mask(tiny) -> None:
    model, given, expected = tiny
    inputs = golden_inputs(given)
    assert inputs.lengths is not None
    for row, length in enumerate(inputs.lengths.tolist()):
        alone, _ = run(model.config, model.tensors, Inputs(inputs.ids[row : row + 1, :length], None))
        wanted = torch.tensor(expected["logits_single_unpadded"][row], dtype=torch.float64)
        torch.testing.assert_close(alone[0], wanted, rtol=0, atol=1e-10)
    unmasked, _ = run(model.config, model.tensors, Inputs(inputs.ids, None))
    wanted = torch.tensor(expected["logits_no_mask_padded_batch"], dtype=torch.float64)
    torch.testing.assert_close(unmasked, wanted, rtol=0, atol=1e-10)


def test_golden_logits_in_float32(tiny) -> None:
    model, given, expected = tiny
    inputs = golden_inputs(given)
    logits, seen = run(model.config, model.tensors, inputs, torch.float32, fast_ops("cpu"))
    off = [
        abs(a - b)
        for site, counts in expected["counts_valid_positions"].items()
        for mine, theirs in zip(seen.table(site, inputs.inside()), counts, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    assert max(off) <= 2
    if max(off) == 0:
        torch.testing.assert_close(logits, torch.tensor(expected["logits"]), rtol=0, atol=1e-5)


# -- config, names, tree ---------------------------------------------------------------------------


def test_a_config_is_inferred_from_its_own_shapes() -> None:
    for cfg in (CONFIG, replace(CONFIG, timesteps=2)):
        found = SpikeLMConfig.from_shapes(
            cfg.tensor_shapes(), num_attention_heads=2, timesteps=cfg.timesteps, vocab_size=50
        )
        assert found == cfg and SpikeLMConfig.from_dict(cfg.to_dict()) == cfg


def test_the_base_size_has_the_original_count_of_parameters_and_names() -> None:
    cfg = SpikeLMConfig(30522, 768, 12, 3072, 512, 2, num_attention_heads=12)
    shapes = cfg.tensor_shapes()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 109_484_162
    assert len(FAMILY.expanded(cfg, dict.fromkeys(shapes))) == 658


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_attention_heads": 0}, "no file says.*--config num_attention_heads=N"),
        ({"num_attention_heads": 3}, "its 3 attention heads must divide its width 16"),
        ({"timesteps": 4}, "is 4, but the model has amplitudes for 3 steps; use 1 to 3"),
        ({"timesteps": 0}, "'timesteps' is 0; it must be at least 1"),
        ({"input_bits": 3}, "'input_bits' is 3; it must be at most 2"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"num_hidden_layers": 10_001}, "num_hidden_layers"),
        ({"num_hidden_layers": 9000, "stored_steps": 4000}, "blocks times steps must be at most"),
        ({"hidden_size": -16}, "hidden_size"),
        ({"stored_steps": -1}, "'stored_steps' is -1; it must be at least 0"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(CONFIG, **{"stored_steps": 3, **keys})


def test_config_json_is_read_in_the_authors_words() -> None:
    declared = FAMILY.declared({"model_type": "bert", "T": 2, "num_attention_heads": 2, "hidden_act": "relu"})
    assert declared == {"timesteps": 2, "num_attention_heads": 2}
    assert FAMILY.declared(FAMILY.config_json(CONFIG)) == CONFIG.to_dict()
    with pytest.raises(ModelError, match="another family"):
        FAMILY.declared({"model_type": "spikegpt"})


@pytest.mark.parametrize("prefix", ["", "student.", "module.student."])
def test_a_checkpoint_with_the_authors_buffers_is_read_and_written(tmp_path: Path, prefix: str) -> None:
    tensors = random_tensors(CONFIG)
    theirs = {prefix + name: tensor for name, tensor in FAMILY.expanded(CONFIG, tensors).items()}
    assert theirs[f"{prefix}bert.embeddings.position_ids"].dtype == torch.int64
    torch.save(theirs, tmp_path / "model.pth")
    model = load_model(str(tmp_path / "model.pth"), overrides={"num_attention_heads": 2})
    assert model.config == CONFIG and model.tensors.keys() == tensors.keys()
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in tensors.items())
    save_model(tmp_path / "again", CONFIG, model.tensors)
    again = load_model(str(tmp_path / "again"))
    assert (again.config, again.weights_hash) == (CONFIG, model.weights_hash)


def test_a_checkpoint_without_its_heads_or_amplitudes_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    with pytest.raises(ModelError, match=r"no two-dimensional 'classifier\.weight'"):
        SpikeLMConfig.from_shapes({n: tuple(t.shape) for n, t in tensors.items() if "classifier" not in n})
    torch.save({n: t for n, t in tensors.items() if not n.endswith("clip_value.2")}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match=r"2 tensors missing .*clip_value\.2"):
        load_model(str(tmp_path / "m.pth"), overrides={"num_attention_heads": 2})


def test_amplitudes_are_counted_and_never_searched() -> None:
    tree = discover(CONFIG, CONFIG.tensor_shapes(), "classification")
    assert [block.unit for block in tree.blocks] == ["input", "attention.0", "attention.1", "output"]
    tensors = {t.name: t for t in tree.tensors()}
    assert set(tensors) == set(CONFIG.tensor_shapes())
    amplitudes = [t for t in tensors.values() if t.role == "neuron"]
    assert len(amplitudes) == 8 * 2 * 3 and all(t.counted and not t.searched for t in amplitudes)
    searched = {t.name for t in tensors.values() if t.searched}
    assert searched == {*FAMILY.products(CONFIG), *FAMILY.read_by_row(CONFIG)}


def test_amplitudes_of_steps_that_are_left_out_are_dead() -> None:
    fewer = replace(CONFIG, timesteps=2, stored_steps=3)
    tree = discover(fewer, fewer.tensor_shapes(), "classification")
    dead = {t.name for t in tree.tensors() if not t.live}
    assert tree.blocks[-1].kind == "aux" and len(dead) == 8 * 2
    assert dead == {name for name in fewer.tensor_shapes() if name.endswith(".2")}
    lean = fewer.lean("classification")
    assert set(fewer.tensor_shapes()) - set(lean.tensor_shapes()) == dead
    assert "aux" not in {unit.partition("/")[0] for unit in lean.modules()}


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [CONFIG, BINARY], ids=["ternary", "binary"])
def test_spikes_are_those_of_the_written_equations(cfg: SpikeLMConfig) -> None:
    """Site by site from the spikes in front of it, with plain numbers."""
    tensors, inputs = random_tensors(cfg), padded([5, 9], 50)
    _, seen = run(cfg, tensors, inputs)
    p = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    e = p["bert.embeddings.word_embeddings.weight"][inputs.ids.numpy()]
    e = e + p["bert.embeddings.position_embeddings.weight"][: e.shape[1]]
    e = e + p["bert.embeddings.token_type_embeddings.weight"][0]
    e = (e - e.mean(-1, keepdims=True)) / np.sqrt(e.var(-1, keepdims=True) + 1e-12)
    x = e * p["bert.embeddings.LayerNorm.weight"] + p["bert.embeddings.LayerNorm.bias"]
    carried: Any = 0.0
    for t, spikes in enumerate(seen.spikes[f"{QUERY}.act_clip_val"].numpy()):
        a, m = p[f"{QUERY}.act_clip_val.{t}"], carried + x
        o = a * (np.clip(np.round(m / a), -1, 1) if cfg.input_bits == 2 else np.sign(m))
        np.testing.assert_allclose(spikes, o, rtol=1e-12, atol=0)
        carried = LEAK * m * (a - o)
    key = QUERY.replace("query", "key")
    k = seen.spikes[f"{key}.act_clip_val"].numpy() @ p[f"{key}.weight"].T + p[f"{key}.bias"]
    for t, spikes in enumerate(seen.spikes["bert.encoder.layer.0.attention.self.clip_key"].numpy()):
        a = p[f"bert.encoder.layer.0.attention.self.clip_key.{t}"]
        wanted = np.clip(np.round(k[t] / a), -1, 1) if cfg.input_bits == 2 else np.sign(k[t])
        np.testing.assert_allclose(spikes, a * wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cfg", [CONFIG, BINARY], ids=["ternary", "binary"])
def test_every_site_fires_both_ways_in_the_random_model(cfg: SpikeLMConfig) -> None:
    inputs = padded([20, 30, 7], 50)
    _, seen = run(cfg, random_tensors(cfg), inputs)
    for site in cfg.sites():
        minus, zero, plus = np.sum(seen.table(site, inputs.inside()), axis=0)
        assert minus and plus and (zero or cfg.input_bits == 1), site
        assert float(seen.counts[site]) == minus + plus


def test_pads_and_neighbours_change_nothing() -> None:
    tensors, inputs = random_tensors(CONFIG), padded([4, 11, 7], 50)
    together, seen = run(CONFIG, tensors, inputs)
    counts = dict.fromkeys(CONFIG.sites(), 0.0)
    for row, length in enumerate([4, 11, 7]):
        alone, by_site = run(CONFIG, tensors, Inputs(inputs.ids[row : row + 1, :length], None))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)
        counts = {site: count + float(by_site.counts[site]) for site, count in counts.items()}
    assert counts == {site: float(count) for site, count in seen.counts.items()}


def test_fewer_steps_are_the_first_ones(tmp_path: Path) -> None:
    """They fire what they fire among more, and give what a checkpoint of so many steps gives."""
    tensors, inputs = random_tensors(CONFIG), padded([4, 11], 50)
    torch.save(tensors, tmp_path / "m.pth")
    keys = {"num_attention_heads": 2}
    fewer = load_model(str(tmp_path / "m.pth"), overrides={**keys, "timesteps": 2})
    assert (fewer.config.timesteps, fewer.config.stored_steps) == (2, 3)
    logits, seen = run(fewer.config, fewer.tensors, inputs)
    _, whole = run(CONFIG, tensors, inputs)
    assert all(torch.equal(seen.spikes[site], whole.spikes[site][:2]) for site in CONFIG.sites())
    torch.save({n: t for n, t in tensors.items() if not n.endswith(".2")}, tmp_path / "cut.pth")
    cut = load_model(str(tmp_path / "cut.pth"), overrides=keys)
    assert cut.config == fewer.config.lean("classification")
    assert torch.equal(run(cut.config, cut.tensors, inputs)[0], logits)
    assert not torch.allclose(run(CONFIG, tensors, inputs)[0], logits)


def test_an_amplitude_of_one_is_one() -> None:
    """The released code would estimate it from the first batch: here it is next to what lies next to it."""
    inputs = padded([6, 9], 50)

    def at(amplitude: float) -> torch.Tensor:
        tensors = {n: t.double() for n, t in random_tensors(CONFIG).items()}
        names = [name for name in tensors if CONFIG.role(name) == "neuron"]
        return run(CONFIG, tensors | dict.fromkeys(names, torch.tensor(amplitude).double()), inputs)[0]

    torch.testing.assert_close(at(1.0), at(1.0 + 1e-13), rtol=0, atol=1e-9)


def test_currents_that_are_no_numbers_show_in_the_counts() -> None:
    tensors = random_tensors(CONFIG)
    tensors[f"{QUERY}.weight"][3, 2] = float("nan")
    _, seen = run(CONFIG, tensors, padded([4, 6], 50))
    assert torch.isfinite(seen.counts[f"{QUERY}.act_clip_val"])
    assert torch.isnan(seen.counts["bert.encoder.layer.0.attention.output.dense.act_clip_val"])
