from __future__ import annotations

import pytest

from qslm_opt.errors import UsageError
from tests.tui.fakes import Study
from tui.filters import parse_filter

STUDY = Study(blocks=12).fill()


def numbers(text: str) -> set[int]:
    wanted = parse_filter(text)
    return {t.number for t in STUDY.trials if wanted(t)}


def those(**wanted: object) -> set[int]:
    return {t.number for t in STUDY.trials if all(getattr(t, k) == v for k, v in wanted.items())}


def test_an_empty_filter_keeps_everything() -> None:
    assert numbers("  ") == {t.number for t in STUDY.trials}


def test_words_are_joined_by_and() -> None:
    assert numbers("tier:block bits:3") == those(tier="block", bits=3)
    assert numbers("tier:bl state:complete") == those(tier="block", state="complete")


def test_not_and_a_minus_turn_the_next_word_around() -> None:
    everything = numbers("")
    assert numbers("not tier:block") == numbers("-tier:block") == everything - numbers("tier:block")
    assert numbers("not not tier:block") == numbers("tier:block")


def test_a_block_finds_its_modules_but_not_the_block_that_begins_alike() -> None:
    found = {t.unit for t in STUDY.trials if parse_filter("unit:attention.1")(t)}
    assert found == {"attention.1", "attention.1/att.key"}
    assert {t.unit for t in STUDY.trials if parse_filter("att.key")(t)} == {
        "attention.0/att.key", "attention.1/att.key",
    }  # fmt: skip


def test_numbers_compare_and_unknown_ones_match_nothing() -> None:
    assert numbers("bits<=3") == {t.number for t in STUDY.trials if t.bits <= 3}
    assert numbers("ppl>35") == {t.number for t in STUDY.trials if t.value and t.value > 35}
    assert numbers("mem<20MB saving>=80%") == {
        t.number for t in STUDY.trials if t.bytes < 20e6 and t.saving >= 0.8
    }
    assert numbers("power>0") == set()


def test_feasible_is_a_word_and_a_key() -> None:
    feasible = {t.number for t in STUDY.trials if t.feasible}
    assert numbers("feasible") == numbers("feasible:yes") == feasible
    assert numbers("feasible:no") == numbers("") - feasible


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("teir:block", "Did you mean 'tier'?"), ("bits:many", "needs a number"), ("tier<block", "no order"),
        ("mem<big", "2.1MB"), ("feasible:perhaps", "feasible:yes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        parse_filter(text)
