"""What moves together when a unit of the search gets other bits: blocks, modules and ties. Pure.

A tie inside one block moves with the block and is one unit of the module tier. One that spans blocks moves
with the whole network and in the module tier alone, at the place of the first block that it touches; the
sensitivity of a block is that of the block with all that is tied to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.units import Tie


@dataclass(frozen=True)
class Moves:
    """Unit → places in a ``Levels``."""

    modules: tuple[str, ...]
    """The searched modules, in the order of a ``Levels``."""
    ties: tuple[Tie, ...]
    attention: frozenset[str]
    """The blocks whose modules are searched one by one in the module tier."""

    @cached_property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Block → places of its modules, tied or not."""
        found: dict[str, list[int]] = {}
        for place, unit in enumerate(self.modules):
            found.setdefault(_block(unit), []).append(place)
        return {block: tuple(places) for block, places in found.items()}

    @cached_property
    def spanning(self) -> frozenset[str]:
        """The modules whose tie spans blocks: no block moves them."""
        return frozenset(unit for tie in self.ties if len(set(map(_block, tie))) > 1 for unit in tie)

    @cached_property
    def places(self) -> dict[str, tuple[int, ...]]:
        """Unit → what moves with it: all of its tie with a module, all but spanning ties with a block."""
        at = {unit: place for place, unit in enumerate(self.modules)}
        blocks = {
            block: tuple(i for i in members if self.modules[i] not in self.spanning)
            for block, members in self.members.items()
        }
        tied = {unit: tuple(at[other] for other in tie) for tie in self.ties for unit in tie}
        modules = {unit: tied.get(unit, (place,)) for unit, place in at.items()}
        return {NETWORK: tuple(range(len(self.modules))), **blocks, **modules}

    def companions(self, block: str) -> tuple[int, ...]:
        """Return the places of a block's modules and of all that is tied to one of them."""
        units = (self.modules[i] for i in self.members.get(block, ()))
        return tuple(sorted({place for unit in units for place in self.places[unit]}))

    def block_targets(self, order: Iterable[str]) -> tuple[str, ...]:
        """Return the blocks that the block tier moves, in the given order of blocks."""
        return tuple(block for block in order if self.places.get(block))

    def module_targets(self, order: Iterable[str]) -> tuple[str, ...]:
        """Return what the module tier moves, in the given order of blocks; of a tie its first member.

        That is the modules of the attention blocks, and the ties that span blocks.
        """
        found: dict[tuple[int, ...], str] = {}
        for block in order:
            for unit in (self.modules[i] for i in self.members.get(block, ())):
                if block in self.attention or unit in self.spanning:
                    places = self.places[unit]
                    found.setdefault(places, self.modules[places[0]])
        return tuple(found.values())

    @cached_property
    def smallest(self) -> tuple[str, ...]:
        """The smallest units that move on their own, each module in one: modules, and ties by their first."""
        return tuple(dict.fromkeys(self.modules[self.places[unit][0]] for unit in self.modules))

    @cached_property
    def largest(self) -> tuple[str, ...]:
        """Blocks and, by their first member, the ties that span blocks, each module in one of them."""
        blocks = self.block_targets(self.members)
        return (*blocks, *(unit for unit in self.smallest if unit in self.spanning))


def _block(unit: str) -> str:
    return unit.partition("/")[0]
