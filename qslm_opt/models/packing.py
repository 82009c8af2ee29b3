"""From codes to a packed folder: ``packed.safetensors``, ``config.json`` and ``tokenizer.json``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qslm_opt.errors import SettingError, UsageError
from qslm_opt.hierarchy.discover import discover
from qslm_opt.models.loading import config_text
from qslm_opt.models.locate import TOKENIZERS
from qslm_opt.models.packed import layout_of
from qslm_opt.models.packed_file import PACKED_NAME, packed_bytes
from qslm_opt.quant.base import QuantizedTensor
from qslm_opt.quant.packed_tensor import PackedTensor
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.loading import LoadedModel
    from qslm_opt.models.packed import Kind


@dataclass(frozen=True)
class Origin:
    """Where a packed model comes from, for its header."""

    task: str | None
    kind: Kind
    code: str
    """Code version that made the codes."""
    calibration: Mapping[str, Any] | None = None
    """Split, number of sequences and hash of the text that a calibrated quantizer looked at."""
    study: Mapping[str, Any] | None = None
    """Name and trial of the study that chose the setting."""
    tuning: Mapping[str, Any] | None = None
    """Split, number of sequences and hash of the text that a tuned setting was tuned on."""


def pack_model(
    folder: Path,
    model: LoadedModel,
    hierarchy: Hierarchy,
    setting: QuantSetting,
    codes: Mapping[str, QuantizedTensor | Tensor],
    origin: Origin,
) -> Path:
    """Write a packed folder and return the file of its weights.

    Args:
        folder: must not exist, or be empty; appears whole or not at all.
        hierarchy: the model's for the task of ``origin``: what it counts is stored.
        codes: name → codes (or float16 or float32 tensor) of every counted tensor, as ``setting`` makes them.

    Raises:
        UsageError: the folder holds something or cannot be written.
        SettingError: a tensor's codes do not fit its format.
    """
    check_output(folder)
    config = model.config.lean(origin.kind)
    lean = without_dead(setting, config, hierarchy, origin.kind)
    tokenizer = None if model.tokenizer is None else model.tokenizer.to_str(pretty=False).encode()
    beside = {"config.json": config_text(config).encode()}
    if tokenizer is not None:
        beside[TOKENIZERS[0]] = tokenizer
    payload, header = _contents(model, config, hierarchy, lean, codes, origin)
    header["files"] = {name: sha256(text).hexdigest() for name, text in beside.items()}
    _write(folder, {**beside, PACKED_NAME: packed_bytes(header, payload)})
    return folder / PACKED_NAME


def check_output(folder: Path) -> None:
    """Raise UsageError unless ``folder`` is free."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"--output {str(folder)!r} exists and is not an empty folder; give another, or delete it."
        )


def without_dead(
    setting: QuantSetting, config: ModelConfig, hierarchy: Hierarchy, kind: Kind
) -> QuantSetting:
    """Return the setting without units that a lean config has not; they had no counted tensor."""
    setting.resolve(hierarchy)
    units = discover(config, config.tensor_shapes(), kind).units()
    return replace(setting, units={u: fmt for u, fmt in setting.units.items() if u in units})


def _contents(
    model: LoadedModel,
    config: ModelConfig,
    hierarchy: Hierarchy,
    setting: QuantSetting,
    codes: Mapping[str, QuantizedTensor | Tensor],
    origin: Origin,
) -> tuple[bytes, dict[str, Any]]:
    counted = {t.name for t in hierarchy.tensors() if t.counted}
    ties = {t.name: t.tied_to for t in hierarchy.tensors() if t.live and t.tied_to is not None}
    lean = discover(config, config.tensor_shapes(), origin.kind, {n: s for n, s in ties.items() if s})
    formats = setting.resolve(lean)
    assert set(formats) == counted
    parts = [stored_bytes(name, codes[name]) for name, _, _ in layout_of(config, formats)]
    names = list(dict.fromkeys(str(fmt) for fmt in formats.values()))
    payload = b"".join(parts)
    header = {
        "family": config.family,
        "config": config.to_dict(),
        "task": origin.task,
        "kind": origin.kind,
        "formats": names,
        "tensors": [names.index(str(formats[n])) if n in formats else None for n in config.tensor_shapes()],
        "ties": ties,
        "setting": json.loads(setting.to_json()),
        "bytes": len(payload),
        "weights": model.weights_hash,
        "code": origin.code,
        "calibration": origin.calibration,
        "tuning": origin.tuning,
        "study": origin.study,
    }
    return payload, header


def stored_bytes(name: str, value: QuantizedTensor | Tensor) -> bytes:
    """Return codes, scales and zero points, or a float tensor, as the payload holds them."""
    if isinstance(value, QuantizedTensor):
        try:
            packed = PackedTensor.of(value)
        except SettingError as error:
            raise SettingError(f"tensor {name!r}: {error}") from None
        parts = (packed.data, packed.scale, packed.zero)
        return b"".join(_little(part) for part in parts if part is not None)
    return _little(value)


def _little(tensor: Tensor) -> bytes:
    values: np.ndarray[Any, Any] = tensor.detach().cpu().contiguous().numpy()
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, or none; an empty folder that is there gets them one by one, the weights last."""
    folder = folder.absolute()
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        for name, text in files.items():
            (part / name).write_bytes(text)
        if folder.exists():
            for name in files:
                (part / name).rename(folder / name)
            part.rmdir()
        else:
            part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UsageError(
            f"--output {str(folder)!r} cannot be written ({error.strerror or error}); give another folder."
        ) from None


def codes_equal(stored: PackedTensor | Tensor, made: QuantizedTensor | Tensor) -> bool:
    """Return whether a packed tensor holds the very bytes that ``made`` is packed to."""
    value = stored.quantized() if isinstance(stored, PackedTensor) else stored
    return stored_bytes("", value) == stored_bytes("", made)

