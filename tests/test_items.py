"""Outcomes by item: what is stored is what comes back, and what cannot be is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qslm_opt.items import Items


def sentences(right: list[bool]) -> Items:
    found = Items.empty(len(right), None)
    found.add(range(len(right)), np.linspace(0.1, 2, len(right)), np.array(right))
    return found


def test_items_are_written_by_their_number_in_the_data() -> None:
    items = Items.empty(4, None)
    items.add([3, 1], [0.5, 0.25], np.array([True, False]))
    assert items.seen.tolist() == [False, True, False, True]
    assert items.right is not None
    assert items.right.tolist() == [False, False, False, True]
    assert items.losses.tolist() == [0, 0.25, 0, 0.5]
    assert not items.complete


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_sentences_survive_storing(count: int) -> None:
    items = sentences([i % 3 == 0 for i in range(count)])
    again = Items.from_json(json.loads(json.dumps(items.to_json())))
    assert again.right is not None
    assert items.right is not None
    assert again.right.tolist() == items.right.tolist()
    assert again.losses.tolist() == items.losses.tolist()
    assert again.complete
    assert again.tokens is None


def test_windows_survive_storing() -> None:
    items = Items.empty(3, [128, 128, 60])
    items.add([0, 1, 2], [512.3, 498.0, 0.0], None)
    again = Items.from_json(items.to_json())
    assert [column.tolist() for column in again.sums] == [column.tolist() for column in items.sums]
    assert again.sums[1].tolist() == [128, 128, 60]
    assert again.right is None


def test_a_sentence_takes_six_bytes_of_text() -> None:
    assert len(json.dumps(sentences([True] * 872).to_json())) < 6 * 872


GOOD = sentences([True, False, True]).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"n": 4}, {"n": 0}, {"n": True}, {"n": 10**12}, {"losses": "AAAA"}, {"losses": "!"}, {"losses": None},
        {"right": ""}, {"tokens": "AAAA"}, {"losses": "AADAfwAAwH8AAMB/"},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    assert len(Items.from_json(GOOD)) == 3
    with pytest.raises((ValueError, KeyError, TypeError)):
        Items.from_json({**GOOD, **change})
