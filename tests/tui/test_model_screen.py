"""The model screen: reasons beside the map and under it; the trials screen: filter help and detail."""

from __future__ import annotations

import pytest

from tests.tui.driving import screen_of, shown, until
from tests.tui.fakes import Study
from tests.tui.test_model import view_of
from tui.bitmap import bit_grid, diff_grid
from tui.glyphs import glyphs
from tui.report import limit_bar, reason_text, trial_runs
from tui.screens.cells import room_cell


async def test_why_a_block_has_its_bits_is_on_screen_without_a_key() -> None:
    async with shown(Study().fill(), pane="model") as pilot:
        lines = screen_of(pilot.app).splitlines()
        (third,) = (line for line in lines if "attention.3" in line)
        assert "3 bits: ppl 0.90 % past (#55)" in third
        (head,) = (line for line in lines if "recept" in line and "why" in line)
        assert head.index("why") < head.rindex("│")


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60)])
async def test_the_cursor_tells_the_reason_the_origin_and_the_format_at_every_size(
    size: tuple[int, int],
) -> None:
    async with shown(Study().fill(), pane="model", size=size) as pilot:
        await pilot.press("down", "down", "down", "down")
        await pilot.pause()
        text = " ".join(screen_of(pilot.app).split())
        for words in (
            "Why attention.3/att.key has 4 bits",
            "3 bits gave 36.02, 0.90 % past the perplexity limit (#55).",
            "#48 set it: the whole network at 4 bits", "int4/channel/affine",
        ):  # fmt: skip
            assert words in text, f"{words!r} is missing at {size}"


async def test_layers_change_in_turn_and_the_difference_needs_a_pin() -> None:
    async with shown(Study().fill(), pane="model") as pilot:
        assert "Bits of #48" in screen_of(pilot.app)
        await pilot.press("m")
        await pilot.pause()
        assert "Sensitivity" in screen_of(pilot.app)
        await pilot.press("m")
        await pilot.pause()
        assert "Bits of #48" in screen_of(pilot.app)
        await pilot.press("n", "p", "N", "m", "m")
        await pilot.pause()
        assert "Difference: ◇#47 pinned, against #48" in screen_of(pilot.app)
        await pilot.press("n", "p")
        await pilot.pause()
        assert "Bits of #47" in screen_of(pilot.app), "without a pin there is nothing to differ from"


async def test_the_cursor_stays_on_its_unit_when_the_layer_changes() -> None:
    async with shown(Study().fill(), pane="model") as pilot:
        await pilot.press(*["down"] * 4, "right", "right")
        for title in ("attention.3/att.receptance", "attention.3", "attention.3/att.receptance"):
            await until(pilot, lambda title=title: f"Why {title} has" in screen_of(pilot.app), title)  # type: ignore[misc]
            await pilot.press("m")
            await pilot.pause()


async def test_a_low_terminal_gives_the_reasons_the_lines_that_the_map_leaves() -> None:
    async with shown(Study().fill(), pane="model", size=(80, 24)) as pilot:
        lines = screen_of(pilot.app).splitlines()
        assert lines[13].startswith("│ output") or lines[12].startswith("│ output")
        assert sum(line.startswith("╰") for line in lines) == 2
        assert pilot.app.screen.query_one("#cell-panel").size.height >= 7


async def test_the_overview_says_why_at_every_size_and_where_there_is_more() -> None:
    for size in ((80, 24), (120, 36)):
        async with shown(Study().fill(), size=size) as pilot:
            text = screen_of(pilot.app)
            assert "why  " in text and "3: why every block" in text


def test_the_sensitivity_tier_is_under_no_budget() -> None:
    study = Study().fill()
    assert room_cell(study.trials[0], "memory") == (glyphs().dash, "dim")
    assert room_cell(study.trials[42], "memory")[0].startswith("!")
    assert "  used █" in "".join(part for part, _ in trial_runs(view_of(study), study.trials[48]))


def test_the_grid_of_differences_shows_both_bits_where_formats_differ() -> None:
    view = view_of(Study().fill())
    before, after = (view.setting(view.by_number[n]) for n in (48, 50))
    rows = dict(diff_grid(view.row.hierarchy, before, after).rows)
    assert {cell.text for cell in rows["attention.0"]} == {"4→3"}
    assert {cell.text for cell in rows["attention.1"]} == {"─"} and rows["output"][0].text == "─ head"
    back = dict(diff_grid(view.row.hierarchy, after, before).rows)
    assert back["attention.0"][0].text == "3→4" and back["attention.0"][0].role.startswith("warm")


def test_notes_stand_beside_their_rows() -> None:
    view = view_of(Study().fill())
    grid = bit_grid(view.row.hierarchy, view.setting(view.by_number[48]), {"attention.2": "because"})
    assert [note for (unit, _), note in zip(grid.rows, grid.notes, strict=True) if note] == ["because"]
    assert bit_grid(view.row.hierarchy, view.setting(view.by_number[48])).notes == ()


async def test_the_filter_has_a_line_of_help_and_says_what_is_wrong() -> None:
    async with shown(Study().fill(), pane="trials", size=(80, 24)) as pilot:
        await pilot.press("/")
        await pilot.pause()
        assert "memroom" in screen_of(pilot.app) and "and or not" in screen_of(pilot.app)
        await pilot.press(*"tier:block (bits:2")
        await pilot.pause()
        text = " ".join(screen_of(pilot.app).split())
        assert "the ( at column 12 is not closed; write a ) after its tests." in text
        await pilot.press("enter")
        await pilot.pause()
        assert "not closed" in " ".join(screen_of(pilot.app).split()), "a problem stays in sight"
        await pilot.press(")", "enter")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "3 of 64 trials" in text and "memroom" not in text


async def test_beside_a_wide_table_the_trial_under_the_cursor_is_shown() -> None:
    async with shown(Study().fill(), pane="trials", size=(200, 60)) as pilot:
        await pilot.press("end", "up")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "Trial #62" in text and "made from        #56" in text
        assert "what changed     attention.0/ffn.key int3→int2" in text
        await pilot.press("up")
        await pilot.pause()
        assert "Trial #61" in screen_of(pilot.app)
    async with shown(Study().fill(), pane="trials") as pilot:
        assert "made from" not in screen_of(pilot.app)


def said(number: int, study: Study | None = None) -> str:
    view = view_of(study or Study().fill())
    return "".join(part for part, _ in trial_runs(view, view.by_number[number]))


def test_a_trial_says_what_it_was_made_from_and_what_that_did() -> None:
    text = said(50)
    assert "made from        #48" in text and "what changed     attention.0 int4→int3" in text
    assert "what it did      perplexity +0.266, memory −426 kB" in text
    assert "made from        the unquantized model  network set to 4 bits" in said(48)


def test_a_trial_says_why_it_came_out_so() -> None:
    view = view_of(Study().fill())
    words = {n: reason_text(view, view.by_number[n]) for n in (0, 42, 48, 51, 63)}
    assert "not judged" in words[0] and "memory alone decides it" in words[42]
    assert words[48] == "measured to the end and within both limits" and words[63] == "it runs"
    assert words[51].startswith("perplexity 1.5 % past its limit")


def test_a_limit_is_a_full_bar_and_what_is_past_it_goes_on() -> None:
    assert limit_bar(-0.5, 10) == "█████░░░░░" and limit_bar(0.0, 10) == "█" * 10
    assert limit_bar(0.2, 10) == "█" * 10 + "!!" and limit_bar(9.0, 10) == "█" * 10 + "!!!!!"
