"""How tests drive the dashboard: an app on a fake repository, and its screen as lines of text."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from textual.pilot import Pilot

from tests.tui.fakes import START, FakeRepository, Study
from tui.app import QslmApp

URL = "sqlite:///other.db"
_TEXT = re.compile(r'<text[^>]* x="([\d.]+)"[^>]* clip-path="url\(#[^)]*-line-(\d+)\)"[^>]*>([^<]*)</text>')


def app_on(repository: FakeRepository, name: str | None = "opt-14m", **given: Any) -> QslmApp:
    """Return an app whose clock stands 25 s after the last trial began, and which polls fast."""
    trials = repository.made[0].trials if repository.made else []
    now = START + timedelta(seconds=20 * max(0, len(trials) - 1) + 25)

    def clock() -> datetime:
        return now

    return QslmApp(URL, name, open_source=lambda: repository, interval=0.02, clock=clock, **given)


async def until(pilot: Pilot[Any], true: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds; fail after ten seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 10
    while not true():
        assert loop.time() < end, f"{what} did not happen in 10 s:\n{screen_of(pilot.app)}"
        await asyncio.sleep(0.01)
        await pilot.pause()
    await pilot.pause()


@asynccontextmanager
async def shown(
    *studies: Study, size: tuple[int, int] = (120, 36), name: str | None = "opt-14m", **given: Any
) -> AsyncIterator[Pilot[Any]]:
    """Run the app on studies and wait for the first of its screens."""
    async with run(app_on(FakeRepository(*studies), name, **given), size) as pilot:
        app = pilot.app
        assert isinstance(app, QslmApp)
        await until(pilot, lambda: app.studies is not None if name is None else app.view is not None)
        yield pilot


@asynccontextmanager
async def run(app: QslmApp, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Pilot[Any]]:
    """Run an app."""
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield pilot


def screen_of(app: Any) -> str:
    """Return what is on screen as text: by the compositor, which costs a tenth of a picture."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def svg_text(svg: str) -> str:
    """Return the text of an exported picture, line by line."""
    lines: dict[int, dict[int, str]] = {}
    for x, line, text in _TEXT.findall(svg):
        lines.setdefault(int(line), {})[round(float(x) / 12.2)] = html.unescape(text).replace("\xa0", " ")
    rows = []
    for number in range(max(lines, default=-1) + 1):
        row = ""
        for column, text in sorted(lines.get(number, {}).items()):
            row = row.ljust(column) + text
        rows.append(row.rstrip())
    return "\n".join(rows)
