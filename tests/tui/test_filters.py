from __future__ import annotations

from dataclasses import replace

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


def test_or_binds_weaker_than_and_and_parentheses_group() -> None:
    block, low = numbers("tier:block"), numbers("bits:2")
    glob = numbers("tier:global")
    assert numbers("tier:block or tier:global") == block | glob
    assert numbers("tier:global or tier:block bits:2") == glob | (block & low)
    assert numbers("(tier:global or tier:block) AND bits:2") == (glob | block) & low
    assert numbers("not (tier:global or tier:block)") == numbers("") - glob - block
    assert numbers("-(tier:global) -bits:2") == numbers("") - glob - low


def test_quotes_keep_words_together_and_make_operators_plain() -> None:
    assert numbers('unit:"attention.1"') == numbers("unit:attention.1")
    assert numbers('"att.key"') == numbers("att.key") and numbers("att.key")
    assert numbers('"or"') == numbers("unit=network"), "a word to look for, which this name has inside"
    assert numbers('"tier:block"') == set()


def test_formats_are_those_that_a_module_really_has() -> None:
    def used(fmt: str) -> set[int]:
        wanted = parse_filter(f"fmt:{fmt}", STUDY.hierarchy)
        return {t.number for t in STUDY.trials if wanted(t)}

    assert used("sign") == {t.number for t in STUDY.trials}
    assert used("int3") >= numbers("tier:block bits:3") and used("int3/channel") == used("int3")
    assert used("int1") == set() and used("int16"), "int1 is no beginning of int16"
    assert used("fp32") == numbers("tier:sensitivity"), "elsewhere the network's own format is not in use"
    assert numbers("fmt:fp32") == numbers(""), "without the model every format that is named counts"
    wanted = parse_filter("not fmt:int3 tier:block", STUDY.hierarchy)
    assert {t.number for t in STUDY.trials if wanted(t)} == numbers("tier:block") - used("int3")


def test_room_is_in_percent_and_negative_past_a_limit() -> None:
    assert numbers("memroom<0") == {t.number for t in STUDY.trials if t.slack["memory"] > 0}
    assert numbers("room>=0 memroom>=0 tier:global state:complete") == {
        t.number for t in STUDY.trials if t.tier == "global" and t.feasible
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tier:block or", "ends at column 14 where a test is due"), ("and tier:block", "no test before it"),
        ("(tier:block", "the ( at column 1 is not closed"),
        ("tier:block)", "the ) at column 11 closes nothing"),
        ("tier:block unit:\"a", "the quote at column 17 is not closed"), ("not", "where a test is due"),
        ("tier:blok", "tier is one of sensitivity, global, block, module"), ("fmt<int3", "fmt:int3"),
        ("bits:4 colour:red", "'colour' at column 8 is unknown"), ("()", "no test before it"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_way_out(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filter(text)
    assert says in str(caught.value) and str(caught.value).endswith(".")


def test_a_damaged_setting_has_no_format() -> None:
    damaged = replace(STUDY.trials[0], setting="{")
    assert not parse_filter("fmt:sign")(damaged) and parse_filter("fmt!=sign")(damaged)
