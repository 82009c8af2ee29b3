"""A picture of the dashboard without a terminal: the README's is made by this."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qslm_opt.errors import StorageError, StudyNotFoundError, UsageError
from qslm_opt.safe import masked
from tui.app import QslmApp, check_screen
from tui.screens.base import MIN_HEIGHT, MIN_WIDTH
from tui.screens.study import StudyScreen

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from tui.reader import Source

_PATIENCE_SECONDS = 30.0


def parse_size(text: str) -> tuple[int, int]:
    """Read ``120x36``; raise UsageError when it is no size, or below what the dashboard needs."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if not match or int(match[1]) < MIN_WIDTH or int(match[2]) < MIN_HEIGHT:
        raise UsageError(
            f"--size {text!r} cannot be; write WIDTHxHEIGHT of at least {MIN_WIDTH}x{MIN_HEIGHT}, "
            "for instance 120x36."
        )
    return int(match[1]), int(match[2])


def snapshot(
    url: str,
    name: str | None,
    out_svg: str | Path,
    size: tuple[int, int] = (120, 36),
    screen: str = "overview",
    *,
    open_source: Callable[[], Source] | None = None,
    clock: Callable[[], datetime] = datetime.now,
) -> None:
    """Write ``screen`` of a study (the list of studies without ``name``) as an SVG of ``size`` cells.

    Raises UsageError on an unknown screen or a file that cannot be written, StudyNotFoundError and
    StorageError when there is nothing to show.
    """
    check_screen(screen)
    app = QslmApp(url, name, open_source=open_source, clock=clock, pane=screen)
    pictures: list[str] = []

    async def pilot(pilot: Pilot[object]) -> None:
        await _settle(app, pilot)
        if app.trouble is None:
            pictures.append(app.export_screenshot(title=app.picture_title()))
        app.exit()

    app.run(headless=True, size=size, auto_pilot=pilot)
    if not pictures:
        trouble = app.trouble
        kind = StudyNotFoundError if trouble and trouble.kind == "missing" else StorageError
        raise kind(trouble.text if trouble else f"{masked(url)} gave no answer in {_PATIENCE_SECONDS:.0f} s.")
    _write(Path(out_svg), pictures[0])


async def _settle(app: QslmApp, pilot: Pilot[object]) -> None:
    """Wait for the first view to be on screen."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE_SECONDS
    while loop.time() < end:
        await pilot.pause()
        if app.trouble is not None or _is_shown(app):
            break
        await asyncio.sleep(0.02)
    for _ in range(3):
        await pilot.pause()


def _is_shown(app: QslmApp) -> bool:
    """Return whether all that the screen needs was read."""
    if app.study is None:
        return app.studies is not None
    pane = app.base_screen.pane if isinstance(app.base_screen, StudyScreen) else None
    if app.view is None or pane is None:
        return False
    return pane.POWER is None or app.view.power is not None


def _write(path: Path, svg: str) -> None:
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"picture {str(path)!r} cannot be written: {error.strerror}; give another path."
        ) from None
