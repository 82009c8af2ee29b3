"""A packed file that is truncated, altered or forged is refused in one sentence, and takes what it has."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qslm_opt.errors import ModelError, QslmError
from qslm_opt.formats import Format
from qslm_opt.models import load_model
from qslm_opt.models.packed import load_packed
from qslm_opt.models.packed_file import MOST_JSON_BYTES, PACKED_NAME, packed_bytes, read_packed_file
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.setting import QuantSetting
from tests.models.test_packed import model_of, packed_by

CONFIG = SpikeGPTConfig(vocab_size=6, n_layer=1, n_embd=8, n_labels=2)
SETTING = QuantSetting({"network": Format.parse("int3/channel/affine"), "input": Format.parse("sign")})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MANY = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("packed") / "whole"
    packed_by(found, model_of(CONFIG), SETTING)
    return found


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return (folder / PACKED_NAME).read_bytes()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    """Write bytes as a packed file and load it, as a user would."""
    path = tmp_path / PACKED_NAME

    def load(data: bytes) -> Any:
        path.write_bytes(data)
        return load_model(str(path))

    return load


def refused(load: Callable[[bytes], Any], data: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        load(data)
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_the_whole_file_loads(read: Callable[[bytes], Any], whole: bytes) -> None:
    assert read(whole).packed.setting == SETTING


def test_a_file_cut_at_any_byte_is_refused(read: Callable[[bytes], Any], whole: bytes) -> None:
    header = int.from_bytes(whole[:8], "little")
    places = {0, 1, 7, 8, 20, 57, 58, 90, 121, 122, *(header + i for i in range(10)), len(whole) - 1}
    for end in sorted(places | set(range(0, len(whole), 37))):
        refused(read, whole[:end])
    refused(read, whole + b"\0")


@MANY
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(read: Callable[[bytes], Any], whole: bytes, data: Any) -> None:
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    bent = bytearray(whole)
    bent[place // 8] ^= 1 << place % 8
    refused(read, bytes(bent))


@MANY
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(read: Callable[[bytes], Any], data: bytes) -> None:
    refused(read, data)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in items for inner in paths_of(item, (*path, key)))]


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = with_value(value[path[0]], path[1:], new)
    return copy


@MANY
@given(data=st.data())
def test_a_forged_header_with_a_right_checksum_never_crashes(
    read: Callable[[bytes], Any], folder: Path, data: Any
) -> None:
    file = read_packed_file(folder / PACKED_NAME)
    path = data.draw(st.sampled_from(paths_of(file.header)))
    new = data.draw(JSON)
    whole, model = read(packed_bytes(file.header, bytes(file.payload))), None
    with contextlib.suppress(QslmError):
        model = read(packed_bytes(with_value(file.header, path, new), bytes(file.payload)))
    if model is not None:  # what was changed says nothing about the weights
        assert all(torch.equal(model.tensors[name], tensor) for name, tensor in whole.tensors.items())


@MANY
@given(data=st.data())
def test_a_forged_payload_is_refused_or_finite(
    read: Callable[[bytes], Any], folder: Path, data: Any
) -> None:
    file = read_packed_file(folder / PACKED_NAME)
    payload = bytearray(file.payload)
    for _ in range(data.draw(st.integers(1, 5))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    model = None
    with contextlib.suppress(ModelError):
        model = read(packed_bytes(file.header, bytes(payload)))
    if model is not None:
        assert all(bool(torch.isfinite(t).all()) for t in model.tensors.values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config", "n_embd"), 10**15),
        (("config", "vocab_size"), 10**12),
        (("config", "n_layer"), 10**9),
        (("config", "n_labels"), -1),
        (("config", "n_ffn"), True),
        (("bytes",), 1),
        (("kind",), "x"),
        (("ties",), {"head.weight": "emb.weight"}),
        (("ties",), {"emb.weight": "emb.weight"}),
        (("tensors", 0), -1),
        (("tensors", 0), 99),
        (("tensors",), [0] * 10**5),
        (("formats", 0), "int3/group999999999999/affine"),
        (("formats", 0), "fp64"),
        (("setting", "units"), {"network": "fp16"}),
        (("setting", "units"), {"network": "fp16", "no such": "fp16"}),
        (("setting", "version"), 2),
        (("study",), {"name": "s"}),
        (("study",), "s"),
        (("calibration",), {"split": "x", "sequences": "y", "window": None, "hash": ""}),
        (("files",), []),
        (("task",), {}),
    ],
)
def test_a_forged_size_is_refused_before_anything_is_allocated(
    read: Callable[[bytes], Any], folder: Path, path: tuple[Any, ...], value: Any
) -> None:
    file = read_packed_file(folder / PACKED_NAME)
    data = packed_bytes(with_value(file.header, path, value), bytes(file.payload))
    read(packed_bytes(file.header, bytes(file.payload)))  # imports are done
    tracemalloc.start()
    text = refused(read, data)
    assert tracemalloc.get_traced_memory()[1] < 32e6
    tracemalloc.stop()
    assert "contradicts itself" in text


def test_a_family_that_is_not_installed_is_named(read: Callable[[bytes], Any], folder: Path) -> None:
    file = read_packed_file(folder / PACKED_NAME)
    text = refused(read, packed_bytes(with_value(file.header, ("family",), "duo"), bytes(file.payload)))
    assert "is of model family 'duo'" in text and "install the package that registers it" in text


def rewritten(whole: bytes, **metadata: str) -> bytes:
    """The file with other metadata, and the right checksum for it."""
    from hashlib import sha256

    length = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + length])
    entries["__metadata__"] |= {**metadata, "sha256": "0" * 64}
    text = json.dumps(entries, separators=(",", ":")).encode()
    data = len(text).to_bytes(8, "little") + text + whole[8 + length :]
    return data[:58] + sha256(data).hexdigest().encode() + data[122:]


def deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def test_headers_that_are_no_json_object_are_refused(read: Callable[[bytes], Any], whole: bytes) -> None:
    for header in (b"", b"{", b"[]", b"1", b"[" * 10**5, b"\xff\xfe", b'{"a": 1e999999}', b"9" * 10**5):
        refused(read, rewritten(whole, header=deflated(header)))
    for text in ("", "!!!", "AAAA", deflated(b"{}")[:-4], deflated(b"{}") + deflated(b"{}")):
        refused(read, rewritten(whole, header=text))


def test_a_header_that_inflates_without_end_is_refused(read: Callable[[bytes], Any], whole: bytes) -> None:
    bomb = rewritten(whole, header=deflated(b" " * (100 * MOST_JSON_BYTES)))
    assert len(bomb) < 10**6
    tracemalloc.start()
    assert "inflates to more" in refused(read, bomb)
    assert tracemalloc.get_traced_memory()[1] < 8 * MOST_JSON_BYTES
    tracemalloc.stop()


def test_a_mapping_file_that_a_header_names_is_not_opened(
    read: Callable[[bytes], Any], whole: bytes, tmp_path: Path
) -> None:
    """Only who gives --family FILE.toml asks for its code to run; a file that was downloaded does not."""
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    mapping = tmp_path / "evil.toml"
    mapping.write_text('name = "evil"\nbuild = "code.py:make"\n')
    path = tmp_path / PACKED_NAME
    path.write_bytes(whole)
    file = read_packed_file(path)
    text = refused(read, packed_bytes({**file.header, "family": str(mapping)}, bytes(file.payload)))
    assert "is unknown" in text and not ran.exists()


def test_a_newer_version_names_the_way_out(read: Callable[[bytes], Any], whole: bytes) -> None:
    assert "format version 2" in refused(read, rewritten(whole, version="2"))
    assert "unreadable" in refused(read, rewritten(whole, version="x"))
    assert "its entries" in refused(read, rewritten(whole, more="1"))


def test_files_beside_it_that_are_others_are_refused(tmp_path: Path) -> None:
    packed_by(tmp_path / "out", replace(model_of(CONFIG)), SETTING)
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ModelError, match=r"config\.json' is not the one"):
        load_packed(tmp_path / "out")
    config.unlink()
    assert load_packed(tmp_path / "out").config.n_embd == CONFIG.n_embd
    (tmp_path / "out" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json' is not the one"):
        load_packed(tmp_path / "out")


def test_a_file_beyond_the_memory_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Huge(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if size is not None and size > 8:
                raise MemoryError
            return super().read(size)

    data = (folder / PACKED_NAME).read_bytes()
    monkeypatch.setattr(Path, "open", lambda *_: Huge(data))
    with pytest.raises(ModelError, match="more than this machine has memory for"):
        read_packed_file(folder / PACKED_NAME)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / PACKED_NAME)
    with pytest.raises(ModelError, match="it is no file"):
        load_packed(tmp_path)
    make(tmp_path / "model.pth")
    with pytest.raises(ModelError):
        load_model(str(tmp_path / "model.pth"))
