"""Holding data back: a part of a split that a search never sees, chosen by place alone, never random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from qslm_opt.data.hashing import data_hash
from qslm_opt.data.taskdata import TaskData
from qslm_opt.errors import DataError


def split_off(data: TaskData, share: float) -> tuple[TaskData, TaskData]:
    """Return ``data`` without about ``share`` of it, and that share, each in the order of ``data``.

    Every so many sentences of each label go to the second part, so that labels are as frequent in both; of
    windows, every so many in their order, so that each part has a neighbour of each window of the other.
    The hash of each part is that of its own tokens.

    Raises:
        DataError: one part would be empty.
    """
    held = np.zeros(len(data.sequences), bool)
    order = _by_label(data)
    held[[order[place] for place in spaced(len(order), share)]] = True
    if not 0 < int(held.sum()) < len(held):
        what = "windows" if data.kind == "lm" else "sentences"
        raise DataError(
            f"task {data.task} has {len(held)} {what} here, too few to hold back {share:g} of them; raise "
            "--limit, or give another --hold-back."
        )
    return _part(data, ~held), _part(data, held)


def spaced(count: int, share: float) -> list[int]:
    """Return about ``share`` of the places 0…count − 1, evenly spaced; exact for a decimal share."""
    exact = Fraction(str(share))
    return [i for i in range(count) if (i + 1) * exact // 1 > i * exact // 1]


def _by_label(data: TaskData) -> Sequence[int]:
    """Return the numbers of the sentences label after label, or those of the windows."""
    if data.labels is None:
        return range(len(data.sequences))
    found: list[int] = np.argsort(data.labels, kind="stable").tolist()
    return found


def _part(data: TaskData, chosen: np.ndarray) -> TaskData:
    places = np.flatnonzero(chosen)
    sequences = tuple(data.sequences[i] for i in places)
    labels = None if data.labels is None else data.labels[places]
    name = data_hash(data.task, data.split, data.window, sequences, labels)
    return replace(data, sequences=sequences, labels=labels, data_hash=name)
