"""What the model map shows: a grid of cells over blocks and modules, or blocks and bits. No Textual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import TYPE_CHECKING

from tui.glyphs import HEAT_LEVELS, glyphs, plain
from tui.model import sensitivity
from tui.text import significant

if TYPE_CHECKING:
    from qslm_opt.formats import Format
    from qslm_opt.hierarchy.tree import Block, Hierarchy, Module
    from qslm_opt.setting import QuantSetting
    from tui.model import StudyView

_BIT_STEPS = (2, 3, 4, 6, 8)


@dataclass(frozen=True)
class GridCell:
    """One cell: its text, its heat role, and what it stands for."""

    text: str
    role: str
    unit: str
    bits: float = 0


CellMaker = Callable[["Module | None", str], GridCell]
"""Module (None: this block has none of that name) and a name to add → cell."""


@dataclass(frozen=True)
class Grid:
    """Rows of cells under a header; rows may have their own number of cells."""

    header: tuple[tuple[str, ...], ...]
    """Header lines: one label a column."""
    rows: tuple[tuple[str, tuple[GridCell, ...]], ...]
    """(label, cells)."""
    notes: tuple[str, ...] = ()
    """What is said beside each row where there is room; empty or one a row."""


def heat_of_bits(bits: float) -> int:
    """Return the heat level of a width: 2 bits and less are cold."""
    return sum(bits > step for step in _BIT_STEPS)


def bits_text(fmt: Format) -> str:
    """Return ``4`` for int4, ``16f`` for fp16, ``1s`` for a sign."""
    return {"float": f"{fmt.bits}f", "sign": "1s"}.get(fmt.kind, f"{fmt.bits}")


def searched_modules(block: Block) -> list[Module]:
    """Return the modules whose bits are searched."""
    return [module for module in block.modules if module.searched]


def bit_grid(hierarchy: Hierarchy, setting: QuantSetting, notes: Mapping[str, str] | None = None) -> Grid:
    """Return blocks × modules with the bits of ``setting``; ``*`` marks a module's own entry.

    ``notes`` says something about blocks.
    """

    def cell(module: Module | None, after: str) -> GridCell:
        return _bit_cell(module, setting, after)

    return _grid(hierarchy, cell, notes or {})


def diff_grid(hierarchy: Hierarchy, before: QuantSetting, after: QuantSetting) -> Grid:
    """Return blocks × modules with the bits of both settings where their formats differ."""

    def cell(module: Module | None, name: str) -> GridCell:
        return _diff_cell(module, before, after, name)

    return _grid(hierarchy, cell, {})


def _grid(hierarchy: Hierarchy, cell: CellMaker, notes: Mapping[str, str]) -> Grid:
    names: list[str] = []
    for block in hierarchy.blocks:
        if block.kind == "attention":
            names += [n for m in searched_modules(block) if (n := _short(m)) not in names]
    rows = []
    for block in hierarchy.blocks:
        modules = searched_modules(block)
        if not modules:
            continue
        by_name = {_short(m): m for m in modules}
        if block.kind == "attention":
            cells = tuple(cell(by_name.get(name), "") for name in names)
        else:
            cells = tuple(cell(module, " " + _short(module)) for module in modules)
        rows.append((block.unit, cells))
    groups = tuple(name.partition(".")[0] if "." in name else "" for name in names)
    heads = tuple(name.rpartition(".")[2] for name in names)
    beside = tuple(notes.get(unit, "") for unit, _ in rows) if notes else ()
    return Grid((_once(groups), heads), tuple(rows), beside)


def _short(module: Module) -> str:
    return module.unit.partition("/")[2]


def _once(labels: Sequence[str]) -> tuple[str, ...]:
    """Blank what repeats the label before it."""
    return tuple("" if i and labels[i - 1] == label else label for i, label in enumerate(labels))


def _bit_cell(module: Module | None, setting: QuantSetting, after: str = "") -> GridCell:
    if module is None:
        return GridCell(glyphs().waiting, "dim", "")
    fmt = setting.format_of(module.unit)
    block = setting.format_of(module.unit.partition("/")[0])
    own = "*" if module.unit in setting.units and fmt != block and not after else ""
    return GridCell(f"{bits_text(fmt)}{own}{after}", f"heat{heat_of_bits(fmt.bits)}", module.unit, fmt.bits)


def _diff_cell(module: Module | None, before: QuantSetting, after: QuantSetting, name: str) -> GridCell:
    if module is None:
        return GridCell(glyphs().waiting, "dim", "")
    old, new = before.format_of(module.unit), after.format_of(module.unit)
    if old == new:
        return GridCell(glyphs().same + name, "dim", module.unit, new.bits)
    heat = min(HEAT_LEVELS - 1, 1 + abs(new.bits - old.bits))
    role = f"heat{heat}" if new.bits <= old.bits else f"warm{heat}"
    return GridCell(f"{bits_text(old)}{plain('→')}{bits_text(new)}{name}", role, module.unit, new.bits)


def sensitivity_grid(view: StudyView) -> Grid:
    """Return blocks × bits with the increase of the mean loss; colder is harmless."""
    found = sensitivity(view)
    levels = sorted({bits for _, bits in found}, reverse=True)
    top = max((rise for rise in found.values()), default=0.0)
    rows = []
    for block in view.row.hierarchy.blocks:
        cells = tuple(_rise_cell(found.get((block.unit, bits)), top, block.unit, bits) for bits in levels)
        if any(cell.role != "dim" for cell in cells):
            rows.append((block.unit, cells))
    return Grid((tuple(f"{bits} bits" for bits in levels),), tuple(rows))


def _rise_cell(rise: float | None, top: float, unit: str, bits: float) -> GridCell:
    if rise is None:
        return GridCell(glyphs().waiting, "dim", unit, bits)
    return GridCell(rise_text(rise), f"warm{_warmth(rise, top)}", unit, bits)


def rise_text(rise: float) -> str:
    """Return a loss increase in nats with its sign, in at most seven cells."""
    size = abs(rise)
    if size < 0.00005:
        return "0"
    sign = "+" if rise > 0 else glyphs().minus
    return sign + (f"{size:.4f}" if size < 0.001 else f"{size:.3f}" if size < 10 else significant(size, 3))


def _warmth(rise: float, top: float) -> int:
    """Each level is a factor of 4 below the next."""
    if rise <= 0 or top <= 0:
        return 0
    return max(0, HEAT_LEVELS - 1 + floor(log2(rise / top) / 2 + 1e-9))


def block_bits(hierarchy: Hierarchy, setting: QuantSetting) -> list[tuple[Block, float]]:
    """Return (block, mean bits per searched weight) of every block that is searched."""
    found = []
    for block in hierarchy.blocks:
        sizes = [(sum(t.numel for t in m.tensors if t.searched), m) for m in searched_modules(block)]
        whole = sum(size for size, _ in sizes)
        if whole:
            found.append((block, sum(size * setting.format_of(m.unit).bits for size, m in sizes) / whole))
    return found


def bits_lines(hierarchy: Hierarchy, setting: QuantSetting, width: int) -> tuple[str, str, str]:
    """Return three aligned lines over the blocks: names, bars and mean bits.

    Without room for the names and numbers of all blocks, they are empty and the bars stand close.
    """
    blocks = block_bits(hierarchy, setting)
    names = [_block_name(block) for block, _ in blocks]
    numbers = [significant(bits, 2) if bits % 1 else str(int(bits)) for _, bits in blocks]
    cell = max((len(word) for word in (*names, *numbers)), default=1) + 1
    if cell * len(blocks) > width:
        return "", bits_bar(hierarchy, setting), ""
    bars = bits_bar(hierarchy, setting).replace(" ", "")
    return tuple("".join(f"{word:>{cell}}" for word in line)[1:] for line in (names, bars, numbers))  # type: ignore[return-value]


def _block_name(block: Block) -> str:
    if block.kind == "attention":
        return block.unit.rpartition(".")[2]
    return {"input": "in", "output": "out"}[block.kind]


def bits_bar(hierarchy: Hierarchy, setting: QuantSetting) -> str:
    """Return one bar a block, low for few bits, the kinds of block apart by a space."""
    levels, bar, kind = glyphs().levels, "", ""
    for block, bits in block_bits(hierarchy, setting):
        bar += " " if kind and block.kind != kind else ""
        bar += levels[min(len(levels), max(1, round(bits))) - 1]
        kind = block.kind
    return bar
