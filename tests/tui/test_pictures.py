"""The screens as pictures at three sizes, compared with stored ones.

A stored picture is the text of the exported SVG, without colours and without what Textual numbers at random.
``QSLM_OPT_PICTURES=renew`` writes them anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.tui import recordings
from tests.tui.driving import app_on, run, svg_text, until
from tests.tui.fakes import FakeRepository, Study
from tui.app import QslmApp
from tui.snapshot import _is_shown

STORED = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 36), (160, 50))
SCREENS = ("overview", "rank", "model", "trials", "power")


def studies() -> tuple[Study, ...]:
    older = Study("older", blocks=2, metric="accuracy").fill("global", running=False)
    older.state = "finished"
    return Study().fill(), older, Study("empty")


def with_power(repository: FakeRepository) -> FakeRepository:
    """Give the running study two GPUs, replayed around its last trials."""
    last = repository.made[0].trials[-1].number
    for index in range(2):
        device = recordings.device(index)
        repository.devices.append(device)
        repository.samples[device.id] = [recordings.sample(t, index) for t in range(20 * last + 25)]
    return repository


async def picture(repository: FakeRepository, name: str | None, screen: str, size: tuple[int, int]) -> str:
    """Return the SVG of a screen."""
    app = app_on(repository, name, pane=screen)
    async with run(app, size) as pilot:
        await until(pilot, lambda: _is_shown(app), "the screen")
        for _ in range(3):
            await pilot.pause()
        assert isinstance(app, QslmApp)
        return app.export_screenshot(title="qslm-opt")


def compare(name: str, svg: str) -> None:
    """Compare with the stored picture, or renew it."""
    text, stored = svg_text(svg) + "\n", STORED / f"{name}.txt"
    if os.environ.get("QSLM_OPT_PICTURES") == "renew":
        STORED.mkdir(exist_ok=True)
        stored.write_text(text, "utf-8")
        return
    assert stored.exists(), f"there is no picture {stored.name}; QSLM_OPT_PICTURES=renew makes it"
    assert text == stored.read_text("utf-8"), f"{stored.name} differs; QSLM_OPT_PICTURES=renew takes it over"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS)
async def test_a_screen_looks_as_stored(screen: str, size: tuple[int, int]) -> None:
    repository = with_power(FakeRepository(*studies()))
    svg = await picture(repository, "opt-14m", screen, size)
    compare(f"{screen}-{size[0]}x{size[1]}", svg)
    assert len(set(re.findall(r"fill: (#[0-9a-fA-F]{6})", svg))) > 5, "it has colours"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_studies_look_as_stored(size: tuple[int, int]) -> None:
    svg = await picture(FakeRepository(*studies()), None, "overview", size)
    compare(f"studies-{size[0]}x{size[1]}", svg)


async def test_no_gpu_and_nothing_yet_look_as_stored() -> None:
    repository = FakeRepository(*studies())
    repository.devices.append(recordings.device(0, source="null", reason="NVML was not found"))
    compare("overview-no-gpu", await picture(repository, "opt-14m", "overview", (80, 24)))
    compare("overview-empty", await picture(FakeRepository(*studies()), "empty", "overview", (80, 24)))


async def test_ascii_looks_as_stored_and_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSLM_OPT_ASCII", "1")
    svg = await picture(with_power(FakeRepository(*studies())), "opt-14m", "overview", (120, 36))
    assert svg_text(svg).isascii()
    compare("overview-ascii", svg)


async def test_without_colour_the_words_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    svg = await picture(with_power(FakeRepository(*studies())), "opt-14m", "overview", (120, 36))
    compare("overview-120x36", svg)
