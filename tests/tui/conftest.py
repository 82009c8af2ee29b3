"""The terminal's own wishes must not reach the dashboard under test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "QSLM_OPT_ASCII", "TEXTUAL_THEME", "QSLM_OPT_STORAGE"):
        monkeypatch.delenv(name, raising=False)
