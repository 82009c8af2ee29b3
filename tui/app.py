"""The dashboard's app: what is shown (study, λ, choice), the keys that change it, and the reader behind it.

The reader's thread posts messages; only handlers here and in the screens touch widgets. Nothing is ever
written to the storage.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen

from qslm_opt.errors import UsageError
from tui.choosing import ChoosingApp
from tui.glyphs import ascii_wanted
from tui.keys import APP_KEYS, commands, key_lines
from tui.messages import ReadFailed, StudiesRead, ViewRead
from tui.reader import Poller, Source, Trouble
from tui.screens.base import SizedScreen
from tui.screens.dialogs import HelpDialog, TrialDialog
from tui.screens.model import ModelPane
from tui.screens.overview import OverviewPane
from tui.screens.rank import RankPane
from tui.screens.start import StartScreen, TroubleScreen
from tui.screens.study import StudyScreen
from tui.screens.trials import TrialsPane
from tui.text import cli_command, exact_lam

if TYPE_CHECKING:
    from qslm_opt.store import StudyRow

PANES = {"overview": OverviewPane, "rank": RankPane, "model": ModelPane, "trials": TrialsPane}
StudyScreen.PANES.update(PANES)
_PANELS = """
.panel { border: round $foreground 30%; border-title-color: $text-accent; border-title-style: bold;
         border-subtitle-color: $text-muted; padding: 0 1; }
.panel:focus-within { border: round $primary; }
.-ascii .panel { border: ascii $foreground 30%; }
.-ascii .panel:focus-within { border: ascii $primary; }
"""


class QslmApp(ChoosingApp):
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
    ) -> None:
        super().__init__()
        self.url, self.study, self.clock = url, name, clock
        self._open_source, self._interval = open_source or partial(_repository, url), interval
        self.pane = pane
        """Which of the study's screens is in front."""
        self._reader: Poller | None = None
        self._turn = 0
        self.studies: list[StudyRow] | None = None
        self.trouble: Trouble | None = None

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

    def _read(self, name: str | None) -> None:
        if self._reader is not None:
            self._reader.stop()
        self._turn += 1
        turn, self.study = self._turn, name
        self.view, self.trouble, self.chosen = None, None, None
        self._reader = Poller(
            self._open_source,
            name,
            on_view=lambda view: self.post_message(ViewRead(turn, view)),
            on_studies=lambda studies: self.post_message(StudiesRead(turn, studies)),
            on_trouble=lambda trouble: self.post_message(ReadFailed(turn, trouble)),
            interval=self._interval,
            clock=self.clock,
        )
        self._reader.start()

    def on_view_read(self, message: ViewRead) -> None:
        """Show the study as it is now."""
        if message.turn != self._turn:
            return
        if self.view is None:
            self.lam = message.view.row.spec.lam
            gc.freeze()  # the trials stay: a full collection over 10,000 of them would hold a key up by 0.2 s
        self.view, self.trouble = message.view, None
        if self.current_mode == "study":
            self.refresh_shown()
        else:
            self.switch_mode("study")

    def on_studies_read(self, message: StudiesRead) -> None:
        """Show the list of studies."""
        if message.turn == self._turn:
            self.studies, self.trouble = message.studies, None
            self.refresh_shown()

    def on_read_failed(self, message: ReadFailed) -> None:
        """Say what is wrong, over what was read last."""
        if message.turn == self._turn:
            self.trouble = message.trouble
            if self.view is None and self.study is not None:
                self.switch_mode("trouble")
            self.refresh_shown()

    @property
    def base_screen(self) -> Screen[object] | None:
        """The screen under any dialog; None while the app closes."""
        return next(iter(self.screen_stack), None)

    def refresh_shown(self) -> None:
        """Show what changed on the screen in front."""
        screen = self.base_screen
        if isinstance(screen, SizedScreen) and screen.is_mounted:
            with suppress(NoMatches):  # the screen is being built, or the app is closing
                screen.refresh_view()

    def _tick(self) -> None:
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
        if self.view is not None and isinstance(screen, StudyScreen):
            self.pane = mode
            await screen.show_pane(mode)

    def action_studies(self) -> None:
        """Go back to the list of studies."""
        self._read(None)
        self.switch_mode("start")

    def command(self) -> str:
        """Return the command line that says the same as this screen."""
        if self.study is None:
            return cli_command("study", "list", url=self.url)
        if self.pane == "rank":
            return cli_command(
                "study", "candidates", self.study, "--lambda", exact_lam(self.lam), url=self.url
            )
        return cli_command("study", "show", self.study, url=self.url)

    def action_copy_command(self) -> None:
        """Copy the equal command line."""
        self.copy_to_clipboard(self.command())
        self.notify(self.command(), title="Copied", markup=False)

    def action_save_svg(self) -> None:
        """Save the screen as an SVG in the working directory."""
        path = Path(f"{self.study or 'qslm-opt'}-{self.pane}-{self.clock():%Y%m%d-%H%M%S}.svg")
        try:
            path.write_text(self.export_screenshot(title=self.picture_title()), encoding="utf-8")
        except OSError as error:
            self.notify(f"{path} cannot be written: {error.strerror}.", severity="error", markup=False)
            return
        self.notify(str(path.absolute()), title="Saved", markup=False)

    def picture_title(self) -> str:
        """Return the title of an exported picture."""
        return f"qslm-opt {self.study or ''}".strip()

    def action_help(self) -> None:
        """Show the keys of this screen and the signs."""
        self.push_screen(HelpDialog(key_lines(self, self.screen)))

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


def main(url: str, name: str | None) -> None:
    """Run the dashboard on ``url``; without ``name`` it starts with the list of studies.

    Raises UsageError when standard input or output is not a terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        words = ("study", "show", name) if name else ("study", "list")
        raise UsageError(f"the dashboard needs a terminal; use `{cli_command(*words, url=url)}` instead.")
    QslmApp(url, name).run()
