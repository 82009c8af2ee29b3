"""Multiple-choice knapsack: one level for every unit, least predicted loss within so many bytes, exactly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from math import gcd, isfinite

Choice = tuple[int, float]
"""(bytes, predicted loss) of one level of one unit."""


def allocate(units: Sequence[Sequence[Choice]], budget: int) -> tuple[int, ...] | None:
    """Return the index of the chosen level of each unit; None when even the smallest are above ``budget``.

    The sum of the losses is the least there is within ``budget`` bytes (integer programme, solved to a gap
    of zero); losses need not fall with the bytes. Bytes are counted in units of their greatest common
    divisor, so no rounding decides.

    Raises:
        ValueError: a unit without a level, or a loss that is not finite.
    """
    if any(not choices or not all(isfinite(loss) for _, loss in choices) for choices in units):
        raise ValueError("every unit needs levels with finite losses")
    least = [min(size for size, _ in choices) for choices in units]
    room = budget - sum(least)
    if room < 0:
        return None
    if not units:
        return ()
    extra = [[size - low for size, _ in choices] for choices, low in zip(units, least, strict=True)]
    unit = reduce(gcd, (size for sizes in extra for size in sizes), 0) or 1
    losses = [[loss for _, loss in choices] for choices in units]
    return _solve([[size // unit for size in sizes] for sizes in extra], losses, room // unit)


def _solve(sizes: list[list[int]], losses: list[list[float]], room: int) -> tuple[int, ...]:
    """Solve with HiGHS: a binary variable for each level, one of each unit, sizes within ``room``."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    flat = np.array([size for row in sizes for size in row], dtype=float)
    costs = np.array([loss - min(row) for row in losses for loss in row])
    owner = np.repeat(np.arange(len(sizes)), [len(row) for row in sizes])
    each = csr_matrix((np.ones(len(flat)), (owner, np.arange(len(flat)))), shape=(len(sizes), len(flat)))
    # Costs on a scale on which the solver's absolute tolerances say nothing.
    scale = 1e4 / (costs.max() or 1.0)
    with quiet():
        found = milp(
            costs * scale,
            constraints=[LinearConstraint(each, 1, 1), LinearConstraint(flat[None, :], -np.inf, room)],
            integrality=np.ones(len(flat)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0},
        )  # fmt: skip
    if found.x is None:
        raise RuntimeError(f"the solver found no allocation: {found.message}")
    ends = np.cumsum([len(row) for row in sizes])[:-1]
    chosen = tuple(int(part.argmax()) for part in np.split(found.x, ends))
    return _fitting(chosen, sizes, losses, room)


def _fitting(
    chosen: tuple[int, ...], sizes: list[list[int]], losses: list[list[float]], room: int
) -> tuple[int, ...]:
    """Return ``chosen``, lowered where the solver's tolerance let it exceed ``room`` by a whole unit."""
    chosen_now = list(chosen)
    while sum(row[i] for row, i in zip(sizes, chosen_now, strict=True)) > room:
        moves = [
            (losses[u][i] - losses[u][chosen_now[u]], u, i)
            for u, row in enumerate(sizes)
            for i in range(len(row))
            if row[i] < row[chosen_now[u]]
        ]
        _, u, i = min(moves)
        chosen_now[u] = i
    return tuple(chosen_now)


@contextmanager
def quiet() -> Iterator[None]:
    """Send what a C library writes to the standard output to nowhere: that stream holds data."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # this process has none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)
