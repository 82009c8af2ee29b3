"""Tables over a hierarchy: bytes and digests of thousands of settings without building one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from qslm_opt.formats import FP32, Bits
from qslm_opt.setting import SETTING_VERSION

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.hierarchy.tree import Hierarchy, TensorInfo

Levels = tuple[Bits, ...]
"""Bits for each of the searched modules, in their order."""
_KEPT_DIGESTS = 1024
"""More than the settings that one look ahead of the walk touches."""


@dataclass(frozen=True)
class Tables:
    """What every level of every searched module costs, and how it is written in a digest."""

    hierarchy: Hierarchy
    modules: tuple[str, ...]
    """The searched modules that are not pinned."""
    formats: Mapping[Bits, Format]
    """Level → format."""
    pins: Mapping[str, Format]
    quantizer: str

    def memory(self, levels: Levels, fixed: Format) -> int:
        """Return the packed bytes with ``levels`` and the tensors that are not searched in ``fixed``."""
        rows = self._bytes
        return self._others(fixed) + sum(rows[i][bits] for i, bits in enumerate(levels))

    def digest(self, levels: Levels, fixed: Format) -> str:
        """Return what ``QuantSetting.digest`` gives for this choice: the hash of the same JSON text."""
        key = levels, str(fixed)
        known = self._digests.get(key)
        if known is None:
            if len(self._digests) >= _KEPT_DIGESTS:
                self._digests.clear()
            known = self._digests[key] = self._hash(levels, json.dumps(str(fixed)))
        return known

    def _hash(self, levels: Levels, fixed: str) -> str:
        written = self._written
        formats = [
            f"{name}:{written[levels[how]] if isinstance(how, int) else how or fixed}"
            for name, how in self._tensors
        ]
        text = f"[{SETTING_VERSION},{json.dumps(self.quantizer)},{{{','.join(formats)}}}]"
        return sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _digests(self) -> dict[tuple[Levels, str], str]:
        return {}

    @cached_property
    def _constants(self) -> dict[str, int]:
        return {}

    @cached_property
    def _written(self) -> dict[Bits, str]:
        return {bits: json.dumps(str(fmt)) for bits, fmt in self.formats.items()}

    @cached_property
    def _bytes(self) -> list[dict[Bits, int]]:
        """Level → bytes of the searched tensors, a table for each of ``modules``."""
        found = {m.unit: [t.shape for t in m.tensors if t.searched] for m in self.hierarchy.modules()}
        return [
            {
                bits: sum(fmt.packed_bytes(shape) for shape in found[unit])
                for bits, fmt in self.formats.items()
            }
            for unit in self.modules
        ]

    def _others(self, fixed: Format) -> int:
        """Bytes of the tensors that no level changes: pinned ones, and those that are not searched."""
        key = str(fixed)
        if key not in self._constants:
            self._constants[key] = sum(
                self._constant(module.unit, tensor, fixed).packed_bytes(tensor.shape)
                for module in self.hierarchy.modules()
                for tensor in module.tensors
                if tensor.counted and not (tensor.searched and module.unit in self._places)
            )
        return self._constants[key]

    def _constant(self, module: str, tensor: TensorInfo, fixed: Format) -> Format:
        """Return the format of a tensor that no level changes."""
        if tensor.exact:
            return FP32
        return self._pin(module) or fixed if tensor.searched else fixed

    @cached_property
    def _places(self) -> dict[str, int]:
        return {unit: place for place, unit in enumerate(self.modules)}

    def _pin(self, module: str) -> Format | None:
        return self.pins.get(module, self.pins.get(module.partition("/")[0]))

    @cached_property
    def _tensors(self) -> list[tuple[str, int | str]]:
        """The counted tensors by name: JSON of the name, and place in levels, JSON of the pin, or ""."""
        rows: dict[str, int | str] = {}
        exact = json.dumps(str(FP32))
        for module in self.hierarchy.modules():
            searched = self._places.get(module.unit, json.dumps(str(self._pin(module.unit))))
            for t in module.tensors:
                if t.counted:
                    rows[t.name] = searched if t.searched else exact if t.exact else ""
        return [(json.dumps(name), rows[name]) for name in sorted(rows)]
