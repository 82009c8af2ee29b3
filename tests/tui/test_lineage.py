"""Parents of trials and differences of settings."""

from __future__ import annotations

from dataclasses import replace

from qslm_opt.formats import FP32, SIGN, Format
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.lineage import Change, changes, effect, formats_of
from qslm_opt.setting import QuantSetting
from tests.tui.fakes import CHANNEL, Study, tree
from tests.tui.test_model import view_of
from tui.compare import change_words, changes_between, diff_runs
from tui.lineage import parent

TREE = tree(3)
INT4, INT8 = CHANNEL.with_bits(4), CHANNEL.with_bits(8)
BLOCKS = ("attention.0", "attention.1", "attention.2", "output")


def formats(**units: Format) -> dict[str, Format]:
    named = {unit.replace("_", "."): fmt for unit, fmt in units.items()}
    base = {NETWORK: FP32, "input/emb": SIGN, **dict.fromkeys(BLOCKS, INT8)}
    return formats_of(TREE, QuantSetting({**base, **named}))


def changed(after: dict[str, Format]) -> list[tuple[str, str, str]]:
    return [(c.unit, c.before.split("/")[0], c.after.split("/")[0]) for c in changes(TREE, formats(), after)]


def test_a_block_that_changed_as_a_whole_is_one_change() -> None:
    assert changed(formats(attention_1=INT4)) == [("attention.1", "int8", "int4")]
    assert changed(formats()) == []


def test_a_module_of_a_block_is_named_by_itself() -> None:
    after = {**formats(), "attention.2/ffn.key": INT4}
    assert changed(after) == [("attention.2/ffn.key", "int8", "int4")]


def test_all_blocks_alike_are_the_network_only_when_nothing_else_differs() -> None:
    same = dict.fromkeys(formats(), INT8)
    assert changes(TREE, same, dict.fromkeys(same, INT4)) == [Change(NETWORK, str(INT8), str(INT4))]
    everything_but_input = formats(**{b.replace(".", "_"): INT4 for b in BLOCKS})
    assert [unit for unit, *_ in changed(everything_but_input)] == list(BLOCKS)


def test_the_parent_of_every_step_has_one_unit_at_higher_bits_and_nothing_else_differs() -> None:
    view = view_of(Study().fill(running=False))
    steps = [t for t in view.ended if t.tier in ("block", "module")]
    assert len(steps) == 13
    for trial in steps:
        origin = parent(view, trial)
        assert origin is not None and origin.number < trial.number
        found = changes_between(view, origin, trial)
        assert [c.unit for c in found] == [trial.unit]
        assert origin.slack["metric"] <= 0, "the search goes on from what met the bound"


def test_the_first_tiers_have_no_parent() -> None:
    view = view_of(Study().fill())
    assert parent(view, view.by_number[3]) is None and parent(view, view.by_number[48]) is None


def test_a_parent_that_is_gone_or_damaged_is_none() -> None:
    study = Study().fill(running=False)
    child = next(t for t in study.trials if t.tier == "block")
    study.trials[child.number] = replace(child, setting="{")
    view = view_of(study)
    assert parent(view, view.by_number[child.number]) is None


def test_the_effect_is_the_change_of_metric_and_bytes() -> None:
    view = view_of(Study().fill(running=False))
    trial = view.by_number[50]
    origin = parent(view, trial)
    assert origin is not None and origin.number == 48
    moved = effect(trial, origin)
    assert moved is not None and moved[0] is not None and trial.value is not None and origin.value is not None
    assert moved[0] == trial.value - origin.value > 0 and moved[1] == trial.bytes - origin.bytes < 0
    assert effect(trial, None) is None


def test_changes_in_words_join_those_that_are_alike() -> None:
    view = view_of(Study().fill())
    words = change_words(changes_between(view, view.by_number[47], view.by_number[48]))
    assert words == "7 units int5→int4"
    assert change_words([]) == "nothing differs"


def test_a_comparison_says_numbers_noise_and_units() -> None:
    view = view_of(Study(metric="accuracy").fill())
    said = "".join(part for part, _ in diff_runs(view, view.by_number[47], view.by_number[48]))
    assert "#47 pinned" in said and "points" in said and "within the noise" in said
    assert "attention.0  int5/channel/affine → int4/channel/affine" in said
    perplexity = view_of(Study().fill())
    said = "".join(p for p, _ in diff_runs(perplexity, perplexity.by_number[47], perplexity.by_number[48]))
    assert "Noise n/a" in said and "n/a" in said
