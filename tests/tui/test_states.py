"""Nothing feasible, nothing yet, ended, dead, broken, small: every state is designed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from qslm_opt.errors import SchemaError, StorageError
from tests.tui.driving import app_on, run, screen_of, shown, until
from tests.tui.fakes import FakeRepository, Study

SIZES = [(80, 24), (120, 36)]


async def at_both_sizes(pilot: Pilot[Any]) -> AsyncIterator[str]:
    """Yield what is on screen at 80x24, then at 120x36."""
    for size in SIZES:
        await pilot.resize_terminal(*size)
        await pilot.pause()
        yield screen_of(pilot.app)


async def test_an_empty_study_is_calm_on_every_screen() -> None:
    study = Study()
    study.baseline, study.bound, study.phase = None, None, "baseline"
    async with shown(study) as pilot:
        async for text in at_both_sizes(pilot):
            assert "The unquantized baseline is being measured" in text and "no candidate yet" in text
            assert "measuring the unquantized baseline" in text and "no trial has ended yet" in text
        for key, says in (
            ("2", "nothing was measured yet"),
            ("3", "no candidate yet"),
            ("4", "no trial yet"),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert says in screen_of(pilot.app)
        await pilot.press("2", "]", "L", "enter", "f", "3", "m", "n", "4", "s", "r", "enter")
        await pilot.pause()
        assert "0 trials" in screen_of(pilot.app)


async def test_nothing_feasible_yet_names_the_closest() -> None:
    async with shown(Study(budget_share=0.05).fill("block")) as pilot:
        async for text in at_both_sizes(pilot):
            assert "Nothing feasible yet. Closest: #49, memory 72 % past its limit." in text
            assert "none yet" in text and "feasible 0/15" in text
        await pilot.press("2")
        await pilot.pause()
        assert "nothing feasible yet; f shows all" in screen_of(pilot.app)


async def test_a_finished_study_sums_up_and_says_what_next() -> None:
    study = Study(metric="accuracy").fill(running=False)
    study.state = "finished"
    async with shown(study) as pilot:
        async for text in at_both_sizes(pilot):
            assert "✔ finished" in text and "Finished: #48 has accuracy 84.85 % in 12.9 MB" in text
            assert "qslm-opt model pack" in text and "ETA" not in text
            assert "Accuracy, % over memory" in text


async def test_a_dead_worker_is_told_with_the_command_that_resumes() -> None:
    study = Study().fill()
    study.state = "dead"
    async with shown(study) as pilot:
        async for text in at_both_sizes(pilot):
            assert "† dead" in text and "The process is gone (pid 4242 on bench-1)" in text
            assert "qslm-opt study resume opt-14m" in text and "not finished" in text


async def test_a_terminal_that_is_too_small_gets_a_plain_sentence() -> None:
    async with shown(Study().fill(), size=(40, 10)) as pilot:
        for width, height in ((40, 10), (79, 24), (80, 23)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            text = screen_of(pilot.app)
            assert f"This terminal is {width}x{height}" in text and "needs 80x24" in text
            assert "Tiers" not in text
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "Tiers" in screen_of(pilot.app))
        assert "This terminal" not in screen_of(pilot.app)


async def test_a_storage_that_stops_answering_keeps_what_was_read() -> None:
    repository = FakeRepository(Study().fill())
    async with run(app_on(repository)) as pilot:
        await until(pilot, lambda: "● 7/21" in screen_of(pilot.app))
        repository.error = StorageError("the database is locked by another process.")
        await until(pilot, lambda: "does not answer (attempt" in screen_of(pilot.app), "the notice")
        text = screen_of(pilot.app)
        assert "Shown is what was read at" in text and "● 7/21" in text
        repository.error = None
        await until(pilot, lambda: "does not answer" not in screen_of(pilot.app), "recovery")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StorageError("the file is damaged."), "sqlite:///other.db cannot be read"),
        (SchemaError("schema 9 is newer than 1."), "The storage is newer than this qslm-opt"),
        (KeyError("surprise"), "KeyError: 'surprise'"),
    ],
)
async def test_a_storage_that_never_answers_has_a_page_and_no_traceback(error: Exception, says: str) -> None:
    repository = FakeRepository(Study().fill())
    repository.error = error
    async with run(app_on(repository), (80, 24)) as pilot:
        await until(pilot, lambda: says in screen_of(pilot.app), "the page")
        assert "Traceback" not in screen_of(pilot.app)
        await pilot.press("2", "y", "?", "escape")
        repository.error = None
        await until(pilot, lambda: "● 7/21" in screen_of(pilot.app), "recovery")


async def test_a_missing_study_leads_to_those_there_are() -> None:
    repository = FakeRepository(Study().fill())
    async with run(app_on(repository, "nope")) as pilot:
        await until(pilot, lambda: "No study 'nope'" in screen_of(pilot.app))
        await pilot.press("o")
        await until(pilot, lambda: "1 study" in screen_of(pilot.app))


async def test_an_empty_storage_says_how_to_begin() -> None:
    async with shown(name=None) as pilot:
        text = screen_of(pilot.app)
        assert "No study yet" in text and "qslm-opt demo --storage sqlite:///other.db" in text


async def test_without_colour_everything_is_still_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with shown(Study().fill()) as pilot:
        svg = pilot.app.export_screenshot()
        colours = {c.lower() for c in re.findall(r"fill: (#[0-9a-fA-F]{6})", svg)}
        own = colours - {"#ff5f57", "#febc2e", "#28c840", "#c5c8c6"}  # the picture's own frame
        assert own and all(c[1:3] == c[3:5] == c[5:7] for c in own), f"only greys, not {own}"
        text = screen_of(pilot.app)
        for sign in "●○✂◆▶✔":
            assert sign in text


async def test_ascii_is_all_that_reaches_the_screen_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSLM_OPT_ASCII", "1")
    study = Study(budget_share=0.3).fill()
    async with shown(study, size=(120, 36)) as pilot:
        for key in "12345":
            await pilot.press(key)
            await pilot.pause()
            odd = {c for c in screen_of(pilot.app) if not c.isascii()}
            assert not odd, f"{odd} on screen {key}"


async def test_every_theme_paints_every_screen() -> None:
    async with shown(Study().fill(), pane="model") as pilot:
        looks = set()
        for theme in ("textual-light", "nord", "ansi-dark", "textual-dark"):
            pilot.app.theme = theme
            await pilot.pause()
            svg = pilot.app.export_screenshot()
            looks.add(tuple(sorted(set(re.findall(r"fill: (#[0-9a-fA-F]{6})", svg)))))
            for key in "12543":
                await pilot.press(key)
        assert len(looks) == 4, "each theme has colours of its own"


async def test_a_damaged_setting_is_a_sentence_on_the_model_screen() -> None:
    study = Study().fill()
    study.trials[48] = replace(study.trials[48], setting='{"version":99,"units":{}}')
    async with shown(study, pane="model") as pilot:
        assert "setting version 99" in screen_of(pilot.app)
        await pilot.press("2")
        await pilot.pause()
        assert "setting version 99" in screen_of(pilot.app)
