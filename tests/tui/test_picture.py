"""The README's picture of the dashboard is what the dashboard draws today.

``QSLM_OPT_PICTURES=renew python -m pytest tests/tui/test_picture.py`` draws it anew after a screen changed.
The study and its recording are invented (``tests/tui/fakes.py`` and ``recordings.py``).
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from tests.tui.driving import svg_text
from tests.tui.fakes import START, FakeRepository, Study
from tests.tui.recordings import recorded
from tui.snapshot import snapshot

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "dashboard.svg"


def watched() -> FakeRepository:
    """Return a study in its module tier with the power of every window on its trial."""
    study = Study(blocks=8).fill()
    repository = recorded(study)
    for i, trial in enumerate(study.trials):
        window = repository.windows.get(trial.uuid)
        if window is not None:
            study.trials[i] = replace(trial, power_w=window.mean_w, energy_j=window.energy_j)
    return repository


def draw(out: Path) -> None:
    """Draw the overview of the invented study as the README shows it."""
    repository = watched()
    now = START + timedelta(seconds=20 * len(repository.made[0].trials) + 5)

    def clock() -> datetime:
        return now

    snapshot("sqlite:///qslm-opt.db", "opt-14m", out, (120, 36), open_source=lambda: repository, clock=clock)


def test_the_readme_shows_the_dashboard_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "dashboard.svg"
    draw(out)
    if os.environ.get("QSLM_OPT_PICTURES") == "renew":
        PICTURE.write_text(out.read_text("utf-8"), encoding="utf-8")
    drawn, kept = (svg_text(path.read_text("utf-8")) for path in (out, PICTURE))
    assert drawn == kept, "the screen changed; QSLM_OPT_PICTURES=renew draws the picture anew"


def test_the_picture_answers_a_first_look(tmp_path: Path) -> None:
    text = svg_text(PICTURE.read_text("utf-8"))
    assert "● running" in text and "Tiers" in text, "what runs and how far it is"
    assert "◆" in text and "best" in text.lower(), "the best candidate"
    assert "λ from" in text, "what a larger λ would choose"
    assert "why" in text.lower() or "keeps" in text or "bits" in text, "what holds its bits"
    assert "W" in text and "700" in text, "power on 0 to the limit"
    for line in text.splitlines():
        assert len(line) <= 120
