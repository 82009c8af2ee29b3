"""Names, reasons and devices as somebody with bad intentions gives them: no screen obeys them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_hostile import NAMES
from tests.tui import recordings
from tests.tui.driving import app_on, run, screen_of, shown, svg_text, until
from tests.tui.fakes import START, FakeRepository, Study
from tui.app import QslmApp
from tui.snapshot import snapshot
from tui.widgets.paint import caption, line, one_line, text

BAD = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e[/x][red]\nnext\tone"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
SCREENS = ("overview", "rank", "model", "trials", "power")


def hostile() -> FakeRepository:
    """Return a study whose every foreign text is bad, with a device."""
    study = Study().fill()
    study.name, study.spec = BAD, replace(study.spec, model=BAD)
    study.state, study.phase, study.reason = "stopped", BAD, BAD
    study.trials = [replace(t, reason=BAD) if t.number % 2 else t for t in study.trials]
    repository = FakeRepository(study)
    device = recordings.device(0, name=BAD)
    repository.devices.append(device)
    last = study.trials[-1].number
    repository.samples[device.id] = [recordings.sample(t, 0) for t in range(20 * last + 25)]
    return repository


def sent(app: QslmApp) -> str:
    """Return the text of the screen as it goes to the terminal, before the terminal's own codes."""
    return "".join(segment.text for strip in app.screen._compositor.render_strips() for segment in strip)


@pytest.mark.parametrize("screen", SCREENS)
async def test_no_screen_sends_the_control_characters_of_a_study(screen: str) -> None:
    repository = hostile()
    app = app_on(repository, BAD, pane=screen)
    async with run(app) as pilot:
        await until(pilot, lambda: app.view is not None and "u001b" in screen_of(app))
        for keys in ((), ("X",), ("D",), ("escape", "r")):
            await pilot.press(*keys)
            await pilot.pause()
            whole = sent(app)
            assert not CONTROL.search(whole) and "\n" not in whole, repr(CONTROL.findall(whole))
            assert {strip.cell_length for strip in app.screen._compositor.render_strips()} == {120}
        app.notify(BAD, title=BAD, markup=False)
        await until(pilot, lambda: "one" in screen_of(app))
        assert not CONTROL.search(sent(app))


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if "\udcff" not in name and (len(name) > 500 or not name.isprintable())],
    ids=lambda name: ascii(name)[:20],
)
def test_a_picture_of_a_study_with_a_hostile_name_is_a_picture(name: str, tmp_path: Path) -> None:
    study = Study().fill("global")
    study.name = name
    out = tmp_path / "p.svg"
    snapshot("sqlite:///x.db", name, out, open_source=lambda: FakeRepository(study), clock=lambda: START)
    svg = out.read_text("utf-8")
    assert not CONTROL.search(svg)
    assert len(svg_text(svg).splitlines()) == 36


async def test_the_list_of_studies_keeps_its_rows_and_columns() -> None:
    study = Study().fill()
    study.name = "a\nb\x1b[2J"
    async with shown(study, Study("older"), name=None) as pilot:
        rows = screen_of(pilot.app).splitlines()
        first = next(row for row in rows if "a b\\u001b[2J" in row)
        second = next(row for row in rows if "older" in row)
        assert first.index(" demo ") == second.index(" demo ")
        assert len(rows) == 36


def test_one_line_keeps_what_is_harmless_and_shows_the_rest() -> None:
    assert one_line("漢字 λ é") == "漢字 λ é"
    assert one_line("a\nb\tc\x9b") == "a b c\\u009b"
    assert text("a\nb\x1b").plain == "a\nb\\u001b"
    assert line(("a\nb", "dim"), "\x07").plain == "a b\\u0007"
    assert caption("[/x]\x1b").plain == "[/x]\\u001b"
