"""What is fuzzed: how a target's inputs are made, and what is done with one."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutate import dump, mutate_bytes, mutate_json, mutate_text

if TYPE_CHECKING:
    from qslm_opt.models.loading import LoadedModel

CONFIG = {"vocab_size": 12, "n_layer": 2, "n_embd": 8}
SPIKEBERT = {"vocab_size": 12, "depths": 2, "dim": 8, "num_classes": 2}
SPIKELLM = {
    "vocab_size": 12, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
ROPES = (
    {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16, "beta_fast": 32},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 16},
    {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0], "factor": 2.0,
     "original_max_position_embeddings": 8},
)  # fmt: skip
"""Each kind of ``rope_scaling`` of a LLaMA."""
SPEC = """model = "demo"
task = "sst2"
max_drop = 0.02
memory_budget = "400MB"
precisions = [16, 8, 4]
sensitivity_precisions = [8, 4]
layout = "group64/affine"
lambda = 0.2
sign_embedding = true
window_batch = 4
pins = { "attention.0" = "int8/channel/affine", "output/head" = "fp16" }
"""


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    make: Callable[[Random], bytes]
    """Return a mutated input."""
    use: Callable[[bytes, Path], object]
    """Do with an input what the program does; anything but a QslmError is a crash. The folder is empty."""


# ---------------------------------------------------------------------------------------- checkpoints


@cache
def _weights(family: str = "spikegpt") -> dict[str, Any]:
    import torch

    from qslm_opt.models.spikebert import SpikeBERTConfig
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig
    from qslm_opt.models.spikellm_config import SpikeLLMConfig

    generator = torch.Generator().manual_seed(1)
    shapes = {
        "spikegpt": SpikeGPTConfig(**CONFIG), "spikebert": SpikeBERTConfig(**SPIKEBERT),
        "spikellm": SpikeLLMConfig(**SPIKELLM),
    }[family].tensor_shapes()  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@cache
def _safetensors(family: str = "spikegpt") -> bytes:
    from safetensors.torch import save

    return save(_weights(family))


@cache
def _pth(zipped: bool) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(_weights(), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _make_safetensors(random: Random, family: str = "spikegpt") -> bytes:
    """Change the bytes, or the header as JSON with its length put right, or that length."""
    data = _safetensors(family)
    (size,) = struct.unpack("<Q", data[:8])
    kind = random.randrange(4)
    if kind == 0:
        return mutate_bytes(random, data)
    if kind == 1:
        return mutate_bytes(random, data[: 8 + size]) + data[8 + size :]
    header = dump(mutate_json(random, json.loads(data[8 : 8 + size])))
    length = len(header)
    if kind == 3:
        length = random.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + data[8 + size :]


@cache
def _packed() -> tuple[Any, bytes]:
    """Header and payload of a packed model."""
    from qslm_opt.hierarchy.discover import discover
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.models.packed_file import read_packed_file
    from qslm_opt.models.packing import Origin, pack_model
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig
    from qslm_opt.quant import QuantizedView
    from qslm_opt.setting import QuantSetting

    model = LoadedModel(SpikeGPTConfig(**CONFIG), _weights(), "made here", "", None)
    tree = discover(model.config, model.shapes, "lm")
    units = {"network": "int3/group4/affine", "input": "sign", "output": "ternary/channel"}
    setting = QuantSetting.from_value({"units": units})
    with tempfile.TemporaryDirectory() as folder:
        codes = QuantizedView(model.tensors, tree).codes(setting)
        path = pack_model(Path(folder) / "out", model, tree, setting, codes, Origin("demo", "lm", "0/0"))
        file = read_packed_file(path)
    return file.header, bytes(file.payload)


def _make_packed(random: Random) -> bytes:
    """Change the bytes, or the header as JSON or the payload, with the checksum put right."""
    from qslm_opt.models.packed_file import packed_bytes

    header, payload = _packed()
    kind = random.randrange(4)
    if kind == 0:
        return mutate_bytes(random, packed_bytes(header, payload))
    if kind == 1:
        return packed_bytes(header, mutate_bytes(random, payload))
    return packed_bytes(json.loads(dump(mutate_json(random, header))), payload)


def _load_packed(data: bytes, folder: Path) -> object:
    """Load the file, then tell about it as ``model info`` does."""
    from qslm_opt.cli.packed_info import packed_headlines, packed_table, packed_value
    from qslm_opt.models import load_model

    path = folder / "packed.safetensors"
    path.write_bytes(data)
    packed = load_model(str(path)).packed
    assert packed is not None
    return json.dumps(packed_value(packed)), list(packed_headlines(packed)), packed_table(packed)


def _load(suffix: str) -> Callable[[bytes, Path], object]:
    def use(data: bytes, folder: Path) -> object:
        from qslm_opt.models import load_model

        path = folder / f"model{suffix}"
        path.write_bytes(data)
        return load_model(str(path))

    return use


def _use_beside(name: str, family: str = "spikegpt") -> Callable[[bytes, Path], LoadedModel]:
    """Load a good model with the input as the file ``name`` beside it."""

    def use(data: bytes, folder: Path) -> LoadedModel:
        from qslm_opt.models import load_model

        (folder / "model.safetensors").write_bytes(_safetensors(family))
        (folder / name).write_bytes(data)
        return load_model(str(folder))

    return use


def _run_llama(data: bytes, folder: Path) -> object:
    """Load a LLaMA with the input as its config.json, then compute with it."""
    import torch

    from qslm_opt.kernels.ops import REFERENCE
    from qslm_opt.models.family import Fired, Inputs
    from qslm_opt.models.registry import family_of

    model = _use_beside("config.json", "spikellm")(data, folder)
    inputs = Inputs(torch.arange(12)[None], None)
    return family_of(model.config).logits(model.tensors, model.config, inputs, REFERENCE, Fired(None))


def _make_llama(random: Random) -> bytes:
    """Change the config of a LLaMA, more often than not its ``rope_scaling``."""
    rope: Any = random.choice(ROPES)
    if random.random() < 0.7:
        return dump({"model_type": "llama", **SPIKELLM, "rope_scaling": mutate_json(random, rope)})
    return dump(mutate_json(random, {"model_type": "llama", **SPIKELLM, "rope_scaling": rope}))


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer(BPE({"a": 0, "b": 1, "ab": 2, "c": 3}, [("a", "b")]))
    tokenizer.pre_tokenizer = ByteLevel()
    return json.loads(tokenizer.to_str())


def _spikebert_config() -> Any:
    return {"model_type": "spikebert", **SPIKEBERT, "heads": 8, "timesteps": 4, "tau": 2.0, "length": 32}


def _config() -> Any:
    return {"model_type": "spikegpt", "rwkv_type": "RWKV", **CONFIG, "n_labels": 0, "embed_spike": "on"}


# ---------------------------------------------------------------------------------------- specs, settings


def _use_spec(data: bytes, folder: Path) -> object:
    from qslm_opt.spec import StudySpec

    path = folder / "x.toml"
    path.write_bytes(data)
    spec = StudySpec.from_toml(path).located(folder)
    assert StudySpec.from_json(spec.to_json()) == spec
    return spec.hash(), spec.budget_bytes(10**6)


def _make_spec(random: Random) -> bytes:
    text = SPEC
    for _ in range(random.choice((1, 1, 2, 4))):
        text = mutate_text(random, text)
    data = text.encode(errors="surrogatepass")
    return mutate_bytes(random, data) if random.random() < 0.2 else data


def _use_setting(data: bytes, folder: Path) -> object:
    from qslm_opt.cli.model_session import read_setting
    from qslm_opt.evaluate.memory import live_bytes
    from tests.store.fake_study import HIERARCHY

    path = folder / "setting.json"
    path.write_bytes(data)
    setting = read_setting(path)
    return live_bytes(HIERARCHY, setting), setting.digest(HIERARCHY), setting.to_json()


@cache
def _setting() -> Any:
    from tests.store.fake_study import setting_json

    return json.loads(setting_json(4, "attention.0"))


def _of_json(value: Callable[[], Any]) -> Callable[[Random], bytes]:
    def make(random: Random) -> bytes:
        data = dump(mutate_json(random, value()))
        return mutate_bytes(random, data) if random.random() < 0.3 else data

    return make


# ---------------------------------------------------------------------------------------- study files


@cache
def _study_file() -> tuple[bytes, ...]:
    """Lines of the file of a small study with power."""
    from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
    from qslm_opt.store import Repository, prepare, read_study, write_archive
    from tests.store.fake_study import FakeStudy

    with tempfile.TemporaryDirectory() as folder:
        study = FakeStudy(Path(folder) / "q.db")
        study.trial(0.9)
        study.trial(0.8, state="pruned")
        study.close()
        prepare(study.url)
        with Repository(study.url) as repository:
            (trial, _) = repository.trials("s")
            repository.add_power_device(PowerDevice("lane", study.uuid, "host", 7, "cuda:0"))
            repository.add_power_samples("lane", [PowerSample(float(i), 200.0, 2**30) for i in range(3)])
            repository.set_power_window(study.uuid, trial.uuid, PowerWindow("nvml", 3, 1.0, 200.0, 0.0, 1.0))
        write_archive(read_study(study.url, "s"), Path(folder) / "s.study")
        return tuple((Path(folder) / "s.study").read_bytes().splitlines(keepends=True))


def _make_study_file(random: Random) -> bytes:
    """Change bytes, or a record as JSON with a checksum that fits again."""
    lines = list(_study_file())
    if random.random() < 0.2:
        return mutate_bytes(random, b"".join(lines))
    for _ in range(random.choice((1, 1, 2))):
        place = random.randrange(len(lines) - 1)
        lines[place] = dump(mutate_json(random, json.loads(lines[place]))) + b"\n"
    body = b"".join(lines[:-1])
    end = {"kind": "end", "lines": len(lines) - 1, "sha256": sha256(body).hexdigest()}
    return body + dump(end) + b"\n"


def _use_study_file(data: bytes, folder: Path) -> object:
    """Import the file, then read the study as the commands do."""
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.cli.power_tables import lane_line, print_report, report_rows
    from qslm_opt.search.transfer import import_study
    from qslm_opt.store import Repository
    from qslm_opt.store.measured import LATEST
    from tests.store.fake_study import empty_file, url_of

    path, url = folder / "s.study", url_of(folder / "q.db")
    path.write_bytes(data)
    (folder / "q.db").write_bytes(empty_file())
    found = import_study(path, url)
    with Repository(url, read_only=True) as repository:
        row = repository.study(found.name)
        facts = StudyFacts(row, repository.trials(found.name), 0.2)
        devices, windows = repository.power_devices(row.uuid), repository.power_windows(row.uuid)
        samples = [s for d in devices for s in repository.power_samples(d.id, 0, 2 * LATEST, 10)]
    rows = report_rows(facts, windows, every=True)
    shown = [lane_line("lane", sample) for sample in samples]
    print_report(facts, devices, rows, len(windows))
    return json.dumps(facts.to_json()), json.dumps(rows, allow_nan=False), facts.rows(), shown


TARGETS: dict[str, Target] = {
    "safetensors": Target(_make_safetensors, _load(".safetensors")),
    "safetensors-spikebert": Target(
        lambda random: _make_safetensors(random, "spikebert"), _load(".safetensors")
    ),
    "packed": Target(_make_packed, _load_packed),
    "pth-zip": Target(lambda random: mutate_bytes(random, _pth(True)), _load(".pth")),
    "pth-legacy": Target(lambda random: mutate_bytes(random, _pth(False)), _load(".pth")),
    "config-json": Target(_of_json(_config), _use_beside("config.json")),
    "config-json-spikebert": Target(_of_json(_spikebert_config), _use_beside("config.json", "spikebert")),
    "config-json-llama": Target(_make_llama, _run_llama),
    "tokenizer-json": Target(_of_json(_tokenizer), _use_beside("tokenizer.json")),
    "spec-toml": Target(_make_spec, _use_spec),
    "setting-json": Target(_of_json(_setting), _use_setting),
    "study-file": Target(_make_study_file, _use_study_file),
}
