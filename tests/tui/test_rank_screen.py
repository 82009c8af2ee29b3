"""The rank screen: room bars, ties, places, the pin, the plot, what a larger λ chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tui.driving import screen_of, shown, until
from tests.tui.fakes import Study
from tests.tui.test_model import view_of
from tui.app import QslmApp
from tui.columns import Column
from tui.ranking import chosen_lines, columns, rank_row, room_bar, top_rooms
from tui.screens.rank import RankPane
from tui.widgets.ruler import Ruler
from tui.widgets.table import WindowTable


def row_of(study: Study, place: int) -> list[tuple[str, str]]:
    view = view_of(study)
    rows = view.ranked(view.row.spec.lam)
    return rank_row(view, rows[place], 0, False, False, top_rooms(view.feasible))


def cell(study: Study, place: int, title: str, nth: int = 0) -> str:
    at = [i for i, c in enumerate(columns(study.metric)) if c.title == title][nth]
    return row_of(study, place)[at][0]


def test_each_room_stands_beside_its_value_with_a_bar_relative_to_the_most_room() -> None:
    study = Study().fill()
    assert [cell(study, i, "room") for i in range(3)] == ["2.3 %", "3.7 %", "1.5 %"]
    assert [cell(study, i, "ppl", 1) for i in range(3)] == ["██░░", "████", "█░░░"]
    assert [cell(study, i, "room", 1) for i in range(3)] == ["48.8 %", "36.6 %", "50.5 %"]


def test_what_is_past_a_limit_has_a_bar_of_its_own_sign() -> None:
    study = Study().fill()
    bad = next(t for t in study.trials if t.tier == "block" and t.slack["metric"] > 0)
    assert room_bar(bad, "metric", 0.05) == ("!!!!", "infeasible")
    assert room_bar(replace(bad, slack={}), "metric", 0.05)[0] == ""
    assert room_bar(replace(bad, slack={"memory": -0.0001}), "memory", 0.5) == ("█░░░", "bar")


def test_watts_and_joules_of_a_trial_are_shown_or_not_known() -> None:
    study = Study().fill()
    assert cell(study, 0, "W") == "n/a" and cell(study, 0, "J") == "n/a"
    study.trials[48] = replace(study.trials[48], power_w=231.4, energy_j=7812.0)
    assert cell(study, 0, "W") == "231" and cell(study, 0, "J") == "7812"


@pytest.mark.parametrize(
    ("width", "kept"), [(76, {"W", "J", "score", "room"}), (82, {"mem"}), (130, {"unit"})]
)
def test_columns_leave_in_their_order_and_fit(width: int, kept: set[str]) -> None:
    left: list[Column] = list(columns("perplexity"))
    while sum(c.width + 1 for c in left) > width + 1:
        left.remove(max(left, key=lambda c: c.drop))
    assert kept <= {c.title for c in left}
    assert {c.title for c in left} >= {"rank", "trial", "ppl", "memory", "room", "score"}


async def test_ties_are_marked_for_an_accuracy_and_said_to_be_unknown_for_a_perplexity() -> None:
    async with shown(Study(metric="accuracy").fill(), pane="rank") as pilot:
        text = screen_of(pilot.app)
        assert "#47 ≈" in text and "≈: ties with the first" in text
        assert "a tie: less than the noise of 872 sentences" in text
    async with shown(Study().fill(), pane="rank") as pilot:
        text = screen_of(pilot.app)
        assert "≈" not in text and "noise n/a: the spread of a perplexity is not stored" in text


async def test_places_move_with_lambda_and_the_words_name_the_next_winner() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        assert "a larger λ chooses #50" in screen_of(pilot.app)
        await pilot.press("{")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "▲1" in text and "▼" in text and "a larger λ chooses #48" in text
        await pilot.press("=", *["backspace"] * 4, *"9000", "enter")
        await pilot.pause()
        assert "any larger λ chooses it too" in screen_of(pilot.app)


async def test_the_words_of_the_ruler_fit_into_a_low_width() -> None:
    async with shown(Study().fill(), pane="rank", size=(80, 24)) as pilot:
        text = screen_of(pilot.app)
        assert "a larger λ chooses #50" in text.splitlines()[5] and "…" not in text.splitlines()[5]
        assert pilot.app.screen.query_one(Ruler).size.width == 76


@pytest.mark.parametrize(("size", "plot"), [((80, 24), False), ((120, 36), True), ((200, 60), True)])
async def test_the_plot_folds_where_it_would_crowd_the_table(size: tuple[int, int], plot: bool) -> None:
    async with shown(Study().fill(), pane="rank", size=size) as pilot:
        await pilot.pause()
        text = screen_of(pilot.app)
        assert ("Perplexity over memory" in text) is plot
        assert "n/a" in text and "36.6 %" in text and "37.136" in text
        assert max(len(line) for line in text.splitlines()) <= size[0]


async def test_a_pinned_candidate_is_marked_and_compared() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await pilot.press("d")
        await pilot.pause()
        assert "Pin a trial first" in [n.message for n in app._notifications][-1]
        await pilot.press("down", "p", "up")
        await pilot.pause()
        assert app.pinned == 47 and "◇" in screen_of(app)
        assert "against ◇ #47: perplexity +0.514, memory −3.07 MB; 7 units int5→int4" in screen_of(app)
        await pilot.press("d")
        await pilot.pause()
        text = screen_of(app)
        assert "#47 (pinned) against #48" in text and "int5/channel/affine → int4/channel/affine" in text
        await pilot.press("escape", "3", "m", "m")
        await pilot.pause()
        text = screen_of(app)
        assert "Difference: ◇#47 pinned, against #48" in text and "5→4" in text
        await pilot.press("m", "2", "down", "p")
        await pilot.pause()
        assert app.pinned is None and "◇" not in screen_of(app)


async def test_keys_in_a_burst_act_on_the_row_that_they_lead_to() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp) and app.view is not None
        numbers = [row.record.number for row in app.view.ranked(app.lam)]
        for key in ("p", "down", "down", "down", "d"):
            app.simulate_key(key)
        await until(pilot, lambda: f"#{numbers[0]} (pinned) against #{numbers[3]}" in screen_of(app))
        await pilot.press("escape")
        for key in ("up", "p"):
            app.simulate_key(key)
        await until(pilot, lambda: app.pinned == numbers[2])


async def test_the_pin_follows_to_the_trials_screen() -> None:
    async with shown(Study().fill(), pane="trials") as pilot:
        await pilot.press("end", "p", "up", "d")
        await pilot.pause()
        assert "#63 (pinned) against #62" in screen_of(pilot.app)
        await pilot.press("escape")
        await pilot.pause()
        assert "◇#63" in screen_of(pilot.app)


def test_the_winner_is_compared_with_the_second_and_a_lone_candidate_with_none() -> None:
    view = view_of(Study().fill())
    rows = view.ranked(20.0)
    said = "".join(part for part, _ in chosen_lines(view, rows[0].record, rows, None, 200))
    assert "#48 before #47" in said
    said = "".join(part for part, _ in chosen_lines(view, rows[0].record, rows[:1], None, 200))
    assert "before" not in said


async def test_ten_thousand_candidates_format_only_what_is_on_screen() -> None:
    study = Study().fill("block", running=False)
    feasible = [t for t in study.trials if t.feasible]
    for n in range(len(study.trials), 10_000):
        base = feasible[n % len(feasible)]
        study.trials.append(
            replace(base, number=n, uuid=f"t-{n}", digest=f"d{n}", bytes=base.bytes - n % 977)
        )
    async with shown(study, pane="rank") as pilot:
        table = pilot.app.screen.query_one("#ranking", WindowTable)
        made: list[int] = []
        pane = pilot.app.screen.query_one(RankPane)
        row = pane._row
        pane._row = lambda index: made.append(index) or row(index)  # type: ignore[func-returns-value,method-assign]
        await pilot.press("end")
        await pilot.pause()
        assert table.count > 9000 and 0 < len(set(made)) < 80
