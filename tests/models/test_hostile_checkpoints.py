"""Checkpoints are data: nothing that lies in or beside one is ever run, and none takes more than it has."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file

from qslm_opt.errors import ModelError, UsageError
from qslm_opt.models import load_model, locate
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.spec import StudySpec

ROOT = Path(__file__).resolve().parents[2]
CONFIG = SpikeGPTConfig(vocab_size=12, n_layer=2, n_embd=8)


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(s, generator=generator) for n, s in CONFIG.tensor_shapes().items()}


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def pickled(evil: Payload, path: Path) -> None:
    path.write_bytes(pickle.dumps({"emb.weight": evil}))


def nested(evil: Payload, path: Path) -> None:
    inner = [{"deep": ({"deeper": [evil]},)}]
    torch.save({"state_dict": weights(), "optimizer": {"state": {0: inner}}}, path)


def in_a_key(evil: Payload, path: Path) -> None:
    torch.save({**weights(), ("x", 1): {"hook": evil}}, path)


def numpy_object(evil: Payload, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([evil], dtype=object), allow_pickle=True)


def numpy_archive(evil: Payload, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{"emb.weight": np.array([evil], dtype=object)})


def second_stream(evil: Payload, path: Path) -> None:
    """A good legacy file with more pickles behind it."""
    file = io.BytesIO()
    torch.save(weights(), file, _use_new_zipfile_serialization=False)
    path.write_bytes(pickle.dumps(evil) + file.getvalue() + pickle.dumps(evil))


def beside_the_pickle(evil: Payload, path: Path) -> None:
    """A zip with a second pickle, as TorchScript archives have."""
    torch.save(weights(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(evil))


@pytest.mark.parametrize(
    "make",
    [pickled, nested, in_a_key, numpy_object, numpy_archive, second_stream, beside_the_pickle],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".npz", ".safetensors"])
def test_no_file_runs_code(
    make: Callable[[Payload, Path], None], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, path = tmp_path / "pwned", tmp_path / f"model{suffix}"
    make(Payload(mark), path)
    with pytest.raises(ModelError, match=r"was refused|damaged|no torch checkpoint|no safetensors|as it can"):
        load_model(str(path))
    assert not mark.exists()


def test_python_files_beside_a_model_and_its_data_are_not_run(tmp_path: Path) -> None:
    """``trust_remote_code`` and data set scripts are the usual ways to run what was downloaded."""
    mark = tmp_path / "pwned"
    model, data = tmp_path / "model", tmp_path / "sst2"
    for folder in (model, data):
        folder.mkdir()
        for name in ("modeling_spikegpt.py", "configuration_spikegpt.py", "sst2.py", "tokenization.py"):
            (folder / name).write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    save_file(weights(), model / "model.safetensors")
    auto = {"AutoModelForCausalLM": "modeling_spikegpt.X", "AutoConfig": "configuration_spikegpt.X"}
    (model / "config.json").write_text(json.dumps({"model_type": "spikegpt", "auto_map": auto}))
    load_model(str(model))
    table = pyarrow.table({"sentence": ["a", "b"], "label": [0, 1]})
    pyarrow.parquet.write_table(table, data / "validation.parquet")
    from qslm_opt.data.rows import HubData, read_rows

    rows = read_rows("sst2", HubData("stanfordnlp/sst2", "sst2"), str(data), "validation", ("sentence",))
    assert rows.columns == {"sentence": ["a", "b"]}
    assert not mark.exists()


def test_no_line_of_ours_unpickles_or_trusts_remote_code() -> None:
    """Every call by name that could: the one of ``torch.load`` says ``weights_only=True``."""
    found = []
    for path in [*(ROOT / "qslm_opt").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keys = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert not {"trust_remote_code", "allow_pickle"} & set(keys), path
            assert name not in ("eval", "exec", "marshal.loads", "joblib.load", "np.load", "numpy.load"), path
            assert not name.startswith("pickle."), path
            assert name not in ("yaml.load", "torch.hub.load", "torch.jit.load", "os.system"), path
            assert keys.get("shell", "False") == "False", path
            if name == "torch.load":
                found.append(keys["weights_only"])
    assert found == ["True"]


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", [0, 1, 2**24 + 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_safetensors_header_longer_than_its_file_is_refused_before_it_is_read(
    claimed: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + b"{}" * 10)
    with pytest.raises(ModelError, match=r"is damaged or no safetensors file"):
        load_model(str(path))


def test_a_header_that_is_longer_than_any_model_needs_is_refused(tmp_path: Path) -> None:
    path, size = tmp_path / "model.safetensors", 17 << 20
    with path.open("wb") as file:
        file.write(struct.pack("<Q", size) + b"[")
        file.truncate(8 + size)
    with pytest.raises(ModelError, match=r"its header claims 17,825,792 bytes of .*, at most 16,777,216 are"):
        load_model(str(path))


def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    header = b'{"emb.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    with pytest.raises(ModelError, match="is damaged or no safetensors file"):
        load_model(str(path))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros fits a megabyte of zip."""
    torch.save(weights(), tmp_path / "plain.pth")
    path = tmp_path / "model.pth"
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
        packed.writestr("archive/data/999", bytes(2**24))
    with pytest.raises(ModelError, match=r"is damaged or compressed: its entries claim [\d,]+ bytes of"):
        load_model(str(path))


def test_a_tensor_that_grows_its_storage_is_refused(tmp_path: Path) -> None:
    """The pickle of a small file may ask for a view of gigabytes."""
    path = tmp_path / "model.pth"
    file = io.BytesIO()
    torch.save({"emb.weight": torch.zeros(77)}, file, _use_new_zipfile_serialization=False)
    small, large = b"K\x4d\x85", b"J\x00\x00\x00\x10\x85"  # (77,) and (2**28,) as a pickle writes them
    assert small in file.getvalue()
    path.write_bytes(file.getvalue().replace(small, large))
    with pytest.raises(ModelError, match=r"its tensors claim [\d,]+ bytes of|truncated or damaged"):
        load_model(str(path))


def test_a_zip_of_several_disks_is_refused(tmp_path: Path) -> None:
    """The standard library raises where it is asked whether this is a zip (found by fuzzing)."""
    path = tmp_path / "model.pth"
    torch.save(weights(), path)
    data = bytearray(path.read_bytes())
    locator = data.rindex(b"PK\x06\x07")
    data[locator + 16] = 2  # number of disks
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        load_model(str(path))


def test_a_tokenizer_that_makes_its_library_panic_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A prefix of continuing tokens that is longer than one: Rust panics, which is no Exception."""
    save_file(weights(), tmp_path / "model.safetensors")
    bpe = {"type": "BPE", "continuing_subword_prefix": "##longer", "vocab": {"a": 0, "b": 1, "ab": 2}}
    value = {"version": "1.0", "added_tokens": [], "model": {**bpe, "merges": [["a", "b"]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match=r"tokenizer .* cannot be read \(.*\); put the model's own"):
        load_model(str(tmp_path))


# -- pins ------------------------------------------------------------------------------------------


def test_a_pinned_checksum_is_compared_before_a_byte_is_read_as_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights(), path)
    right = sha256(path.read_bytes()).hexdigest()
    for source in (path, tmp_path):
        assert load_model(f"{source}#sha256={right.upper()}").config.n_layer == 2
    monkeypatch.setattr("qslm_opt.models.loading.read_checkpoint", lambda paths: pytest.fail("was read"))
    with pytest.raises(ModelError, match=r"has sha256 \w{12}…, the pinned one has 000000000000…"):
        load_model(f"{path}#sha256={'0' * 64}")
    with pytest.raises(UsageError, match="has 1 checkpoint files but 2 sums are given"):
        load_model(f"{path}#sha256={right},{right}")
    for bad in ("", "12", right[:-1] + "g", right + ",", right + "0"):
        with pytest.raises(UsageError, match="write the 64 hex digits of sha256sum"):
            load_model(f"{path}#sha256={bad}")


def test_a_hub_id_is_pinned_by_revision_and_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    items = sorted(weights().items())
    for name, part in zip(names, (items[:5], items[5:]), strict=True):
        save_file(dict(part), tmp_path / name)

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    sums = [sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    commit = "4039295cca3da1df0e5871f4bc7727b227496132"
    assert locate.find_model(f"org/name@{commit}#sha256={','.join(sums)}").weights[0].name == names[0]
    assert asked == [("org/name", commit)]
    with pytest.raises(ModelError, match="the pinned one has"):
        locate.find_model(f"org/name@{commit}#sha256={','.join(reversed(sums))}")


def test_a_spec_keeps_the_checksum_behind_an_absolute_path(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    pin = f"#sha256={'a' * 64}"
    spec = StudySpec("s", f"model.safetensors{pin}", "demo", "1MB", max_increase="1")
    assert spec.located(tmp_path).model == f"{tmp_path / 'model.safetensors'}{pin}"
    spec = StudySpec("s", f"demo{pin}", "demo", "1MB", max_increase="1")
    assert spec.located(tmp_path).model == f"demo{pin}"
