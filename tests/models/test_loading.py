from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from qslm_opt.errors import ModelError, NumericsError, QslmError, UsageError
from qslm_opt.models import locate
from qslm_opt.models.config import ModelConfig
from qslm_opt.models.loading import LoadedModel, hash_weights, load_model, save_model
from qslm_opt.models.spikebert import SpikeBERTConfig
from qslm_opt.models.spikegpt_config import SpikeGPTConfig

CONFIG = SpikeGPTConfig(vocab_size=40, n_layer=2, n_embd=8)
Tensors = dict[str, torch.Tensor]


def weights(config: ModelConfig = CONFIG, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(shape, generator=generator) for n, shape in config.tensor_shapes().items()}


def tokenizer(size: int = 40) -> Tokenizer:
    return Tokenizer(WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))


def pth(folder: Path, value: Any, **how: Any) -> str:
    path = folder / "model.pth"
    torch.save(value, path, **how)
    return str(path)


def same(model: LoadedModel, tensors: Tensors) -> bool:
    return list(model.tensors) == list(CONFIG.tensor_shapes()) and all(
        torch.equal(model.tensors[name], tensor.float()) for name, tensor in tensors.items()
    )


# -- what loads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_the_authors_checkpoint_loads_in_both_torch_formats(tmp_path: Path, zipped: bool) -> None:
    tensors = weights()
    model = load_model(pth(tmp_path, tensors, _use_new_zipfile_serialization=zipped))
    assert same(model, tensors)
    assert model.config == CONFIG
    assert model.tokenizer is None


@pytest.mark.parametrize("wrap", [
    lambda t: {"state_dict": t, "epoch": 3, "optimizer": {"lr": 1e-3}},
    lambda t: {"model": t},
    lambda t: {f"module.{n}": v for n, v in t.items()},
    lambda t: {"state_dict": {f"module.{n}": v for n, v in t.items()}},
    lambda t: {**t, "epoch": 3, "note": "best"},
    lambda t: dict(reversed(t.items())),
], ids=["trainer", "model", "module", "both", "extra-values", "other-order"])  # fmt: skip
def test_a_state_dict_loads_however_it_is_wrapped(tmp_path: Path, wrap: Callable[[Tensors], Any]) -> None:
    tensors = weights()
    assert same(load_model(pth(tmp_path, wrap(tensors))), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in weights().items()}
    model = load_model(pth(tmp_path, tensors))
    assert same(model, tensors)
    assert {t.dtype for t in model.tensors.values()} == {torch.float32}


def test_loaded_tensors_stand_on_their_own(tmp_path: Path) -> None:
    tensors = {**weights(), "head.weight": torch.randn(8, 40).t()}
    path = pth(tmp_path, tensors)
    model = load_model(path)
    Path(path).write_bytes(b"\0" * Path(path).stat().st_size)
    assert same(model, tensors)
    assert all(t.is_contiguous() for t in model.tensors.values())


@pytest.mark.parametrize("config", [
    SpikeGPTConfig(40, 2, 8, model_type="RWKV-ffnPre"),
    SpikeGPTConfig(40, 3, 8, n_ffn=24),
    SpikeGPTConfig(40, 2, 8, n_labels=3),
    SpikeGPTConfig(40, 2, 8, n_labels=2, has_head=False),
], ids=["ffnPre", "ffn", "labels", "no-head"])  # fmt: skip
def test_the_config_is_inferred_from_names_and_shapes(tmp_path: Path, config: SpikeGPTConfig) -> None:
    assert load_model(pth(tmp_path, weights(config))).config == config


def test_overrides_win_over_what_is_inferred(tmp_path: Path) -> None:
    path = pth(tmp_path, weights())
    assert load_model(path, overrides={"ctx_len": 77}).config.ctx_len == 77
    assert load_model(path, embed_spike="auto", rescale_every=6).config.rescale_every == 6
    with pytest.raises(ModelError, match=r"model_type 'RWKV-ffnPre'|ffnPre"):
        load_model(path, overrides={"model_type": "RWKV-ffnPre"})


@pytest.mark.parametrize(("overrides", "message"), [
    ({"ctx_length": 5}, r"'ctx_length' is unknown.*ctx_len"),
    ({"ctx_len": "5"}, r"'ctx_len' is '5'; it must be a whole number: correct it in config.json"),
    ({"n_layer": True}, r"'n_layer' is True"),
    ({"n_layer": 10**9}, r"'n_layer' is 1000000000; it must be at most 10,000: .*--config n_layer=VALUE"),
    ({"n_embd": 16}, r"of another shape \(emb.weight \[40, 8\] instead of \[40, 16\]"),
])  # fmt: skip
def test_a_wrong_override_is_named(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(pth(tmp_path, weights()), overrides=overrides)


def test_a_config_file_beside_the_checkpoint_wins_over_what_is_inferred(tmp_path: Path) -> None:
    path = pth(tmp_path, weights())
    (tmp_path / "config.json").write_text('{"ctx_len": 512, "torch_dtype": "float16"}')
    assert load_model(path).config.ctx_len == 512
    assert load_model(str(tmp_path), overrides={"ctx_len": 3}).config.ctx_len == 3


@pytest.mark.parametrize(("text", "message"), [
    ('{"model_type": "bert"}', "model_type 'bert'"),
    ('{"n_layer": "two"}', "'n_layer' is 'two'"),
    ("[1]", "not a JSON object"),
    ("{", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
])  # fmt: skip
def test_a_config_file_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = pth(tmp_path, weights())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_a_saved_folder_loads_back_bit_for_bit(tmp_path: Path) -> None:
    config = SpikeGPTConfig(40, 2, 8, model_type="RWKV-ffnPre", n_labels=2, ctx_len=64)
    save_model(tmp_path / "out", config, weights(config), tokenizer())
    model = load_model(str(tmp_path / "out"))
    assert model.config == config
    assert model.weights_hash == hash_weights(weights(config))
    assert model.need_tokenizer().encode("w3").ids == [3]


def test_a_folders_semantics_are_never_dropped_in_silence(tmp_path: Path) -> None:
    config = SpikeGPTConfig(40, 2, 8, embed_spike="off", rescale_every=6)
    save_model(tmp_path, config, weights(config))
    with pytest.raises(ModelError, match="--embed-spike off"):
        load_model(str(tmp_path))
    assert load_model(str(tmp_path), embed_spike="off", rescale_every=6).config == config


def test_what_no_file_tells_is_said_to_be_assumed(tmp_path: Path) -> None:
    config = SpikeBERTConfig(40, 1, 8, 2, heads=4)
    path = pth(tmp_path, weights(config))
    usual = {"heads": 8, "timesteps": 4, "tau": 2.0, "common_thr": 1.0, "qk_scale": 0.125, "length": 128}
    assert load_model(path).assumed == usual
    assert "heads 8" in load_model(path).assumptions
    (tmp_path / "config.json").write_text('{"T": 3, "qk_scale": 0.25}')
    found = load_model(path, overrides={"heads": 4, "length": 16})
    assert found.assumed == {"tau": 2.0, "common_thr": 1.0} and found.config.timesteps == 3


def test_safetensors_shards_are_one_model(tmp_path: Path) -> None:
    tensors = weights()
    names = list(tensors)
    for i, part in enumerate((names[:5], names[5:]), start=1):
        save_file({n: tensors[n] for n in part}, tmp_path / f"model-{i:05}-of-00002.safetensors")
    assert same(load_model(str(tmp_path)), tensors)
    save_file({names[0]: tensors[names[0]]}, tmp_path / "model-00003-of-00003.safetensors")
    with pytest.raises(ModelError, match=r"'emb\.weight' once more"):
        load_model(str(tmp_path))


def test_tied_tensors_are_one_and_are_told(tmp_path: Path) -> None:
    tensors = weights()
    tensors["head.weight"] = tensors["emb.weight"]
    model = load_model(pth(tmp_path, dict(reversed(tensors.items()))))
    assert model.ties == {"head.weight": "emb.weight"}
    assert model.tensors["head.weight"] is model.tensors["emb.weight"]
    assert load_model(pth(tmp_path, weights())).ties == {}


def test_a_tie_stated_in_the_config_stands_in_for_the_head(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_model(str(tmp_path)).config.has_head is False
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    assert load_model(str(tmp_path)).ties == {"head.weight": "emb.weight"}


def test_the_hash_follows_names_shapes_and_bits() -> None:
    tensors = weights()
    digest = hash_weights(tensors)
    assert digest == hash_weights(dict(reversed(tensors.items())))
    assert digest == hash_weights({n: t.double() for n, t in tensors.items()})
    flipped = {**tensors, "ln_out.bias": tensors["ln_out.bias"].clone()}
    flipped["ln_out.bias"].view(torch.int32)[0] ^= 1
    assert digest != hash_weights(flipped)
    assert digest != hash_weights({**tensors, "emb.weight": tensors["emb.weight"].reshape(8, 40)})
    one = {"a": torch.tensor([1.0, -0.0])}
    assert hash_weights(one) == sha256(b"a[2]\0" + np.array([1.0, -0.0], "<f4").tobytes()).hexdigest()


@pytest.mark.parametrize(("folder", "tensors", "labels"), [("lm", 222, 0), ("sst2", 223, 2)])
def test_the_reference_models_load(shared: Path, folder: str, tensors: int, labels: int) -> None:
    model = load_model(str(shared / "models" / f"spikegpt-14m-{folder}"))
    assert model.config == SpikeGPTConfig(8192, 12, 256, n_labels=labels)
    assert len(model.tensors) == tensors
    assert model.need_tokenizer().get_vocab_size() <= 8192
    stored = torch.load(shared / "models" / f"spikegpt-14m-{folder}" / "model.pth", weights_only=True)
    assert all(torch.equal(model.tensors[n], stored[n].float()) for n in stored)


# -- what is refused -------------------------------------------------------------------------------


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-2", "pickle-4", "inside-a-state-dict"])
def test_code_in_a_pickle_is_refused_by_name_and_never_run(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, path = tmp_path / "pwned", tmp_path / "model.pth"
    value: Any = {"emb.weight": Payload(mark)}
    if form == "inside-a-state-dict":
        value = {**weights(), "extra": Payload(mark)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, protocol=int(form[-1])))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(ModelError, match=r"holds code or objects.*mkdir.*refused"):
        load_model(str(path))
    assert not mark.exists()
    loaded = pickle.loads(pickle.dumps(Payload(mark)))  # the payload works where it is let
    assert loaded is None
    assert mark.exists()


def test_a_whole_module_is_refused_as_an_object(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds code or objects.*torch\.nn\.modules\.linear\.Linear"):
        load_model(pth(tmp_path, torch.nn.Linear(2, 2)))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no model")


def halved(path: Path, **how: Any) -> None:
    torch.save(weights(), path, **how)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saved(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


def flipped(path: Path) -> None:
    torch.save(weights(), path)
    raw = bytearray(path.read_bytes())
    where = raw.find(weights()["emb.weight"].numpy().tobytes()[:64])
    raw[where] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("write", "message"), [
    (lambda p: p.write_bytes(b""), "is empty"),
    (archive, "no torch checkpoint"),
    (lambda p: p.write_text("hello world"), "no torch checkpoint"),
    (lambda p: p.write_bytes(random.Random(0).randbytes(5000)), "no torch checkpoint"),
    (halved, "truncated"),
    (lambda p: halved(p, _use_new_zipfile_serialization=False), "truncated"),
    (flipped, "is damaged"),
    (saved(torch.zeros(3)), "holds a Tensor, not a state dict"),
    (saved([1, 2]), "holds a list"),
    (saved({}), "holds no tensors"),
    (saved({"epoch": 3}), "holds no tensors"),
    (saved({"a": torch.zeros(3)}), "of no family"),
    (saved({"emb.weight": torch.zeros(3, 2), "blocks.².ln1.bias": torch.zeros(2)}), "of no family"),
    (saved({**weights(), "module.emb.weight": torch.zeros(40, 8)}), r"with and without 'module\.'"),
    (saved({**weights(), "emb.weight": torch.zeros(40, 8).int()}), r"'emb\.weight'.*torch\.int32"),
    (saved({**weights(), "emb.weight": torch.zeros(40, 8).to_sparse()}), "not a dense CPU tensor"),
    (saved({**weights(), "emb.weight": torch.zeros(1).expand(10**9, 8)}), "repeats its storage"),
    (saved({**weights(), "classifier.weight": torch.tensor(1.0)}), "no SpikeGPT"),
], ids=lambda v: v[:18] if isinstance(v, str) else "")  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "model.pth"
    write(path)
    with pytest.raises(ModelError, match=message):
        load_model(str(path))


def test_a_checkpoint_saved_without_checksums_loads(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = pth(tmp_path, weights())
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_model(path), weights())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_no_damage_escapes_as_another_error(tmp_path: Path, zipped: bool) -> None:
    source = Path(pth(tmp_path, weights(), _use_new_zipfile_serialization=zipped)).read_bytes()
    chance, path = random.Random(1), tmp_path / "damaged.pth"
    for _ in range(100):
        raw = bytearray(source)
        for _ in range(chance.choice((1, 3, 20))):
            raw[chance.randrange(len(raw) if chance.random() < 0.5 else 2000)] = chance.randrange(256)
        path.write_bytes(raw[: chance.randrange(1, len(raw))] if chance.random() < 0.3 else raw)
        with contextlib.suppress(QslmError):
            load_model(str(path))


@pytest.mark.parametrize("damage", [
    lambda raw: raw[: len(raw) // 2],
    lambda raw: raw[:6],
    lambda raw: b"\xff" * 8 + raw[8:],
    lambda raw: raw[:8] + b"#" * 100 + raw[108:],
    lambda raw: b"",
], ids=["half", "six-bytes", "length", "header", "empty"])  # fmt: skip
def test_damaged_safetensors_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"damaged|empty"):
        load_model(str(tmp_path))


def test_tensors_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    tensors = weights()
    for name in list(tensors)[1:7]:
        del tensors[name]
    tensors["blocks.0.att.gate"] = torch.zeros(8)
    tensors["ln_out.bias"] = torch.zeros(9)
    with pytest.raises(ModelError) as caught:
        load_model(pth(tmp_path, tensors))
    text = str(caught.value)
    assert "6 tensors missing (blocks.0.ln1.weight, blocks.0.ln1.bias, blocks.0.ln2.weight, …)" in text
    assert "1 tensor unknown (blocks.0.att.gate)" in text
    assert "1 tensor of another shape (ln_out.bias [9] instead of [8])" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    tensors = weights()
    tensors["blocks.1.ffn.key.weight"][3, 4] = value
    with pytest.raises(NumericsError, match=r"blocks\.1\.ffn\.key\.weight' holds 1 NaN or infinite of 256"):
        load_model(pth(tmp_path, tensors))


def test_a_float64_weight_beyond_float32_is_named(tmp_path: Path) -> None:
    tensors = {**weights(), "head.weight": torch.full((40, 8), 1e300, dtype=torch.float64)}
    with pytest.raises(NumericsError, match=r"head\.weight"):
        load_model(pth(tmp_path, tensors))


# -- tokenizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.json", "20B_tokenizer.json"])
def test_the_tokenizer_beside_a_checkpoint_is_taken(tmp_path: Path, name: str) -> None:
    path = pth(tmp_path, weights())
    tokenizer(30).save(str(tmp_path / name))
    assert load_model(path).need_tokenizer().get_vocab_size() == 30


def test_a_tokenizer_of_another_model_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = pth(tmp_path, weights())
    tokenizer(41).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="41 tokens but the embedding has 40 rows"):
        load_model(path)


def test_the_neox_tokenizer_fits_the_public_model_and_not_the_small_one(shared: Path, tmp_path: Path) -> None:
    source = shared / "tokenizers" / "20B_tokenizer.json"
    shutil.copy(source, tmp_path)
    config = SpikeGPTConfig(50277, 2, 4)
    path = pth(tmp_path, weights(config))
    assert load_model(path).need_tokenizer().encode(" spikes").ids
    with pytest.raises(ModelError, match="50277 tokens but the embedding has 40 rows"):
        load_model(pth(tmp_path, weights()))


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    path = pth(tmp_path, weights())
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=r"tokenizer .* cannot be read"):
        load_model(path)


def test_a_missing_tokenizer_matters_only_when_text_is_needed(tmp_path: Path) -> None:
    model = load_model(pth(tmp_path, weights()))
    with pytest.raises(ModelError, match=r"has no tokenizer; put its tokenizer\.json"):
        model.need_tokenizer()


# -- where models are ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [
    "", "nothing", "./a/b", "/no/such/folder", "~/nothing.pth", "a/b/c", "org/model.pth",
    "org/..", "org/na me", "org/name@", "x" * 5000, "a\0b", "~nobody-here/x", "https://hf.co/org/name",
])  # fmt: skip
def test_a_source_that_names_nothing_is_a_usage_error_at_once(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(UsageError, match=r"does not exist; give 'demo', a folder, a \.pth file"):
        load_model(source)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_model(str(tmp_path))


def test_a_folder_with_two_checkpoints_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(weights(), tmp_path / name)
    with pytest.raises(UsageError, match=r"2 checkpoints \(a\.pth, b\.pth\)"):
        load_model(str(tmp_path))
    assert same(load_model(str(tmp_path / "b.pth")), weights())


def test_safetensors_win_over_a_pickle_in_the_same_folder(tmp_path: Path) -> None:
    pth(tmp_path, weights(seed=1))
    save_file(weights(), tmp_path / "model.safetensors")
    assert same(load_model(str(tmp_path)), weights())


def test_demo_is_the_packaged_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "files", lambda package: tmp_path / package)
    with pytest.raises(ModelError, match="demo model is not in this installation"):
        load_model("demo")
    save_model(tmp_path / "qslm_opt" / "data" / "demo_model", CONFIG, weights(), tokenizer())
    assert same(load_model("demo"), weights())


class Hub:
    """A hub in a local folder; remembers what was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, []  # type: ignore[var-annotated]

    def snapshot_download(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo, revision, allow_patterns))
        here, there = self.root / "hub" / repo, self.root / "cache" / repo / str(revision)
        there.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for path in here.glob(pattern):
                shutil.copy(path, there)
        return str(there)

    def folder(self, repo: str) -> Path:
        path = self.root / "hub" / repo
        path.mkdir(parents=True)
        return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_a_hub_id_loads_and_its_revision_is_asked_for(hub: Hub) -> None:
    save_model(hub.folder("org/name"), CONFIG, weights(), tokenizer())
    torch.save(weights(), hub.root / "hub/org/name/also.pth")
    model = load_model("org/name@v1.0")
    assert same(model, weights())
    assert model.need_tokenizer().get_vocab_size() == 40
    assert [revision for _, revision, _ in hub.asked] == ["v1.0"]
    assert all("*.pth" not in patterns for _, _, patterns in hub.asked)


def test_a_hub_repository_with_only_a_pth_loads(hub: Hub) -> None:
    pth(hub.folder("org/name"), weights())
    assert same(load_model("org/name"), weights())


def test_the_public_checkpoint_is_pinned_and_its_bytes_are_checked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = "ridger/SpikeGPT-OpenWebText-216M"
    known = locate.KNOWN[repo]
    torch.save(weights(), hub.folder(repo) / known.file)
    tokenizer().save(str(hub.folder(known.tokenizer_repo) / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has sha256 .* published one has 024d2dab5f71"):
        load_model(repo)
    digest = sha256((hub.root / "hub" / repo / known.file).read_bytes()).hexdigest()
    monkeypatch.setitem(locate.KNOWN, repo, locate.replace(known, sha256=digest))
    assert same(load_model(repo), weights())
    assert hub.asked[0][1] == "4039295cca3da1df0e5871f4bc7727b227496132"
    assert load_model(repo).need_tokenizer().get_vocab_size() == 40
    other = load_model(f"{repo}@main")
    assert same(other, weights())
    assert other.tokenizer is not None


def test_a_download_that_fails_says_to_give_a_local_path() -> None:
    with pytest.raises(ModelError, match=r"'org/name' at revision x1 cannot be had .* path of a local copy"):
        load_model("org/name@x1")


def test_a_local_folder_wins_over_a_hub_id(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "org" / "name", CONFIG, weights())
    assert same(load_model("org/name"), weights())
    assert hub.asked == []


def test_the_config_file_is_plain_json_with_the_configs_keys(tmp_path: Path) -> None:
    save_model(tmp_path, CONFIG, weights())
    value = json.loads((tmp_path / "config.json").read_text())
    assert value["model_type"] == "spikegpt"
    assert {key: value[key] for key in CONFIG.to_dict()} | {
        "model_type": value["rwkv_type"]
    } == CONFIG.to_dict()


@pytest.mark.parametrize("given", ["spikelm", "SpikeGPT", "spikellm"])
def test_a_wrong_family_is_refused_with_the_one_whose_names_these_are(tmp_path: Path, given: str) -> None:
    config = SpikeBERTConfig(12, 2, 8, 2)
    path = tmp_path / "model.pth"
    generator = torch.Generator().manual_seed(1)
    shapes = config.tensor_shapes()
    torch.save({f"module.{n}": torch.randn(s, generator=generator) for n, s in shapes.items()}, path)
    with pytest.raises(ModelError, match="those of a SpikeBERT: give --family spikebert, or leave"):
        load_model(str(path), family=given)
    with pytest.raises(ModelError, match="must divide") as error:
        load_model(str(path), family="spikebert", overrides={"heads": 3})
    assert "--family" not in str(error.value)
