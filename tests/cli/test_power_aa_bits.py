"""The widths that ``power aa`` takes: those of ``model evaluate``."""

from __future__ import annotations

from typing import Any

import pytest

from qslm_opt.cli import power_aa
from qslm_opt.cli.main import run
from qslm_opt.errors import DataError
from qslm_opt.formats import Bits


@pytest.mark.parametrize(("word", "width"), [("1.58", 1.58), ("1", 1), ("8", 8), ("4.0", 4)])
def test_the_setting_has_the_width_that_was_asked_for(
    word: str, width: Bits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def setting_of(spec: object, hierarchy: object, bits: Bits | None, scope: str) -> object:
        asked.append(bits)
        raise DataError("that is all this test wants to know.")

    monkeypatch.setattr(power_aa, "setting_of", setting_of)
    monkeypatch.setattr(power_aa, "_arms", lambda first, precisions: [])
    monkeypatch.setattr(power_aa, "meter_of", FakeMeter)
    monkeypatch.setattr(power_aa, "open_session", lambda spec, narrate: FakeSession())
    run(["power", "aa", "demo", "--task", "demo", "--bits", word])
    assert "that is all this test wants to know" in capsys.readouterr().err
    assert asked == [width]
    assert type(asked[0]) is type(width), "a whole number of bits is written as one"


@pytest.mark.parametrize("word", ["2.5", "nan", "inf", "0", "-4"])
def test_another_width_is_refused_before_a_model_is_loaded(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(power_aa, "open_session", lambda *_: pytest.fail("it was loaded"))
    assert run(["power", "aa", "demo", "--task", "demo", f"--bits={word}"]) == 2
    assert word in capsys.readouterr().err


class FakeSession:
    """Has what is read before the setting is made."""

    hierarchy = None


class FakeMeter:
    """A meter that can be read."""

    source = "toy"

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> FakeMeter:
        return self

    def __exit__(self, *_: object) -> None:
        pass
