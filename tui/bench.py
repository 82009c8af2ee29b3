"""``python -m tui.bench URL NAME MODE``: the dashboard without a terminal, measuring itself.

It prints JSON lines. ``{"shown": true, …}`` comes once all trials are read and the first screen is painted;
``open`` ends there, ``watch`` then idles for some seconds, ``lam`` turns λ so many times.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from tui.app import QslmApp

_PATIENCE_SECONDS = 120.0
_SIZE = (120, 36)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode."""
    parser = argparse.ArgumentParser(prog="python -m tui.bench")
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("mode", choices=("open", "watch", "lam"))
    parser.add_argument("--amount", type=float, default=10.0, help="seconds to watch, or turns of λ")
    given = parser.parse_args(arguments)
    gc.disable()  # as 'qslm-opt watch' does
    from tui.app import CPU_SHARE, QslmApp

    pane = "rank" if given.mode == "lam" else "overview"
    app = QslmApp(given.url, given.name, pane=pane, share=CPU_SHARE)

    async def measure(pilot: Pilot[object]) -> None:
        await _shown(app, pilot)
        _say(shown=True, cpu_seconds=time.process_time(), trials=len(app.view.trials) if app.view else 0)
        if given.mode == "watch":
            await _watch(app, given.amount)
        elif given.mode == "lam":
            await _turn(pilot, int(given.amount))
        app.exit()

    app.run(headless=True, size=_SIZE, auto_pilot=measure)
    return 0


async def _shown(app: QslmApp, pilot: Pilot[object]) -> None:
    """Wait until the first full screen is painted."""
    from tui.screens.study import StudyScreen

    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        screen = app.base_screen
        pane = screen.pane if isinstance(screen, StudyScreen) else None
        if app.view is not None and pane is not None:
            await pilot.pause()
            return
        await asyncio.sleep(0.002)
    sys.exit(f"nothing was shown in {_PATIENCE_SECONDS:.0f} s")


async def _watch(app: QslmApp, seconds: float) -> None:
    """Say how much of a core the dashboard takes while it is left open."""
    await asyncio.sleep(1.0)
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _say(cpu_share=cpu / wall, seconds=wall, troubles=app.troubles)


async def _turn(pilot: Pilot[object], times: int) -> None:
    """Say how long a key that turns λ takes until the screen is settled, and an idle look at it."""
    turned = [await _timed(lambda: pilot.press("]"), pilot) for _ in range(times)]
    _say(turn_ms=turned)


async def _timed(act: Callable[[], Any], pilot: Pilot[object]) -> float:
    began = time.perf_counter()
    await act()
    await pilot.pause()
    return 1e3 * (time.perf_counter() - began)


def _say(**values: object) -> None:
    import json

    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
