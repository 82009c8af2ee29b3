"""The keys, by a pilot."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.tui.driving import app_on, run, screen_of, shown, until
from tests.tui.fakes import FakeRepository, Study
from tui.app import QslmApp
from tui.widgets.table import WindowTable

SIZES = [(80, 24), (120, 36), (160, 50)]


def app_of(pilot: Pilot[object]) -> QslmApp:
    assert isinstance(pilot.app, QslmApp)
    return pilot.app


async def test_each_screen_shows_its_own_at_every_size() -> None:
    async with shown(Study().fill(), size=SIZES[0]) as pilot:
        for size in SIZES:
            await pilot.resize_terminal(*size)
            for key, marks in (
                ("1", ("Tiers", "Perplexity over memory", "newest first", "module", "budget", "bound")),
                ("2", ("Who wins for which λ", "7 feasible candidates", "room", "bits    1   4")),
                ("3", ("Bits of #48, winner at λ 20", "attention.5", "recept", "4 head")),
                ("4", ("64 trials by number", "mem room", "measured")),
                ("5", ("power n/a", "qslm-opt doctor")),
            ):
                await pilot.press(key)
                await pilot.pause()
                text = screen_of(pilot.app)
                for mark in ("opt-14m", "● running", "trial #63", "◆ #48 34.88 −88.7 %", "● 7/21", *marks):
                    assert mark in text, f"{mark!r} is not on screen {key} at {size}:\n{text}"
                assert "q quit" in text.splitlines()[-1]
                assert max(len(line) for line in text.splitlines()) <= size[0]


async def test_lambda_keys_rank_again_and_move_the_best() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        assert app.lam == 20.0 and app.chosen_number == 48
        await pilot.press("]")
        assert app.lam == 21.0
        await pilot.press("{", "{", "{", "{", "{", "{", "{", "{", "{", "{", "{")
        await pilot.pause()
        assert app.lam == pytest.approx(1.0) and app.chosen_number == 46
        text = screen_of(app)
        assert "◆ #46" in text.splitlines()[1], "the header's best follows λ"
        assert "λ 1  | the study's own 20" in text and "▲" in text
        table = app.screen.query_one("#ranking", WindowTable)
        assert [table._row(i)[3][0] for i in range(2)] == ["#46", "#45"]


async def test_next_winner_visits_every_winner() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        assert app.view is not None
        winners = [t.number for _, _, t in app.view.winners]
        seen = []
        for _ in winners:
            await pilot.press("L")
            seen.append(app.chosen_number)
        assert sorted(seen) == sorted(winners)


async def test_an_exact_lambda_is_asked_for_and_a_bad_one_refused() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        await pilot.press("=", *"-3", "enter")
        await pilot.pause()
        assert "cannot be λ" in screen_of(app) and app.lam == 20.0
        await pilot.press("backspace", "backspace", *"64.25", "enter")
        await pilot.pause()
        assert app.lam == 64.25 and "λ 64.2" in screen_of(app)


async def test_a_chosen_candidate_stays_chosen_while_lambda_turns_until_the_winner_is_wanted() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        await pilot.press("down", "down")
        chosen = app.chosen
        assert chosen is not None and chosen == app.chosen_number != 48
        await pilot.press("}", "3")
        await pilot.pause()
        assert app.chosen == chosen and f"Bits of #{chosen}, chosen" in screen_of(app)
        await pilot.press("w")
        await pilot.pause()
        assert app.chosen is None and "winner at λ 30" in screen_of(app)


async def test_f_shows_what_is_not_feasible_after_what_is() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        await pilot.press("f")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "measured settings, feasible ones first" in text and "!" in text
        await pilot.press("f")
        await pilot.pause()
        assert "7 feasible candidates" in screen_of(pilot.app)


async def test_the_model_screen_has_two_layers_and_a_cursor() -> None:
    async with shown(Study().fill(), pane="model") as pilot:
        await pilot.press("down", "right")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "attention.0/att.value" in text and "int4/channel/affine" in text and "[4]" in text
        assert "tried block at  3 bits" in text and "(#50, block)" in text, "what was tried with this block"
        await pilot.press("m")
        await pilot.pause()
        assert "Sensitivity" in screen_of(pilot.app) and "2 bits" in screen_of(pilot.app)
        await pilot.press("m", "n")
        await pilot.pause()
        assert "chosen" in screen_of(pilot.app)


async def test_trials_are_filtered_as_it_is_written_and_escape_empties_it() -> None:
    async with shown(Study().fill(), pane="trials") as pilot:
        await pilot.press("/", *"tier:block bits:3", "enter")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "7 of 64 trials by number" in text and "tier:block bits:3" in text
        assert "sensitivity" not in text
        await pilot.press("/", "end", *" x:1")
        await pilot.pause()
        assert "filter key 'x' at column 19 is unknown" in screen_of(pilot.app)
        await pilot.press("escape")
        await pilot.pause()
        assert "64 trials by number" in screen_of(pilot.app)


async def test_trials_are_sorted_by_the_next_thing() -> None:
    async with shown(Study().fill(), pane="trials") as pilot:
        table = pilot.app.screen.query_one("#trial-table", WindowTable)
        await pilot.press("s")
        assert "metric, best first" in screen_of(pilot.app)
        assert table._row(0)[5][0] == "34.20" and table._row(table.count - 1)[5][0] == "–"
        await pilot.press("s")
        shown_bytes = [float(table._row(i)[6][0].split()[0]) for i in range(table.count)]
        assert shown_bytes == sorted(shown_bytes)


async def test_r_follows_the_newest_trial_until_the_cursor_is_moved() -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    async with run(app_on(repository, pane="trials")) as pilot:
        app = app_of(pilot)
        await until(pilot, lambda: app.view is not None)
        await until(pilot, lambda: app.screen.query("#trial-table"))
        table = app.screen.query_one("#trial-table", WindowTable)
        await pilot.press("r")
        assert table.cursor == 63
        repository.end_running(study)
        study.add("module", "attention.0/ffn.value", 2, {"attention.0": 4})
        repository.version += 1
        await until(pilot, lambda: table.cursor == 64, "following")
        await pilot.press("up")
        assert table.cursor == 63 and "following" not in screen_of(app)


async def test_enter_opens_all_numbers_of_a_trial_and_escape_closes_them() -> None:
    async with shown(Study().fill(), pane="trials") as pilot:
        await pilot.press("end", "up", "enter")
        await pilot.pause()
        text = screen_of(pilot.app)
        assert "Trial #62" in text and "module: attention.0/ffn.key at 2 bits" in text
        await pilot.press("escape")
        await pilot.pause()
        assert "Trial #62" not in screen_of(pilot.app)


async def test_what_the_search_finds_appears_by_itself() -> None:
    study = Study().fill()
    repository = FakeRepository(study)
    async with run(app_on(repository)) as pilot:
        app = app_of(pilot)
        await until(pilot, lambda: app.view is not None and "● 7/21" in screen_of(app))
        repository.end_running(study)
        await until(pilot, lambda: "● 8/22" in screen_of(app), "the new candidate")
        assert "no trial is running" in screen_of(app)
        before = len(repository.calls)
        await pilot.pause(0.2)
        assert {call[0] for call in repository.calls[before:]} == {"changed"}, "an idle view reads one number"


async def test_help_names_every_key_of_the_screen_and_every_sign() -> None:
    async with shown(Study().fill(), size=(120, 50), pane="rank") as pilot:
        await pilot.press("?")
        await pilot.pause()
        text = screen_of(pilot.app)
        for part in ("meets both limits", "Type λ exactly", "Save this screen", "↑ k", "perplexity + λ m/M"):
            assert part in text
        await pilot.press("escape")


async def test_the_palette_names_every_action() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        for wanted in ("Move λ to where the next candidate wins", "Show all trials", "Theme"):
            assert wanted in titles
        actions = {a.binding.action for a in app.screen.active_bindings.values() if a.binding.tooltip}
        assert len(titles) >= len({a for a in actions if not a.startswith("dialog")}) - 2
        await pilot.press("ctrl+p")
        await pilot.pause()
        assert "Search for commands" in screen_of(app)


async def test_every_binding_of_ours_has_an_id_so_that_a_keymap_can_move_it() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        own = [a.binding for a in app.screen.active_bindings.values() if a.binding.id]
        assert len({b.id for b in own}) >= 20
        app.set_keymap({"lam.next": "z"})
        await pilot.press("z")
        assert app.lam != 20.0


async def test_y_copies_the_equal_command_line() -> None:
    async with shown(Study().fill(), pane="rank") as pilot:
        app = app_of(pilot)
        await pilot.press("]", "y")
        assert app.clipboard == "qslm-opt study candidates opt-14m --lambda 21 --storage sqlite:///other.db"
        await pilot.press("1", "y")
        assert app.clipboard == "qslm-opt study show opt-14m --storage sqlite:///other.db"


async def test_s_saves_a_picture_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with shown(Study().fill()) as pilot:
        await pilot.press("S")
        (picture,) = tmp_path.glob("opt-14m-overview-*.svg")
        assert "Perplexity" in picture.read_text("utf-8")
        monkeypatch.chdir("/proc")
        await pilot.press("S")
        await pilot.pause()
        assert "cannot be written" in [n.message for n in pilot.app._notifications][-1]


async def test_the_list_of_studies_opens_one_and_o_goes_back() -> None:
    finished = Study("older", blocks=2).fill("global", running=False)
    finished.state = "finished"
    async with shown(Study().fill(), finished, name=None) as pilot:
        app = app_of(pilot)
        text = screen_of(app)
        assert "2 studies" in text and "✔ finished" in text and "older" in text
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.view is not None)
        assert "older" in screen_of(app).splitlines()[0]
        await pilot.press("o")
        await until(pilot, lambda: "2 studies" in screen_of(app))


async def test_q_closes_and_lets_the_reader_go() -> None:
    async with shown(Study().fill()) as pilot:
        app = app_of(pilot)
        reader = app._reader
        assert reader is not None
        await pilot.press("q")
    reader.join(5)
    assert not reader.is_alive() and app.return_code == 0


async def test_a_tab_can_be_clicked_and_the_ruler_too() -> None:
    async with shown(Study().fill()) as pilot:
        app = app_of(pilot)
        await pilot.click("#facts", offset=(15, 1))
        await until(pilot, lambda: app.pane == "rank")
        await pilot.click("Ruler", offset=(2, 0))
        await pilot.pause()
        assert app.lam < 2
