"""Activations at block boundaries, so that a trial which changes block i starts at block i.

The residual stream before block j depends only on the tensors in front of it. Each boundary of each
batch keeps two values: that of the setting the search stands on, and that of the last trial. When the
search moves to that trial its values are promoted, so nothing is computed twice on the way down.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.setting import QuantSetting


@dataclass(frozen=True)
class Boundary:
    """The stream before a block, and the spikes that each site in front of it fired."""

    key: str
    x: Tensor
    spikes: Mapping[str, Tensor]  # () float64 each


def boundary_keys(hierarchy: Hierarchy, setting: QuantSetting) -> list[str]:
    """Return one key per attention block and one for the output block.

    Equal keys mean equal formats, hence equal values, of every tensor in front of that block. In a tuned
    setting every tensor depends on all formats.
    """
    formats = setting.resolve(hierarchy)
    chain, keys = sha256((setting.to_json() if setting.tune else setting.quantizer).encode()), []
    for block in hierarchy.blocks:
        if block.kind in ("attention", "output"):
            keys.append(chain.hexdigest())
        chain.update(";".join(f"{t.name}={formats.get(t.name)}" for t in block.tensors()).encode())
    return keys


class PrefixCache:
    """Bounded store of boundaries: (batch, block) → the incumbent's and the last trial's value."""

    def __init__(self, limit_bytes: int, boundary_bytes: int, blocks: int) -> None:
        """Plan for ``boundary_bytes`` over all batches per boundary, within ``limit_bytes``.

        Where not every boundary fits twice, only every stride-th one is kept; where none does, none is.
        """
        affordable = limit_bytes // max(1, 2 * boundary_bytes)
        self.stride = -(-blocks // affordable) if affordable else blocks + 1
        self._kept: dict[tuple[int, int], Boundary] = {}
        self._spare: dict[tuple[int, int], Boundary] = {}
        self._incumbent: list[str] = []

    def follow(self, incumbent: list[str]) -> None:
        """Make ``incumbent`` (its boundary keys) the setting whose values are kept."""
        if incumbent == self._incumbent:
            return
        self._incumbent = incumbent
        for place, value in list(self._spare.items()):
            if value.key == incumbent[place[1]]:
                self._kept[place] = self._spare.pop(place)

    def deepest(self, batch: int, keys: Sequence[str]) -> tuple[int, Boundary] | None:
        """Return the last block whose boundary is stored under ``keys``, and the boundary."""
        for j in range(len(keys) - 1, 0, -1):
            for store in (self._kept, self._spare):
                value = store.get((batch, j))
                if value is not None and value.key == keys[j]:
                    return j, value
        return None

    def put(self, batch: int, j: int, value: Boundary) -> None:
        """Store the boundary before block j, unless the plan leaves it out."""
        if j % self.stride:
            return
        kept = bool(self._incumbent) and value.key == self._incumbent[j]
        (self._kept if kept else self._spare)[batch, j] = value

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self._spare.clear()
