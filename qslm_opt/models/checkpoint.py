"""Tensors out of checkpoint files, without ever running what a file says.

``.safetensors`` holds only tensors. Everything else is taken for a ``torch.save`` file (zip or the older
pickle stream) and read by torch's weights-only reader, which builds tensors and plain containers and
refuses every other global.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from qslm_opt.errors import ModelError, NumericsError

_NESTED = ("state_dict", "model_state_dict", "model")
_HARMLESS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\.(\w*Storage|Tensor|Size|device|storage\.\w+|b?float\w*|half|u?int\d+|bool)"
    r"|torch\.nn\.parameter\.Parameter|collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode"
)
"""What a state dict's pickle names; all of it torch's weights-only reader knows."""
_STRINGS = ("UNICODE", "STRING")
MOST_HEADER_BYTES = 16 << 20
"""A safetensors header of SpikeGPT-216M has 50 kB; reading one costs some thirty times its bytes."""


def read_checkpoint(paths: tuple[Path, ...]) -> dict[str, Tensor]:
    """Read one checkpoint, whole or in safetensors shards.

    Returns:
        name → tensor as stored: perhaps mapped from the file, tied ones on one storage. Weights have any
        float type; positions and counters may be integers.

    Raises:
        ModelError: a file is damaged, holds code, or is no mapping of names to tensors.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in _read(path).items():
            if name in tensors:
                raise ModelError(f"checkpoint {str(path)!r} has {name!r} once more; remove one of the two.")
            _check_tensor(path, name, tensor)
            tensors[name] = tensor
    return tensors


def find_ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name → the first name that holds the same numbers in the same storage."""
    first: dict[tuple[Any, ...], str] = {}
    ties: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            owner = first.setdefault(key, name)
            if owner != name:
                ties[name] = owner
    return ties


def to_float32(name: str, tensor: Tensor) -> Tensor:
    """Return a contiguous float32 copy.

    Raises:
        ModelError: the tensor holds integers.
        NumericsError: a weight is NaN or infinite.
    """
    if not tensor.is_floating_point():
        raise ModelError(
            f"tensor {name!r} is {tensor.dtype}; weights must be float16, bfloat16, float32 or float64."
        )
    copy = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    low, high = copy.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(copy)).sum())
        raise NumericsError(
            f"tensor {name!r} holds {bad} NaN or infinite of {copy.numel()} weights; "
            "give a checkpoint of finite weights."
        )
    return copy


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.stat().st_size == 0:
            raise ModelError(f"checkpoint {str(path)!r} is empty; give a complete file.")
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except OSError as error:
        raise ModelError(f"checkpoint {str(path)!r} cannot be read: {error.strerror or error}.") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - the reader raises its own, ValueError and KeyError
        raise ModelError(
            f"checkpoint {str(path)!r} is damaged or no safetensors file ({error}); "
            "copy or download it again."
        ) from None


def _check_header(path: Path) -> None:
    """Compare the length that a safetensors header claims with the file's, before anything is allocated."""
    size = path.stat().st_size
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    if claimed > min(size - 8, MOST_HEADER_BYTES):
        raise ModelError(
            f"checkpoint {str(path)!r} is damaged or no safetensors file (its header claims {claimed:,} "
            f"bytes of {size:,}, at most {MOST_HEADER_BYTES:,} are read); copy or download it again."
        )


def _read_torch(path: Path) -> dict[str, Tensor]:
    mapped = _is_zip(path)
    if mapped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise almost anything
        raise _refusal(path, error) from None
    tensors = _state_dict(path, value)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _dense(tensors)}
    _check_sizes(path, sum(storages.values()), "its tensors")
    return tensors


def _dense(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [t for t in tensors.values() if t.layout == torch.strided and t.device.type == "cpu"]


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # such as one that says that it spans several disks
        raise ModelError(
            f"checkpoint {str(path)!r} is damaged ({error}); copy or download it again."
        ) from None


def _check_archive(path: Path) -> None:
    """Compare every stored checksum: torch does not when it maps the file. Nothing may be compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_sizes(path, sum(entry.file_size for entry in entries), "its entries")
            for entry in entries:
                if entry.CRC:  # torch can be told to store none
                    with archive.open(entry) as file:
                        while file.read(1 << 22):
                            pass
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged archive can raise almost anything
        raise ModelError(
            f"checkpoint {str(path)!r} is damaged ({error}); copy or download it again."
        ) from None


def _check_sizes(path: Path, claimed: int, what: str) -> None:
    """Refuse a file that says it holds more than it has: whoever believes it runs out of memory."""
    size = path.stat().st_size
    if claimed > size:
        raise ModelError(
            f"checkpoint {str(path)!r} is damaged or compressed: {what} claim {claimed:,} bytes of "
            f"{size:,}; save it anew with torch.save or as safetensors."
        )


def _refusal(path: Path, error: Exception) -> ModelError:
    """Say why torch refused: code or objects, by name, else damage."""
    named = next((name for name in _globals(path) if not _HARMLESS.fullmatch(name)), None)
    if named is not None or "TorchScript" in str(error):
        what = f"it would load {named}" if named else "it is a TorchScript archive"
        return ModelError(
            f"checkpoint {str(path)!r} holds code or objects, not only weights ({what}), and was refused; "
            "save model.state_dict() or a safetensors file."
        )
    return ModelError(
        f"checkpoint {str(path)!r} is no torch checkpoint, or it is truncated or damaged; "
        "copy or download it again."
    )


def _globals(path: Path) -> Iterator[str]:
    """Yield the dotted names that a pickle would import, as far as it can be parsed."""
    try:
        if _starts_as_zip(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as file:
                            yield from _stream_globals(file)
        else:
            with path.open("rb") as file:
                yield from _stream_globals(file)
    except Exception:  # noqa: BLE001 - what cannot be parsed has no names to tell
        return


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _stream_globals(file: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    while True:  # the older format is several pickles in a row, then raw numbers
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif any(kind in opcode.name for kind in _STRINGS):
                strings = [*strings[-1:], str(argument)]


def _state_dict(path: Path, value: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, itself or nested in a trainer's checkpoint."""
    for key in _NESTED:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
            break
    if not isinstance(value, Mapping):
        raise ModelError(
            f"checkpoint {str(path)!r} holds a {type(value).__name__}, not a state dict; "
            "save model.state_dict()."
        )
    found = {k: item for k, item in value.items() if isinstance(k, str) and isinstance(item, Tensor)}
    if not found:
        raise ModelError(f"checkpoint {str(path)!r} holds no tensors; save model.state_dict().")
    return found


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ModelError(f"tensor {name!r} in {str(path)!r} is not a dense CPU tensor; save it as one.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ModelError(
            f"tensor {name!r} in {str(path)!r} repeats its storage (shape {list(tensor.shape)}); "
            "save it contiguous."
        )
