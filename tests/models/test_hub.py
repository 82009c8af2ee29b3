"""``model info`` of a hub id: config.json is fetched, and no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

pytest.importorskip("torch")

from qslm_opt.cli.main import run
from qslm_opt.models.loading import load_model, save_model
from qslm_opt.models.spikebert import SpikeBERTConfig
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.models.spikingbert import SpikingBERTConfig

CONFIG = SpikeGPTConfig(vocab_size=40, n_layer=2, n_embd=8, n_labels=2)
COMMIT = "0123456789012345678901234567890123456789"
WEIGHTS = "model.safetensors"


class Hub:
    """A hub in a local folder with a cache in another; remembers every file that crossed."""

    def __init__(self, root: Path) -> None:
        self.there, self.cache = root / "hub", root / "cache"
        self.fetched: list[str] = []
        self.headers = 0
        self.offline = False

    def model_info(self, repo: str, revision: str | None = None) -> Any:
        self._reach()
        names = sorted(path.name for path in (self.there / repo).iterdir())
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def hf_hub_download(self, repo: str, name: str, revision: str | None = None) -> str:
        self._reach()
        assert revision == COMMIT
        return str(self._fetch(repo, name))

    def snapshot_download(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        if not self.offline:
            for pattern in allow_patterns:
                for path in (self.there / repo).glob(pattern):
                    self._fetch(repo, path.name)
        assert (self.cache / repo).is_dir(), "offline, and nothing is cached"
        return str(self.cache / repo)

    def try_to_load_from_cache(self, repo: str, name: str, revision: str | None = None) -> str | None:
        path = self.cache / repo / name
        return str(path) if path.is_file() else None

    def get_safetensors_metadata(self, repo: str, revision: str | None = None) -> Any:
        from safetensors import safe_open

        self._reach()
        self.headers += 1
        with safe_open(self.there / repo / WEIGHTS, "pt") as file:
            tensors = {n: SimpleNamespace(shape=file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        return SimpleNamespace(files_metadata={WEIGHTS: SimpleNamespace(tensors=tensors)})

    def _reach(self) -> None:
        if self.offline:
            raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    def _fetch(self, repo: str, name: str) -> Path:
        place = self.cache / repo / name
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.there / repo / name, place)
            self.fetched.append(name)
        return place


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    for name in ("hf_hub_download", "snapshot_download", "try_to_load_from_cache"):
        monkeypatch.setattr(huggingface_hub, name, getattr(hub, name))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


def weights(config: Any) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    return {n: 0.3 * torch.randn(s, generator=generator) for n, s in config.tensor_shapes().items()}


def saved(hub: Hub, config: Any = CONFIG, name: str = "org/name", **values: Any) -> Path:
    folder = hub.there / name
    save_model(folder, config, weights(config))
    if values:
        (folder / "config.json").write_text(json.dumps(values))
    return folder


def info(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(["model", "info", *words, "--json"]) == code
    told = capsys.readouterr()
    return json.loads(told.out) if code == 0 else told.err


def test_the_config_alone_is_fetched_and_is_the_same_tree(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(hub)
    (folder / "large.pth").write_bytes(b"never")
    found = info(capsys, "org/name@main", "--bits", "4")
    assert hub.fetched == found["fetched"] == ["config.json"] and not hub.headers
    assert found["weights_hash"] is None
    (folder / "large.pth").unlink()
    whole = info(capsys, str(folder), "--bits", "4")
    assert whole["weights_hash"] and whole["fetched"] == []
    for key in ("family", "config", "params", "bytes", "blocks", "uniform"):
        assert found[key] == whole[key], key
    assert run(["model", "info", "org/name"]) == 0
    assert "config.json alone: no weights were fetched" in capsys.readouterr().out


def test_other_commands_still_fetch_the_weights(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    saved(hub)
    info(capsys, "org/name")
    assert load_model("org/name").config == CONFIG
    assert WEIGHTS in hub.fetched


def test_what_is_cached_is_read_from_the_cache(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    saved(hub)
    own = load_model("org/name")
    hub.fetched.clear()
    for offline in (False, True):
        hub.offline = offline
        assert info(capsys, "org/name")["weights_hash"] == own.weights_hash
    assert hub.fetched == []


def test_offline_the_config_alone_is_enough_where_it_is_cached(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(hub)
    online = info(capsys, "org/name")
    hub.offline = True
    assert info(capsys, "org/name") == online


def test_the_hub_switched_off_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    said = info(capsys, "org/name", code=1)
    assert "'org/name' cannot be had from the Hugging Face hub" in said and said.count("\n") == 1


def test_without_a_config_the_weights_are_fetched(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    (saved(hub) / "config.json").unlink()
    assert info(capsys, "org/name")["weights_hash"] and hub.fetched == [WEIGHTS]


def test_a_config_that_tells_no_family_leads_to_the_weights_unless_it_is_given(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(hub, SpikeBERTConfig(30, 2, 8, 3), vocab_size=30, depths=2, dim=8, num_classes=3)
    given = info(capsys, "org/name", "--family", "spikebert")
    assert hub.fetched == ["config.json"] and given["weights_hash"] is None
    found = info(capsys, "org/name")
    assert WEIGHTS in hub.fetched and found["weights_hash"] and found["blocks"] == given["blocks"]


def test_headers_tell_the_sizes_that_a_config_leaves_open(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SpikeBERTConfig(30, 2, 8, 3, hidden=20, heads=2)
    folder = saved(hub, config, model_type="spikebert", num_attention_heads=2)
    found = info(capsys, "org/name")
    assert hub.fetched == ["config.json"] and hub.headers == 1
    assert found["config"] == config.to_dict() and "heads" not in found["assumed"]
    assert found["blocks"] == info(capsys, str(folder))["blocks"]
    assert info(capsys, "org/name", "--config", "num_labels=3", code=0)["config"]["num_classes"] == 3


def test_names_that_need_their_numbers_lead_to_the_weights(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SpikingBERTConfig(30, 8, 2, 20, 16, 3, 4, 2, timesteps=5)
    folder = saved(hub, config)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "n_labels"}))
    found = info(capsys, "org/name")
    assert found["config"]["n_labels"] == 4
    assert found["fetched"] or WEIGHTS in hub.fetched


def test_what_no_shape_tells_is_asked_for_without_a_download(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(hub, model_type="spikelm", hidden_size=8)
    said = info(capsys, "org/name", code=1)
    assert "--config num_attention_heads=VALUE" in said
    assert hub.fetched == ["config.json"] and not hub.headers


def test_a_packed_model_and_pinned_bytes_are_read_whole(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(hub)
    setting = folder / "setting.txt"
    setting.write_text('{"units": {"network": "int4/channel/affine"}}')
    words = ["--setting", str(setting), "--task", "sst2", "--output", str(hub.there / "org/packed")]
    assert run(["model", "pack", str(folder), *words]) == 0
    assert info(capsys, "org/packed")["packed"]
    said = info(capsys, f"org/name#sha256={'0' * 64}", code=1)
    assert "the pinned one has 000000000000" in said and WEIGHTS in hub.fetched


def test_nonsense_in_a_hub_config_is_refused_before_a_download(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(hub, model_type="llama", hidden_size=8, num_hidden_layers=10**9, num_attention_heads=0)
    said = info(capsys, "org/name", code=1)
    assert "it must be at" in said and hub.fetched == ["config.json"]


@pytest.mark.parametrize("source", ["org/na--me", "org/name.git", "org/na..me"])
def test_a_name_that_the_hub_allows_to_none_is_one_sentence(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the real client, no network
    assert run(["model", "info", source]) == 1
    said = capsys.readouterr().err
    assert source in said and "Traceback" not in said
