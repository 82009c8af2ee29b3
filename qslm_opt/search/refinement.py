"""Joint refinement: single steps down and swaps, each evaluated fully, until nothing more is gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.search.machine import Proposal, propose
from qslm_opt.search.script import Answers, Ask

if TYPE_CHECKING:
    from qslm_opt.formats import Bits
    from qslm_opt.search.gate import Gate
    from qslm_opt.search.prediction import Sensitivities
    from qslm_opt.search.space import SearchSpace
    from qslm_opt.search.tables import Levels

PATIENCE = 8
"""So many refusals in a row end the refinement."""
REFUSALS = 2
"""A move that was refused so often is not tried again, whatever the incumbent."""
WINDOW = 8
"""The gate orders so many moves at a time; where it postpones all of them, that is half of the patience."""


@dataclass(frozen=True)
class Move:
    """Lower one unit; in a swap also raise another, with fewer bytes in sum."""

    down: int
    up: int | None
    levels: tuple[Bits, ...]
    saved: int
    """Bytes."""
    loss: float
    """Predicted change of the loss."""

    @property
    def key(self) -> tuple[int, int | None]:
        """What the memo of refusals knows it by."""
        return self.down, self.up

    @property
    def rank(self) -> tuple[bool, float, int, int]:
        """Moves that lower the loss first, by bytes; then by the loss that a byte costs."""
        worse, up = self.loss > 0, -1 if self.up is None else self.up
        return worse, self.loss / self.saved if worse else -self.saved, self.down, up


@dataclass(frozen=True)
class Steps:
    """What one unit may do: its neighbouring levels with bytes and predicted loss against where it is."""

    down: tuple[Bits, int, float] | None
    up: tuple[Bits, int, float] | None


def steps_of(
    space: SearchSpace, unit: str, level: Bits, at: Levels, known: Sensitivities, place: int
) -> Steps:
    """Return the steps of one unit from ``level``."""
    now, here = space.memory(at), known.predict(place, level)

    def step(bits: Bits | None) -> tuple[Bits, int, float] | None:
        if bits is None:
            return None
        size = space.memory(space.with_level(at, unit, bits)) - now
        return bits, size, known.predict(place, bits) - here

    return Steps(step(space.below(level)), step(space.above(level)))


def moves(own: Sequence[Bits], steps: Sequence[Steps]) -> list[Move]:
    """Return every move that saves bytes, most promising first; ``own`` are the units' levels."""
    found = []
    for i, step in enumerate(steps):
        if step.down is None:
            continue
        bits, size, loss = step.down
        lowered = (*own[:i], bits, *own[i + 1 :])
        if size < 0:
            found.append(Move(i, None, lowered, -size, loss))
        for j, other in enumerate(steps):
            if j != i and other.up is not None and size + other.up[1] < 0:
                levels = (*lowered[:j], other.up[0], *lowered[j + 1 :])
                found.append(Move(i, j, levels, -size - other.up[1], loss + other.up[2]))
    return sorted(found, key=lambda move: move.rank)


class Memo:
    """What was tried and refused."""

    def __init__(self, trials: int) -> None:
        self.left = trials
        self.refused: Counter[tuple[int, int | None]] = Counter()
        self.tried: set[str] = set()
        self.in_a_row = 0

    def tired(self) -> bool:
        """Return whether patience, or what may be tried in all, has come to its end."""
        return self.in_a_row >= PATIENCE or self.left <= 0

    def allows(self, move: Move) -> bool:
        """Whether a move may be tried once more."""
        return self.refused[move.key] < REFUSALS

    def note(self, move: Move, proposal: Proposal, ok: bool) -> None:
        """Take in how a move ended."""
        self.tried.add(proposal.digest)
        self.left -= 1
        self.in_a_row = 0 if ok else self.in_a_row + 1
        self.refused[move.key] += not ok


def first_good(
    found: Iterator[tuple[Move, Proposal]], at: Levels, gate: Gate, memo: Memo
) -> Generator[Ask, Answers, Proposal | None]:
    """Evaluate moves in order until one is metric_ok; None when patience or the moves come to an end."""
    while not memo.tired() and (window := list(islice(found, WINDOW if gate.on else 1))):
        named = {proposal.digest: move for move, proposal in window}
        passed = yield from gate.sort([p for _, p in window], at)
        if not passed:
            memo.in_a_row += PATIENCE // 2
        for proposal in passed:
            if memo.tired():
                break
            (verdict,) = yield Ask((proposal,), at, open=True)
            move, ok = named[proposal.digest], verdict.metric_ok is True
            gate.learn(proposal, verdict)
            memo.note(move, proposal, ok)
            if ok:
                return proposal
    return None


def proposal_of(space: SearchSpace, units: Sequence[str], move: Move, levels: Levels, at: Levels) -> Proposal:
    """Return the proposal of a move to ``levels``: named after its unit, a swap after the network."""
    unit = units[move.down] if move.up is None else NETWORK
    return propose(space, "refinement", unit, move.levels[move.down], levels, at)
