"""The configuration file: what it may say, and one clear sentence for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.errors import UsageError
from tests.tui.driving import app_on, run
from tests.tui.fakes import FakeRepository, Study
from tui.config import Config, config_file, read_config
from tui.keys import action_ids
from tui.panes import PANES, pane_class


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    return path


def test_it_is_under_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file() == tmp_path / "qslm-opt" / "config.toml"
    assert read_config() == Config(), "no file is needed"


def test_keys_with_and_without_quotes_and_the_theme_are_read(tmp_path: Path) -> None:
    text = '[keymap]\n"lam.up" = "plus"\napp.quit = "ctrl+q,q"\n[dashboard]\ntheme = "nord"\nascii = true\n'
    assert read_config(written(tmp_path, text)) == Config(
        {"lam.up": "plus", "app.quit": "ctrl+q,q"}, "nord", True
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[keymp]\n", "Did you mean 'keymap'?"), ("[dashboard]\nthem = 'x'\n", "Did you mean 'theme'?"),
        ("[dashboard]\ntheme = 3\n", "theme of [dashboard] is 3; write a str."),
        ("[keymap]\n'app.quit' = 3\n", "action app.quit has key 3"), ("keymap = 1\n", "write a table [keymap]"),
        ("[keymap\n", "is not TOML"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_action_or_theme_that_does_not_exist_is_refused_with_the_nearest() -> None:
    for config, says in (
        (Config({"lam.upp": "plus"}), "names no action 'lam.upp'. Did you mean 'lam.up'?"),
        (Config(theme="nrd"), "Did you mean 'nord'?"),
    ):
        with pytest.raises(UsageError, match=r"Did you mean") as caught:
            app_on(FakeRepository(Study()), config=config)
        assert says in str(caught.value)


def test_every_binding_of_ours_has_an_id_and_ids_differ_by_action() -> None:
    ids = action_ids(pane_class(name) for name in PANES)
    for wanted in ("app.quit", "app.stop", "app.export", "lam.up", "table.down", "studies.new", "show.power"):
        assert wanted in ids
    assert len(ids) > 60


async def test_a_moved_key_does_its_action_the_old_one_does_not_and_help_shows_it() -> None:
    app = app_on(FakeRepository(Study().fill()), pane="rank", config=Config({"lam.up": "plus"}))
    async with run(app) as pilot:
        await pilot.pause()
        while app.view is None:
            await pilot.pause()
        await pilot.press("]")
        assert app.lam == 20.0
        await pilot.press("plus")
        assert app.lam == 21.0
        await pilot.press("question_mark")
        await pilot.pause()
        keys = dict((words, key) for key, words in app.screen._keys)  # type: ignore[attr-defined]
        assert keys["Raise λ by one in its second digit"] == app.get_key_display(
            next(b.binding for b in app.screen_stack[0].active_bindings.values() if b.binding.id == "lam.up")
        )
        assert "]" not in keys["Raise λ by one in its second digit"]


async def test_the_theme_of_the_file_is_used_unless_the_environment_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert app_on(FakeRepository(Study()), config=Config(theme="nord")).theme == "nord"
    monkeypatch.setenv("TEXTUAL_THEME", "gruvbox")
    assert app_on(FakeRepository(Study()), config=Config(theme="nord")).theme != "nord"


def test_a_key_that_another_action_needs_is_refused() -> None:
    for keymap, says in (
        ({"app.help": "q"}, "key 'q' of app.help is that of app.quit; give one of them another key."),
        ({"app.help": "f2", "app.quit": "f2"}, "key 'f2' of app.quit is that of app.help"),
    ):
        with pytest.raises(UsageError) as caught:
            app_on(FakeRepository(Study()), config=Config(keymap))
        assert says in str(caught.value)
    app_on(FakeRepository(Study()), config=Config({"app.help": "q", "app.quit": "f2"}))
