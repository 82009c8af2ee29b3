"""The search space: which units may have which bits, and what a choice of bits means in bytes.

A point of the space is ``Levels``: one number of bits for each module of ``SearchSpace.modules``, in that
order; 32 means float32. Pins are part of every setting, of the sensitivity sweep too; an excluded unit is
one that is pinned to float32. Tied modules have the same bits in every setting (``moves``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from qslm_opt.errors import InfeasibleError, SettingError
from qslm_opt.formats import FP32, SIGN, WIDTHS, Bits, Format, Layout
from qslm_opt.hierarchy.tree import NETWORK, Block, Module
from qslm_opt.search.moves import Moves
from qslm_opt.search.tables import Levels, Tables
from qslm_opt.search.units import Tie, excluded_modules, tie_groups
from qslm_opt.setting import QuantSetting

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.spec import StudySpec

FP32_BITS = 32
"""The level of a unit that is not quantized."""
_KEPT_SETTINGS = 64


@dataclass(frozen=True)
class SearchSpace:
    """Everything the tiers need to know about the model and the spec; pure arithmetic, no model."""

    hierarchy: Hierarchy
    precisions: tuple[Bits, ...]
    """Bits that are tried, descending."""
    sensitivity_precisions: tuple[Bits, ...]
    layout: Layout
    fixed: Format
    quantizer: str
    pins: Mapping[str, Format]
    """Block or module → format that every setting keeps."""
    budget: int
    """At most this many packed bytes."""
    ties: tuple[Tie, ...] = ()
    """Groups of modules that always have the same bits, each in hierarchy order, none pinned."""

    def __post_init__(self) -> None:
        for unit in self.pins:
            self._check_pin(unit)
        if not self.modules:
            raise SettingError(
                f"{len(self.pins)} pins or exclusions leave nothing to search; "
                f"remove at least one of {', '.join(list(self.pins)[:8])}{' …' * (len(self.pins) > 8)}."
            )

    @classmethod
    def of(cls, spec: StudySpec, hierarchy: Hierarchy) -> SearchSpace:
        """Return the space of a study.

        Raises:
            SettingError: a pin, an exclusion or a tie that cannot be.
            InfeasibleError: the budget is below what the smallest setting needs.
        """
        excluded = excluded_modules(spec.exclude, hierarchy, spec.pins)
        pins = {unit: Format.parse(text) for unit, text in spec.pins.items()} | dict.fromkeys(excluded, FP32)
        if spec.sign_embedding:
            pins = {**_sign_pins(hierarchy, pins), **pins}
        space = cls(
            hierarchy,
            spec.precisions,
            spec.sensitivity_precisions or spec.precisions,
            Layout.parse(spec.layout),
            Format.parse(spec.fixed),
            spec.quantizer,
            pins,
            spec.budget_bytes(hierarchy.fp32_bytes()),
            tie_groups(spec.ties, hierarchy, pins),
        )
        space.require_reachable()
        return space

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The searched modules that are not pinned, in hierarchy order."""
        return tuple(
            module.unit
            for block in self.hierarchy.blocks
            for module in block.modules
            if self._is_free(block, module)
        )

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The blocks with at least one module of ``modules``, in hierarchy order."""
        return tuple(dict.fromkeys(unit.partition("/")[0] for unit in self.modules))

    @cached_property
    def attention_blocks(self) -> frozenset[str]:
        """Those of ``blocks`` whose modules are searched one by one in the module tier."""
        return frozenset(b.unit for b in self.hierarchy.blocks if b.kind == "attention") & set(self.blocks)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Every unit that a proposal can name: the network, ``blocks``, ``modules``."""
        return (NETWORK, *self.blocks, *self.modules)

    @cached_property
    def lowest(self) -> Bits:
        """The fewest bits a searched unit may have."""
        return min(self.precisions)

    @cached_property
    def fp32_bytes(self) -> int:
        """Bytes of the live tensors in float32: m_o of Eq. 1."""
        return self.hierarchy.fp32_bytes()

    @cached_property
    def moves(self) -> Moves:
        """What moves together: blocks, modules and ties."""
        return Moves(self.modules, self.ties, self.attention_blocks)

    def positions(self, unit: str) -> tuple[int, ...]:
        """Return where in a ``Levels`` stands what moves with ``unit``; empty when nothing does.

        With a module all that it is tied to; with a block its modules but those whose tie spans blocks.
        """
        return self.moves.places.get(unit, ())

    def modules_of(self, block: str) -> tuple[str, ...]:
        """Return the modules of ``modules`` that belong to ``block``, tied or not."""
        return tuple(self.modules[i] for i in self.moves.members.get(block, ()))

    def alone(self, block: str, bits: Bits) -> Levels:
        """Return the levels with ``block``, and all that is tied to it, at ``bits``, the rest in float32."""
        moved = set(self.moves.companions(block))
        return tuple(bits if i in moved else FP32_BITS for i in range(len(self.modules)))

    def uniform(self, bits: Bits) -> Levels:
        """Return the levels that give every searched module ``bits``."""
        return (bits,) * len(self.modules)

    def with_level(self, levels: Levels, unit: str, bits: Bits) -> Levels:
        """Return ``levels`` with all that moves with ``unit`` at ``bits``."""
        changed = list(levels)
        for position in self.positions(unit):
            changed[position] = bits
        return tuple(changed)

    def below(self, bits: Bits) -> Bits | None:
        """Return the next precision below ``bits``, or None at the lowest."""
        return next((p for p in self.precisions if p < bits), None)

    def above(self, bits: Bits) -> Bits | None:
        """Return the next precision above ``bits``, or None at the highest."""
        return next((p for p in reversed(self.precisions) if p > bits), None)

    def setting_of(self, levels: Levels, fixed: Format | None = None) -> QuantSetting:
        """Return a short, readable setting for ``levels``; ``fixed`` replaces the space's own.

        The network has the most frequent level, a block or module an entry where it differs; pins are
        entries. The last few are kept.
        """
        key = levels, fixed
        known = self._settings.get(key)
        if known is None:
            if len(self._settings) >= _KEPT_SETTINGS:
                self._settings.clear()
            known = self._settings[key] = self._build(levels, fixed)
        return known

    @cached_property
    def _settings(self) -> dict[tuple[Levels, Format | None], QuantSetting]:
        return {}

    def _build(self, levels: Levels, fixed: Format | None) -> QuantSetting:
        network = _most_frequent(levels, prefer=levels[0])
        units = {NETWORK: self.layout.with_bits(network)}
        for block in self.hierarchy.blocks:
            units.update(self._entries(block, levels, network))
        return QuantSetting(units, self.fixed if fixed is None else fixed, self.quantizer)

    def memory(self, levels: Levels, fixed: Format | None = None) -> int:
        """Return the packed bytes of ``setting_of(levels, fixed)``: a sum of table look-ups."""
        return self._tables.memory(levels, fixed or self.fixed)

    def digest(self, levels: Levels, fixed: Format | None = None) -> str:
        """Return ``setting_of(levels, fixed).digest(hierarchy)`` without building the setting."""
        return self._tables.digest(levels, fixed or self.fixed)

    def floor(self, levels: Levels, free: Iterable[int]) -> int:
        """Return the packed bytes with the positions in ``free`` at the lowest precision, the rest as is."""
        lowered = list(levels)
        for position in free:
            lowered[position] = self.lowest
        return self.memory(tuple(lowered))

    def smallest(self) -> tuple[int, QuantSetting]:
        """Return (packed bytes, setting) with every searched unit at the lowest precision."""
        levels = self.uniform(self.lowest)
        return self.memory(levels), self.setting_of(levels)

    def require_reachable(self) -> None:
        """Raise InfeasibleError when even the smallest setting is above the budget."""
        smallest, _ = self.smallest()
        if smallest > self.budget:
            raise InfeasibleError(
                f"memory budget {self.budget:,} bytes cannot be reached: with all searched units at "
                f"{self.lowest} bits the model still needs {smallest:,} bytes; "
                f"raise the budget to at least {smallest:,} bytes"
                + ("." if self.lowest == WIDTHS[-1] else f", or allow fewer than {self.lowest} bits.")
            )

    @cached_property
    def _tables(self) -> Tables:
        levels = (FP32_BITS, *sorted({*self.precisions, *self.sensitivity_precisions}, reverse=True))
        formats = {bits: self.layout.with_bits(bits) for bits in levels}
        return Tables(self.hierarchy, self.modules, formats, self.pins, self.quantizer)

    def _check_pin(self, unit: str) -> None:
        self.hierarchy.check_unit(unit)
        if unit == NETWORK:
            raise SettingError(f"pin {NETWORK!r} leaves nothing to search; pin blocks or modules.")
        inside = [m for b in self.hierarchy.blocks for m in b.modules if unit in (b.unit, m.unit)]
        if not any(module.searched for module in inside):
            raise SettingError(
                f"pin {unit!r} would change nothing, none of its tensors is searched; "
                "remove it, or set 'fixed' for the tensors that are not searched."
            )

    def _is_free(self, block: Block, module: Module) -> bool:
        return module.searched and block.unit not in self.pins and module.unit not in self.pins

    def _entries(self, block: Block, levels: Levels, network: Bits) -> dict[str, Format]:
        entries = {block.unit: self.pins[block.unit]} if block.unit in self.pins else {}
        positions = self.moves.members.get(block.unit, ())
        if positions:
            own = _most_frequent([levels[i] for i in positions], prefer=network)
            if own != network:
                entries[block.unit] = self.layout.with_bits(own)
            changed = {self.modules[i]: levels[i] for i in positions if levels[i] != own}
            entries.update({unit: self.layout.with_bits(bits) for unit, bits in changed.items()})
        entries.update({m.unit: self.pins[m.unit] for m in block.modules if m.unit in self.pins})
        return entries


def _sign_pins(hierarchy: Hierarchy, given: Mapping[str, Format]) -> dict[str, Format]:
    """Pins to the lossless 1-bit format where only signs are read, unless the user pinned the block."""
    found = {}
    for block in hierarchy.blocks:
        for module in block.modules:
            searched = [t for t in module.tensors if t.searched]
            if searched and all(t.sign_only for t in searched) and block.unit not in given:
                found[module.unit] = SIGN
    return found


def _most_frequent(levels: Sequence[Bits], prefer: Bits) -> Bits:
    counts = Counter(levels)
    return max(counts, key=lambda bits: (counts[bits], bits == prefer, bits))
