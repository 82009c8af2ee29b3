"""The bytes of a packed file: a safetensors file of one tensor, with a checksum over all of it. No torch.

``docs/packed-format.md`` specifies it. Nothing is allocated that the file's own size does not bound, and
nothing of it is run.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from qslm_opt.errors import ModelError

PACKED_NAME = "packed.safetensors"
PACKED_VERSION = 1
MOST_HEADER_BYTES = 1 << 20
"""Of the safetensors header."""
MOST_JSON_BYTES = 4 << 20
"""Of the inflated JSON header: a model of 1000 blocks has 100 kB."""
_OPENING = b'{"__metadata__":{"format":"qslm-packed","sha256":"'
_NO_SUM = b"0" * 64
_SUM_AT = 8 + len(_OPENING)
_METADATA = {"format", "sha256", "version", "header"}
_SUM = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class PackedFile:
    """What a packed file holds."""

    path: Path
    header: dict[str, Any]
    """The JSON header, as the file says it: its values are still to be checked."""
    payload: memoryview
    """Codes, scales and zero points, one tensor after another."""
    checksum: str
    """SHA-256 (hex) of the file with the digits of its own checksum as zeros."""
    file_bytes: int

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that are not payload."""
        return self.file_bytes - len(self.payload)


def is_packed(path: Path) -> bool:
    """Return whether a file says that it is packed, by its name or by how it begins."""
    if path.name == PACKED_NAME:
        return True
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(_SUM_AT)[8:] == _OPENING
    except OSError:
        return False


def packed_bytes(header: dict[str, Any], payload: bytes) -> bytes:
    """Return the whole file."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True)
    deflated = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    rest = json.dumps(
        {"payload": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}},
        separators=(",", ":"),
    )
    tail = f'","version":"{PACKED_VERSION}","header":"{deflated}"}},{rest[1:]}'.encode()
    tail += b" " * (-(len(_OPENING) + len(_NO_SUM) + len(tail)) % 8)
    length = (len(_OPENING) + len(_NO_SUM) + len(tail)).to_bytes(8, "little")
    digest = sha256(length + _OPENING + _NO_SUM + tail)
    digest.update(payload)
    return b"".join((length, _OPENING, digest.hexdigest().encode(), tail, payload))


def read_packed_file(path: Path) -> PackedFile:
    """Read a packed file whose checksum is right.

    Raises:
        ModelError: it cannot be read, is truncated or altered, or of a newer version.
    """
    try:
        if not path.is_file():
            raise _refusal(path, "it is no file")
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < _SUM_AT + 64 or length > min(size - 8, MOST_HEADER_BYTES):
                raise _refusal(path, f"{size:,} bytes do not hold a header of {length:,}")
            data = length.to_bytes(8, "little") + file.read(size - 8)
    except OSError as error:
        raise ModelError(f"packed model {str(path)!r} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise ModelError(
            f"packed model {str(path)!r} has {size:,} bytes, more than this machine has memory for; "
            "read it where there is more."
        ) from None
    checksum = _check_sum(path, data)
    try:
        entries = json.loads(data[8 : 8 + length])
        metadata, payload = entries["__metadata__"], memoryview(data)[8 + length :]
        version = int(metadata["version"])
        if version != PACKED_VERSION:
            raise ModelError(
                f"packed model {str(path)!r} is of format version {version}, this qslm-opt reads "
                f"{PACKED_VERSION}; use the release that wrote it."
            )
        told = {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}
        if set(metadata) != _METADATA or entries != {"__metadata__": metadata, "payload": told}:
            raise _refusal(path, "its entries are not those of its bytes")
        header = json.loads(_inflated(path, metadata["header"]))
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error) as error:
        raise _refusal(path, f"its header is unreadable: {error}") from None
    if not isinstance(header, dict):
        raise _refusal(path, "its header is no JSON object")
    return PackedFile(path, header, payload, checksum, len(data))


def _check_sum(path: Path, data: bytes) -> str:
    """Return the checksum; ModelError unless it is the one that the file opens with."""
    stated = data[_SUM_AT : _SUM_AT + 64]
    if data[8:_SUM_AT] != _OPENING or not _SUM.fullmatch(stated):
        raise _refusal(path, "it does not open with a checksum")
    digest = sha256(data[:_SUM_AT] + _NO_SUM)
    digest.update(memoryview(data)[_SUM_AT + 64 :])
    if digest.hexdigest().encode() != stated:
        raise _refusal(path, f"its checksum is {digest.hexdigest()[:12]}…, stated is {stated[:12].decode()}…")
    return digest.hexdigest()


def _inflated(path: Path, text: str) -> bytes:
    inflate = zlib.decompressobj()
    found = inflate.decompress(base64.b64decode(text, validate=True), MOST_JSON_BYTES)
    if not inflate.eof or inflate.unused_data:
        raise _refusal(path, f"its header is incomplete or inflates to more than {MOST_JSON_BYTES:,} bytes")
    return found


def _refusal(path: Path, why: str) -> ModelError:
    return ModelError(
        f"packed model {str(path)!r} is truncated, altered or no packed model ({why}); "
        "copy or download it again."
    )
