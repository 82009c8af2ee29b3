"""A reader of packed files written from docs/packed-format.md alone: nothing of qslm_opt is imported here."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.packed_layouts import LAYOUTS

OPENING = b'{"__metadata__":{"format":"qslm-packed","sha256":"'


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON header, and the float32 weights by name."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    assert n <= min(2**20, len(data) - 8) and data[8:58] == OPENING
    zeroed = data[:58] + b"0" * 64 + data[122:]
    assert hashlib.sha256(zeroed).hexdigest().encode() == data[58:122]
    entries = json.loads(data[8 : 8 + n])
    payload = data[8 + n :]
    assert entries["payload"] == {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}
    assert entries["__metadata__"]["version"] == "1"
    header = json.loads(zlib.decompress(base64.b64decode(entries["__metadata__"]["header"])))
    assert header["bytes"] == len(payload)
    weights: dict[str, np.ndarray] = {}
    at = 0
    tensors = list(LAYOUTS[header["family"]](header["config"]))
    assert len(tensors) == len(header["tensors"])
    for (name, shape), place in zip(tensors, header["tensors"], strict=True):
        if place is not None:
            weights[name], at = tensor(payload, at, header["formats"][place], shape)
    assert at == len(payload)
    for name, source in header["ties"].items():
        weights[name] = weights[source]
    return header, weights


def tensor(payload: bytes, at: int, fmt: str, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    count = math.prod(shape)
    if fmt in ("fp16", "fp32"):
        end = at + count * (2 if fmt == "fp16" else 4)
        values = np.frombuffer(payload[at:end], "<f2" if fmt == "fp16" else "<f4")
        return values.astype("f4").reshape(shape), end
    rows = shape[0] if len(shape) > 1 else 1
    columns = count // rows
    kind, *rest = fmt.split("/")
    if kind == "ternary":
        length = -(-count // 5)
        stream = np.frombuffer(payload[at : at + length], "u1").astype(int)
        u = (stream[:, None] // 3 ** np.arange(5) % 3).ravel()[:count]
    else:
        bits = 1 if kind == "sign" else int(kind.removeprefix("int"))
        length = -(-count * bits // 8)
        stream = np.unpackbits(np.frombuffer(payload[at : at + length], "u1"), bitorder="little")
        u = (stream[: count * bits].reshape(count, bits).astype(int) << np.arange(bits)).sum(1)
    at += length
    if kind == "sign":
        return (2 * u - 1).astype("f4").reshape(shape), at
    scope = rest[0]
    group = min(int(scope.removeprefix("group")), columns) if scope.startswith("group") else columns
    scales = 1 if scope == "tensor" else rows * -(-columns // group)
    wide = scope == "tensor" or (kind != "ternary" and bits > 8)
    real = "<f4" if wide else "<f2"

    def numbers(dtype: str) -> np.ndarray:
        nonlocal at
        end = at + scales * np.dtype(dtype).itemsize
        values, at = np.frombuffer(payload[at:end], dtype).astype("f4"), end
        if scope == "tensor":
            return np.broadcast_to(values, (rows, columns))
        return values.reshape(rows, -1).repeat(group, axis=1)[:, :columns]

    s = numbers(real)
    u = u.reshape(rows, columns)
    if kind == "ternary":
        steps = (u - 1).astype("f4")
    elif rest[1] == "affine":
        steps = u.astype("f4") - numbers("u1" if bits <= 8 else "<u2")
    elif rest[1] == "offset":
        steps = u.astype("f4") - numbers(real)
    elif rest[1] == "symmetric":
        steps = (u - (2 ** (bits - 1) - 1)).astype("f4")
    else:
        steps = (2 * u - (2**bits - 1)).astype("f4")
    return (steps * s).astype("f4").reshape(shape), at
