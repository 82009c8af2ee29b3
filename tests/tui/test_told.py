"""What the dashboard says about the model: family, T, tokenizer, config keys, rates before and after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qslm_opt.store import StudyRow
from tests.tui.driving import screen_of, shown, until
from tests.tui.fakes import Study
from tui.lanes import Lane, done_of
from tui.reading import reading_line, reading_of


class Told(Study):
    """A study of a mapping file at T = 4 that fires at 0.531 before and at 0.535 after."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(
            self.spec, model="/models/mine", family="/models/snn.toml", tokenizer="/tok/vocab.txt",
            timesteps=4, config={"length": 64},
        )  # fmt: skip
        assert self.baseline is not None
        self.baseline = replace(self.baseline, evaluation={"firing_rate": 0.531})

    def row(self) -> StudyRow:
        """Return it with the hash of its mapping file."""
        return replace(super().row(), fingerprint={"config": '{"mapping": "68d2ab00ffee11"}'})

    def fires(self) -> Told:
        """Fill it with trials, each of which fires."""
        self.fill()
        self.trials = [replace(t, firing_rate=0.535) for t in self.trials]
        return self


def test_all_that_was_given_is_named_and_paths_are_cut_to_names_where_they_are_too_long() -> None:
    row = Told().row()
    whole = (
        "model /models/mine  family /models/snn.toml (SHA-256 68d2ab00ffee…), spikegpt  T 4  "
        "tokenizer /tok/vocab.txt  config length=64"
    )
    assert reading_line(row, 200) == whole
    short = "model mine  family snn.toml (SHA-256 68d2ab00ffee…), spikegpt  T 4  tokenizer vocab.txt  "
    assert reading_line(row, len(whole) - 1) == short + "config length=64"
    assert len(reading_line(row, 40)) == 40
    assert reading_of(Study().row()) == {"model": "demo", "family": "spikegpt"}
    hostile = replace(row, spec=replace(row.spec, model="a\x1b[2J"))
    assert "\x1b" not in reading_line(hostile, 200)


async def test_the_model_screen_says_how_the_model_was_read_and_the_help_does_on_a_low_terminal() -> None:
    async with shown(Told().fires(), pane="model") as pilot:
        top = screen_of(pilot.app).splitlines()[2]
        for words in ("snn.toml (SHA-256 68d2ab00ffee…)", "vocab.txt", "length=64", "T 4"):
            assert words in top
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "snn.toml" not in screen_of(pilot.app))
        await pilot.press("question_mark")
        await until(pilot, lambda: "Help: model" in screen_of(pilot.app))
        text = screen_of(pilot.app)
        for words in ("/models/snn.toml (SHA-256 68d2ab00ffee…)", "tokenizer /tok/vocab.txt", "length=64"):
            assert words in text, text


@pytest.mark.parametrize("size", [(120, 36), (160, 50)])
async def test_the_header_has_the_time_steps_and_both_firing_rates(size: tuple[int, int]) -> None:
    async with shown(Told().fires(), size=size) as pilot:
        head = screen_of(pilot.app).splitlines()[0]
        assert "  T 4  " in head and "  firing 0.531 → 0.535  " in head, head


async def test_the_header_says_what_is_known_of_the_rates() -> None:
    study = Told()
    study.fill()
    async with shown(study) as pilot:
        assert "  firing 0.531  " in screen_of(pilot.app).splitlines()[0]
    async with shown(Study().fill()) as pilot:
        assert "firing" not in screen_of(pilot.app).splitlines()[0]


async def test_totals_are_about_so_many_in_the_header_and_the_lanes() -> None:
    assert [done_of(3, total) for total in (None, 9, 3)] == ["3", "3/~9", "3/3"]
    assert Lane("block", 2, 14, None, "active").count == "2/~14"
    assert Lane("block", 2, 14, None, "done").count == "2/14"
    async with shown(Study().fill()) as pilot:
        head, *lines = screen_of(pilot.app).splitlines()
        assert "tier module 3/~84 " in head
        (lane,) = (line for line in lines if "▶ module" in line)
        assert " 3/~84 " in lane and any("sensitivity" in line and " 42/42 " in line for line in lines)
