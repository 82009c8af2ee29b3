"""Bits of every module of the chosen setting, and the bytes of every block before and after. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qslm_opt.evaluate.memory import unit_bytes
from qslm_opt.hierarchy.tree import SEARCHED_ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.hierarchy.tree import Block, Hierarchy, Module
    from qslm_opt.setting import QuantSetting

Mark = Literal["", "pinned", "sign", "dead", "tied"]
MARKS: dict[Mark, str] = {
    "pinned": "pinned: the user chose its format",
    "sign": "sign: the model reads only its sign: one bit loses nothing",
    "dead": "dead: this task never reads it, so it is left out",
    "tied": "tied: shares the storage of another tensor",
}
"""What a mark means."""


@dataclass(frozen=True)
class BitCell:
    """One module of one block."""

    unit: str
    format: str
    """As the setting writes it; empty for what is left out."""
    bits: float | None
    """None for what is left out."""
    mark: Mark


@dataclass(frozen=True)
class BlockBytes:
    """One block's memory."""

    block: str
    before: int
    """Bytes in float32 of what the task reads."""
    after: int
    """Packed bytes, scales and zero points included."""
    mean_bits: float | None
    """Over its searched weights; None without any."""


@dataclass(frozen=True)
class BitMap:
    """The chosen setting over the model."""

    columns: tuple[str, ...]
    """Modules by their short names."""
    rows: tuple[tuple[str, tuple[BitCell | None, ...]], ...]
    """(block, one cell a column; None: the block has no such module)."""
    blocks: tuple[BlockBytes, ...]
    mean_bits: float
    """Over all searched weights."""

    def marks(self) -> list[Mark]:
        """Return the marks that appear, in the order of their explanation."""
        found = {cell.mark for _, cells in self.rows for cell in cells if cell is not None}
        return [mark for mark in MARKS if mark in found]


def bit_map(hierarchy: Hierarchy, setting: QuantSetting, pins: Mapping[str, str]) -> BitMap:
    """Return the map of a setting; raise SettingError when it is not one of this model."""
    columns: list[str] = []
    for block in hierarchy.blocks:
        columns += [name for m in _shown(block) if (name := _short(m)) not in columns]
    rows = []
    for block in hierarchy.blocks:
        cells = {_short(m): _cell(m, setting, pins) for m in _shown(block)}
        if cells:
            rows.append((block.unit, tuple(cells.get(name) for name in columns)))
    sizes = unit_bytes(hierarchy, setting)
    blocks = tuple(_bytes(block, setting, sizes) for block in hierarchy.blocks)
    bits, count = map(sum, zip(*(_weights(b, setting) for b in hierarchy.blocks), strict=True))
    return BitMap(tuple(columns), tuple(rows), blocks, bits / count if count else 0.0)


def _shown(block: Block) -> list[Module]:
    """Return the modules that a search could turn, were they live."""
    return [m for m in block.modules if any(t.role in SEARCHED_ROLES for t in m.tensors)]


def _short(module: Module) -> str:
    return module.unit.partition("/")[2] or module.unit


def _cell(module: Module, setting: QuantSetting, pins: Mapping[str, str]) -> BitCell:
    if not module.searched:
        tied = any(t.live and t.tied_to is not None for t in module.tensors)
        return BitCell(module.unit, "", None, "tied" if tied else "dead")
    fmt = setting.format_of(module.unit)
    mark: Mark = ""
    if module.unit in pins or module.unit.partition("/")[0] in pins:
        mark = "pinned"
    elif fmt.kind == "sign" and any(t.sign_only for t in module.tensors):
        mark = "sign"
    return BitCell(module.unit, str(fmt), fmt.bits, mark)


def _bytes(block: Block, setting: QuantSetting, sizes: Mapping[str, int]) -> BlockBytes:
    before = sum(4 * t.numel for t in block.tensors() if t.counted)
    bits, count = _weights(block, setting)
    after = sum(sizes[m.unit] for m in block.modules)
    return BlockBytes(block.unit, before, after, bits / count if count else None)


def _weights(block: Block, setting: QuantSetting) -> tuple[float, int]:
    """Return (bits of the searched weights, their number)."""
    pairs = [
        (setting.format_of(m.unit).bits, t.numel) for m in block.modules for t in m.tensors if t.searched
    ]
    return sum(bits * n for bits, n in pairs), sum(n for _, n in pairs)
