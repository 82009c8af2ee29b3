"""A packed model: from the file's header and payload to tensors of codes, every value checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from qslm_opt.errors import ModelError, QslmError
from qslm_opt.formats import Format
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models.locate import TOKENIZERS, find_model
from qslm_opt.models.packed_file import PackedFile, read_packed_file
from qslm_opt.models.registry import family_names, get_family, is_mapped
from qslm_opt.quant.packed_tensor import PackedTensor, scale_shape, scale_type, zero_type
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.config import ModelConfig

    Kind = Literal["classification", "lm"]

_KINDS = ("classification", "lm")
_NUMPY = {torch.float16: "<f2", torch.float32: "<f4", torch.uint8: "u1", torch.uint16: "<u2"}
_NATIVE = {"<f2": "f2", "<f4": "f4", "u1": "u1", "<u2": "u2"}


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed model in memory: codes, not weights."""

    config: ModelConfig
    """Of the packed model: without the head that its task never reads."""
    kind: Kind
    setting: QuantSetting
    tensors: dict[str, PackedTensor | Tensor]
    """Name → codes, or a float16 or float32 tensor as stored. Tied names share one object."""
    ties: dict[str, str]
    """Name → name of the tensor that it is."""
    header: dict[str, Any] = field(repr=False)
    """The file's JSON header; ``docs/packed-format.md`` lists its keys."""
    path: Path
    checksum: str
    file_bytes: int
    payload_bytes: int
    tokenizer: Path | None = None
    """``tokenizer.json`` beside the file."""

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that are not payload."""
        return self.file_bytes - self.payload_bytes

    def check_family(self, source: str, given: str | None) -> None:
        """Raise ModelError unless ``given``, the name of a family or None, is the one it is packed as."""
        if given not in (None, self.config.family):
            raise ModelError(
                f"model {source!r} is packed as a {self.config.family!r}, not a {given!r}; leave --family "
                "out."
            )

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The tree of the packed model."""
        return discover(self.config, self.config.tensor_shapes(), self.kind, self.ties)

    def formats(self) -> dict[str, Format]:
        """Return tensor name → format of what the file stores."""
        return self.setting.resolve(self.hierarchy)

    def weights(self) -> dict[str, Tensor]:
        """Return name → float32 weights; tied names share one tensor. ModelError where one is not finite."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            if name in self.ties:
                continue
            found[name] = tensor.dequantize() if isinstance(tensor, PackedTensor) else tensor.float()
            if not bool(torch.isfinite(found[name]).all()):
                raise ModelError(
                    f"tensor {name!r} of packed model {str(self.path)!r} has weights that are not finite; "
                    "pack the model again."
                )
        return {name: found[self.ties.get(name, name)] for name in self.tensors}


def load_packed(folder: Path | str) -> PackedModel:
    """Load a packed model from its folder or file.

    Raises:
        UsageError: ``folder`` does not exist.
        ModelError: the file, or a config or tokenizer beside it, is damaged, altered or of a newer version.
    """
    files = find_model(str(folder))
    return read_packed(files.weights[0], files.config, files.tokenizer)


def read_packed(path: Path, config: Path | None = None, tokenizer: Path | None = None) -> PackedModel:
    """Read a packed file, and compare what lies beside it with the sums that the file holds."""
    file = read_packed_file(path)
    _check_known(path, str(file.header.get("family")))
    try:
        model = _model(file, tokenizer)
    except (QslmError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ModelError(
            f"packed model {str(path)!r} contradicts itself ({_short(error)}); pack the model again."
        ) from None
    for key, beside in (("config.json", config), (TOKENIZERS[0], tokenizer)):
        if beside is not None:
            _check_beside(path, beside, model.header["files"].get(key))
    return model


def _check_known(path: Path, family: str) -> None:
    """Raise ModelError, with what to give or to install, where the family of a packed model is not here."""
    if not is_mapped(family) and family not in family_names():
        raise ModelError(
            f"packed model {str(path)!r} is of model family {family[:100]!r}, which is unknown here (there "
            f"are {', '.join(family_names())}); install the package that registers it, or a newer qslm-opt."
        )
    get_family(family)  # raises where it needs its mapping file, or its package is broken


def layout_of(
    config: ModelConfig, formats: Mapping[str, Format]
) -> Iterator[tuple[str, tuple[int, ...], Format]]:
    """Yield (name, shape, format) of the stored tensors in the order of the payload."""
    for name, shape in config.tensor_shapes().items():
        if name in formats:
            yield name, shape, formats[name]


def _model(file: PackedFile, tokenizer: Path | None) -> PackedModel:
    header = file.header
    if header["kind"] not in _KINDS:
        raise ValueError(f"kind {header['kind']!r} is not known")
    _check_facts(header)
    table = header["tensors"]
    if not isinstance(table, list) or not isinstance(header["formats"], list):
        raise TypeError("'tensors' and 'formats' are no lists")
    config = _config(str(header["family"]), header["config"], len(table))
    shapes = config.tensor_shapes()
    if len(shapes) != len(table):
        raise ValueError(f"{len(table)} tensors are listed, the config has {len(shapes)}")
    ties = _ties(header["ties"], shapes)
    formats = _formats(header, shapes, ties)
    setting = QuantSetting.from_value(header["setting"])
    if setting.resolve(discover(config, shapes, header["kind"], ties)) != formats:
        raise ValueError("the setting is not what the tensors have")
    claim = sum(fmt.packed_bytes(shapes[name]) for name, fmt in formats.items())
    if claim != len(file.payload) or claim != header["bytes"]:
        raise ValueError(f"its tensors need {claim:,} bytes, it has {len(file.payload):,}")
    stored = _tensors(config, formats, file.payload)
    tensors = {name: stored[ties.get(name, name)] for name in shapes}
    return PackedModel(
        config, header["kind"], setting, tensors, ties, header, file.path, file.checksum, file.file_bytes,
        len(file.payload), tokenizer,
    )  # fmt: skip


def _check_facts(header: Mapping[str, Any]) -> None:
    """Raise TypeError unless what the header says about the origin has the documented types."""
    _check_types(header, {"task": (str, None), "weights": (str,), "code": (str,)})
    _check_types(header, {"calibration": (dict, None), "tuning": (dict, None)})
    _check_types(header, {"study": (dict, None), "files": (dict,)})
    if header["study"] is not None:
        _check_types(header["study"], {"name": (str,), "trial": (int,)})
    for text in (header["calibration"], header["tuning"]):
        if text is not None:
            wanted = {"split": (str,), "sequences": (int,), "window": (int, None), "hash": (str,)}
            _check_types(text, wanted)


def _check_types(values: Mapping[str, Any], wanted: Mapping[str, tuple[type | None, ...]]) -> None:
    for key, kinds in wanted.items():
        if (None if values[key] is None else type(values[key])) not in kinds:
            raise TypeError(f"{key!r} is {str(values[key])[:80]!r}")


def _config(family: str, value: Mapping[str, Any], most_blocks: int) -> ModelConfig:
    """Return the config; its loops over blocks are bounded by the tensors that are listed."""
    kind = get_family(family).config_class
    keys = {key: value[key] for key in kind.key_names()}
    kind.check_keys(keys)
    config = kind.from_dict(keys)
    if not 0 < config.blocks <= most_blocks:
        raise ValueError("the config's sizes are out of range")
    return config


def _ties(value: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    ties = {str(name): str(source) for name, source in value.items()}
    for name, source in ties.items():
        if source in ties or shapes[name] != shapes[source]:
            raise ValueError(f"{name!r} cannot be tied to {source!r}")
    return ties


def _formats(
    header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], ties: Mapping[str, str]
) -> dict[str, Format]:
    known = [Format.parse(str(text)) for text in header["formats"]]
    found = {}
    for name, place in zip(shapes, header["tensors"], strict=True):
        if (place is None) != (name in ties):
            raise ValueError(f"{name!r} has no format, or one too many")
        if place is not None:
            if type(place) is not int or not 0 <= place < len(known):
                raise ValueError(f"{name!r} has format number {place!r} of {len(known)}")
            found[name] = known[place]
    return found


def _tensors(
    config: ModelConfig, formats: Mapping[str, Format], payload: memoryview
) -> dict[str, PackedTensor | Tensor]:
    """Cut the payload, whose length is known to be right."""
    found: dict[str, PackedTensor | Tensor] = {}
    at = 0
    for name, shape, fmt in layout_of(config, formats):
        part = payload[at : at + fmt.packed_bytes(shape)]
        at += len(part)
        if fmt.kind == "float":
            kind = torch.float16 if fmt.bits == 16 else torch.float32
            found[name] = _array(part, kind, shape)
        else:
            found[name] = _packed(part, fmt, shape)
    return found


def _packed(part: memoryview, fmt: Format, shape: tuple[int, ...]) -> PackedTensor:
    codes, scales = fmt.code_bytes(prod(shape)), scale_shape(fmt, shape)
    ends = codes, codes + fmt.scales(shape) * fmt.scale_bytes
    data = _array(part[: ends[0]], torch.uint8, (codes,))
    scale = _array(part[ends[0] : ends[1]], scale_type(fmt), scales)
    kind = zero_type(fmt)
    zero = None if kind is None else _array(part[ends[1] :], kind, scales)
    return PackedTensor(data, scale, zero, fmt, shape)


def _array(part: memoryview, kind: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a copy of little-endian bytes as a tensor."""
    text = _NUMPY[kind]
    values = np.frombuffer(part, np.dtype(text)).astype(_NATIVE[text], copy=True)
    return torch.from_numpy(values.reshape(shape))


def _check_beside(packed: Path, path: Path, wanted: object) -> None:
    try:
        digest = sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"file {str(path)!r} cannot be read: {error.strerror or error}.") from None
    if digest != wanted:
        raise ModelError(
            f"file {str(path)!r} is not the one that {packed.name!r} was released with (sha256 "
            f"{digest[:12]}…, wanted {str(wanted)[:12]}…); copy or download it again."
        )


def _short(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, (KeyError, AttributeError)) else str(error)
    return text.rstrip(".")[:300]
