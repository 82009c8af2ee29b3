"""Holding back: both parts are samples of the whole, the same every time, and share nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qslm_opt.data.holding import spaced, split_off
from qslm_opt.data.taskdata import TaskData, build
from qslm_opt.errors import DataError


def sentences(labels: list[int]) -> TaskData:
    ids = [np.array([i, i + 1], np.int64) for i in range(len(labels))]
    return build("sst2", "validation", ids, source="test", labels=np.array(labels, np.int64))


def windows(count: int) -> TaskData:
    ids = [np.array([i, i + 1, i + 2], np.int64) for i in range(count)]
    return build("wikitext2", "test", ids, source="test", window=2)


def firsts(data: TaskData) -> list[int]:
    return [int(ids[0]) for ids in data.sequences]


@given(st.integers(0, 400), st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9]))
def test_the_share_is_kept_to_one_item_and_spaced_evenly(count: int, share: float) -> None:
    places = spaced(count, share)
    assert abs(len(places) - share * count) < 1
    steps = np.diff(places)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_windows_alternate() -> None:
    searched, held = split_off(windows(7), 0.5)
    assert (firsts(searched), firsts(held)) == ([0, 2, 4, 6], [1, 3, 5])


@given(st.lists(st.integers(0, 2), min_size=12, max_size=90), st.sampled_from([0.2, 0.5, 0.75]))
def test_every_label_gives_its_share_and_no_sentence_is_in_both(labels: list[int], share: float) -> None:
    whole = sentences(labels)
    searched, held = split_off(whole, share)
    assert sorted(firsts(searched) + firsts(held)) == list(range(len(labels)))
    assert firsts(held) == sorted(firsts(held))
    assert held.labels is not None
    for label in set(labels):
        assert abs((held.labels == label).sum() - share * labels.count(label)) < 1
    assert [labels[i] for i in firsts(held)] == held.labels.tolist()


def test_each_part_is_named_by_its_own_tokens() -> None:
    whole = windows(8)
    parts = *split_off(whole, 0.5), *split_off(whole, 0.25)
    assert len({whole.data_hash, *(part.data_hash for part in parts)}) == 5
    assert split_off(whole, 0.5)[1].data_hash == parts[1].data_hash
    assert {part.split for part in parts} == {"test"}


@pytest.mark.parametrize("data", [windows(1), sentences([0, 1]), windows(3)])
def test_a_part_without_anything_is_refused(data: TaskData) -> None:
    with pytest.raises(DataError, match=r"too few to hold back 0\.1 of them"):
        split_off(data, 0.1)
