"""The dashboard's app: what is shown (study, λ, choice), the keys that change it, and the reader behind it.

The reader's thread posts messages; only handlers here and in the screens touch widgets. Nothing is ever
written to the storage.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen

from qslm_opt.errors import UsageError, did_you_mean
from tui.config import Config, check_keymap, check_theme, read_config
from tui.glyphs import ascii_wanted
from tui.keys import APP_KEYS, action_ids, app_keys, commands
from tui.messages import ReadFailed, StudiesRead, ViewRead
from tui.panes import PANES, pane_class
from tui.poller import Poller
from tui.reader import Source, Trouble, is_new
from tui.screens.base import SizedScreen
from tui.screens.dialogs import TrialDialog
from tui.screens.start import StartScreen, TroubleScreen
from tui.screens.study import StudyScreen
from tui.sharing import SharingApp
from tui.text import cli_command, study_command

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow
    from tui.power import PowerSpan
    from tui.reader import StudyLine

CPU_SHARE = 0.1
"""Of one core that the dashboard takes while it is left open, beside a search as fast as it likes."""
_TWICE_SECONDS = 2.0
"""Two times ctrl+c within this ask to stop the search."""
_PANELS = """
.panel { border: round $foreground 30%; border-title-color: $text-accent; border-title-style: bold;
         border-subtitle-color: $text-muted; padding: 0 1; }
.panel:focus-within { border: round $primary; }
.-ascii .panel { border: ascii $foreground 30%; }
.-ascii .panel:focus-within { border: ascii $primary; }
NewStudyDialog.-ascii .arrow { display: none; }
OverviewPane.-low #time-panel { border: none; padding: 0 2; }
"""


class QslmApp(SharingApp):
    """A read-only view of the studies in one storage."""

    TITLE = "qslm-opt"
    DEFAULT_MODE: ClassVar[str] = "study"
    CSS = _PANELS
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        "start": StartScreen,
        "trouble": TroubleScreen,
        "study": StudyScreen,
    }
    BINDINGS: ClassVar[list[BindingType]] = APP_KEYS

    def __init__(
        self,
        url: str,
        name: str | None,
        *,
        open_source: Callable[[], Source] | None = None,
        interval: float = 0.5,
        clock: Callable[[], datetime] = datetime.now,
        pane: str = "overview",
        config: Config | None = None,
        share: float | None = None,
    ) -> None:
        """``share``: of a core that reading and showing may take; then it looks less often."""
        super().__init__()
        self._config = config or Config()
        self._apply_config()
        self.url, self.study, self.clock = url, name, clock
        self._is_new = partial(is_new, url) if open_source is None else lambda: False
        self._open_source, self._interval = open_source or partial(_repository, url), interval
        self.pane = pane
        """Which of the study's screens is in front."""
        self._reader: Poller | None = None
        self._share = share
        self._turn = 0
        self._interrupted_at = float("-inf")
        self.troubles = 0
        """Reads that failed since the app began."""
        self.studies: list[StudyLine] | None = None
        self.trouble: Trouble | None = None

    def _apply_config(self) -> None:
        """Take over the keymap and the theme; raise UsageError on an action or theme that does not exist."""
        config = self._config
        if config.keymap:
            check_keymap(config.keymap, action_ids(pane_class(name) for name in PANES), app_keys())
            self.set_keymap(dict(config.keymap))
        if config.theme is not None and not os.environ.get("TEXTUAL_THEME"):
            check_theme(config.theme, self.available_themes)
            self.theme = config.theme

    def on_mount(self) -> None:
        """Start with the named study, or with the list."""
        self.set_interval(1.0, self._tick)
        self._read(self.study)
        if self.study is None:
            self.switch_mode("start")

    def on_unmount(self) -> None:
        """Let the reader go."""
        if self._reader is not None:
            self._reader.stop()
        self.leave_runs()

    def _read(self, name: str | None) -> None:
        if self._reader is not None:
            self._reader.stop()
        self._turn += 1
        turn, self.study = self._turn, name
        self.view, self.trouble, self.chosen, self.pinned = None, None, None, None
        self._reader = Poller(
            self._open_source,
            name,
            on_view=lambda view: self.post_message(ViewRead(turn, view)),
            on_studies=lambda studies: self.post_message(StudiesRead(turn, studies)),
            on_trouble=lambda trouble: self.post_message(ReadFailed(turn, trouble)),
            new=self._is_new,
            interval=self._interval,
            share=self._share,
            clock=self.clock,
        )
        self._reader.want_power(pane_class(self.pane).POWER)
        self._reader.start()

    def want_power(self, span: PowerSpan | None) -> None:
        """Say which part of the power recording is shown; ``view.power`` follows."""
        if self._reader is not None:
            self._reader.want_power(span)

    def on_view_read(self, message: ViewRead) -> None:
        """Show the study as it is now."""
        if message.turn != self._turn:
            return
        if self.view is None:
            self.lam = message.view.row.spec.lam
            gc.freeze()  # the trials stay: a full collection over 10,000 of them would hold a key up by 0.2 s
            gc.enable()  # it was put off while all was loaded
        self.view, self.trouble = message.view, None
        if self.current_mode == "study":
            self.refresh_shown()
        else:
            self.switch_mode("study")

    def on_studies_read(self, message: StudiesRead) -> None:
        """Show the list of studies."""
        if message.turn == self._turn:
            self.studies, self.trouble = message.studies, None
            gc.enable()
            self.refresh_shown()

    def on_read_failed(self, message: ReadFailed) -> None:
        """Say what is wrong, over what was read last."""
        if message.turn == self._turn:
            self.trouble = message.trouble
            self.troubles += 1
            if self.view is None and self.study is not None:
                self.switch_mode("trouble")
            self.refresh_shown()

    def refresh_shown(self) -> None:
        """Show what changed on the screen in front, and close a question that it answers."""
        self.drop_question()
        screen = self.base_screen
        if isinstance(screen, SizedScreen) and screen.is_mounted:
            with suppress(NoMatches):  # the screen is being built, or the app is closing
                screen.refresh_view()

    def _tick(self) -> None:
        self.follow_runs()
        screen = self.base_screen
        if isinstance(screen, SizedScreen) and screen.is_mounted:
            with suppress(NoMatches):  # as above
                screen.tick()

    def open_study(self, name: str) -> None:
        """Read and show a study."""
        self._read(name)
        self.switch_mode("study")

    def open_trial(self, number: int) -> None:
        """Show all numbers of a trial."""
        if self.view is not None and number in self.view.by_number:
            self.push_screen(TrialDialog(self.view, self.view.by_number[number]))

    async def action_show(self, mode: str) -> None:
        """Show one of the study's screens."""
        screen = self.base_screen
        if self.view is not None and isinstance(screen, StudyScreen) and mode in PANES:
            self.pane = mode
            await screen.show_pane(mode)

    def action_studies(self) -> None:
        """Go back to the list of studies."""
        self._read(None)
        self.switch_mode("start")

    def selected(self) -> StudyRow | None:
        """Return the study that an action is about: the one on screen, or under the list's cursor."""
        screen = self.base_screen
        return screen.selected if isinstance(screen, StartScreen) else super().selected()

    def action_interrupt(self) -> None:
        """The second time: ask how the search shall stop."""
        now = time.monotonic()
        twice, self._interrupted_at = now - self._interrupted_at < _TWICE_SECONDS, now
        row = self.selected()
        if row is not None and self.starting(row):
            self.notify(
                f"{row.name} is starting; it can be stopped once it runs. "
                "q closes the dashboard, the search goes on.",
                markup=False,
            )
        elif row is None or row.state != "running":
            self.notify("q closes the dashboard.")
        elif twice:
            self.action_stop()
        else:
            self.notify(
                "ctrl+c again asks how to stop the search; q closes the dashboard, the search goes on."
            )

    def get_key_display(self, binding: Binding) -> str:
        """Return how a key is shown; by its name where only ASCII is wanted."""
        shown = super().get_key_display(binding)
        return shown if shown.isascii() or not ascii_wanted() else binding.key

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Name every action of the screen for the palette."""
        yield from commands(self, screen)
        yield SystemCommand("Theme", "Choose the colours", self.action_change_theme)


def _repository(url: str) -> Source:
    """Open the storage; SQLAlchemy loads here, in the reader's thread."""
    from qslm_opt.store import open_repository

    return open_repository(url, read_only=True)


def main(url: str, name: str | None, pane: str = "overview", *, begun: bool = False) -> None:
    """Run the dashboard on ``url``; without ``name`` it starts with the list of studies.

    ``begun``: the caller has just started the study's process.

    Raises UsageError when standard input or output is not a terminal, on an unknown screen, and on a
    configuration that cannot be.
    """
    check_screen(pane)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        said = study_command("show", name, url=url) if name else cli_command("study", "list", url=url)
        raise UsageError(f"the dashboard needs a terminal; use `{said}`, or --snapshot, instead.")
    config = read_config()
    if config.ascii:
        os.environ.setdefault("QSLM_OPT_ASCII", "1")
    app = QslmApp(url, name, pane=pane, config=config, share=CPU_SHARE)
    app.begun = name if begun else None
    app.run()


def check_screen(name: str) -> None:
    """Raise UsageError when no screen has this name."""
    if name not in PANES:
        hint = did_you_mean(name, PANES)
        raise UsageError(f"screen {name!r} is unknown; use one of {', '.join(PANES)}.{hint}")
