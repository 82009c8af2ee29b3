"""Ten thousand trials: only what is on screen is formatted, and only what is new is read."""

from __future__ import annotations

from dataclasses import replace

from tests.tui.driving import app_on, run, screen_of, until
from tests.tui.fakes import FakeRepository, Study
from tui.app import QslmApp
from tui.widgets.table import WindowTable


def large() -> Study:
    study = Study().fill(running=False)
    made = list(study.trials)
    for number in range(len(made), 10_000):
        like = made[number % len(made)]
        study.trials.append(replace(like, number=number, uuid=f"t-{number}", digest=f"{number:016x}"))
    return study


async def test_every_screen_opens_and_lambda_turns() -> None:
    repository = FakeRepository(large())
    async with run(app_on(repository)) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: app.view is not None and "#9999" in screen_of(app))
        for key, mark in (("2", "feasible candidates"), ("4", "10000 trials"), ("1", "Log, newest first")):
            await pilot.press(key)
            await until(pilot, lambda mark=mark: mark in screen_of(app))  # type: ignore[misc]
        await pilot.press("2", "]")
        await until(pilot, lambda: "λ 21" in screen_of(app))


async def test_only_rows_on_screen_are_made_and_only_new_trials_are_read() -> None:
    repository = FakeRepository(large())
    study = repository.made[0]
    async with run(app_on(repository)) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: app.view is not None and "#9999" in screen_of(app))
        table = app.screen.query_one("#log", WindowTable)
        made: list[int] = []
        row = table._row
        table._row = lambda index: (made.append(index), row(index))[1]  # type: ignore[func-returns-value]
        table.refresh()
        await pilot.pause()
        assert 0 < len(made) < 60 and table.count > 10_000
        repository.calls.clear()
        study.add("module", "attention.0/ffn.value", 2, {"attention.0": 4})
        study.trials[-1] = replace(study.trials[-1], number=10_000)
        repository.version += 1
        await until(pilot, lambda: "#10000" in screen_of(app))
        assert ("trials", 9_999, None) in repository.calls
        assert ("trials", -1, None) not in repository.calls
