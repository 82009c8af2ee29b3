"""Bytes of a setting: arithmetic over the hierarchy, no model run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.setting import QuantSetting


def live_bytes(hierarchy: Hierarchy, setting: QuantSetting) -> int:
    """Return the packed bytes of the tensors that are live for the task, scales included."""
    return sum(unit_bytes(hierarchy, setting).values())


def unit_bytes(hierarchy: Hierarchy, setting: QuantSetting) -> dict[str, int]:
    """Return module unit → packed bytes of its counted tensors."""
    formats = setting.resolve(hierarchy)
    return {
        module.unit: sum(formats[t.name].packed_bytes(t.shape) for t in module.tensors if t.counted)
        for module in hierarchy.modules()
    }
