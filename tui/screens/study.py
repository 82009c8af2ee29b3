"""The screen of a study: header, notice and footer around four panes, which are made when first shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Static

from tui.notices import Notice, notice_of
from tui.panes import pane_class
from tui.screens.base import SizedScreen, dash_of
from tui.text import safe_url
from tui.widgets.keybar import KeyBar
from tui.widgets.paint import text
from tui.widgets.status import StatusBar

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.app import QslmApp
    from tui.model import StudyView
    from tui.power import PowerSpan


class NoticeBar(Static):
    """The sentence under the header; not there when there is nothing to say."""

    DEFAULT_CSS = """
    NoticeBar { height: auto; padding: 0 1; background: $boost; display: none; }
    NoticeBar.-on { display: block; }
    """
    _shown: tuple[Notice | None, int] | None = None

    def show(self, notice: Notice | None) -> None:
        """Show the notice, or nothing."""
        width = self.app.size.width
        if (notice, width) == self._shown:
            return
        self._shown = (notice, width)
        self.set_class(notice is not None, "-on")
        if notice is not None:
            joint = "  " if len(notice.text) + len(notice.command) + 4 <= width else "\n"
            self.update(
                text((notice.text, notice.role), (joint + notice.command if notice.command else "", "bold"))
            )


class Pane(Vertical):
    """One of the study's screens; subclasses give ``body`` and ``show_view``."""

    FOCUS: ClassVar[str] = ""
    """What has the focus at first."""
    POWER: PowerSpan | None = None
    """What of the power recording is read while the pane is in front."""
    NOTES: ClassVar[tuple[str, ...]] = ()
    """Sentences about the pane, for the help."""

    @property
    def dash(self) -> QslmApp:
        """The app, by its own type."""
        return dash_of(self)

    def compose(self) -> ComposeResult:
        """Yield the body."""
        yield from self.body()

    def body(self) -> Iterable[Widget]:
        """Return the pane's widgets."""
        return ()

    def refresh_view(self) -> None:
        """Show the app's current view, when there is one."""
        if self.dash.view is not None:
            self.tick()
            self.show_view(self.dash.view)

    def show_view(self, view: StudyView) -> None:
        """Show a new view."""

    def tick(self) -> None:
        """Show the passing of time."""

    def shown_trials(self, view: StudyView) -> Sequence[TrialRecord]:
        """Return the trials that the pane shows, for an export."""
        return view.trials


class StudyScreen(SizedScreen):
    """Shows one pane at a time."""

    DEFAULT_CSS = "StudyScreen ContentSwitcher { height: 1fr; }"

    def content(self) -> Iterable[Widget]:
        """Return header, notice, panes and footer."""
        yield StatusBar()
        yield NoticeBar()
        yield ContentSwitcher(id="panes")
        yield KeyBar()

    def on_screen_resume(self) -> None:
        """Show what happened while another screen was in front."""
        self.refresh_view()

    async def show_pane(self, mode: str) -> None:
        """Show a pane, and give its main widget the focus."""
        panes = self.query_one("#panes", ContentSwitcher)
        if mode not in {child.id for child in panes.children}:
            await panes.add_content(pane_class(mode)(id=mode))
        panes.current = mode
        self.query_one(StatusBar).mark(mode)
        pane = self.pane
        if pane is not None:
            self.dash.want_power(pane.POWER)
            pane.query_one(pane.FOCUS).focus()
        self.refresh_view()

    @property
    def pane(self) -> Pane | None:
        """The pane in front."""
        shown = self.query_one("#panes", ContentSwitcher).visible_content
        return shown if isinstance(shown, Pane) else None

    def refresh_view(self) -> None:
        """Show the app's current view in the header, the notice and the pane."""
        dash, notice = self.dash, self.query_one(NoticeBar)
        self.query_one("#panes").visible = dash.view is not None
        if dash.view is None:
            notice.show(Notice("dim", f"Reading study {dash.study!r} from {safe_url(dash.url)}"))
            return
        self._show_header()
        self._show_notice(dash.view)
        if self.pane is None:
            self.call_later(self.show_pane, dash.pane)
        else:
            self.pane.refresh_view()

    def tick(self) -> None:
        """Move the clocks."""
        if self.dash.view is not None:
            self._show_header()
            self._show_notice(self.dash.view)
            if self.pane is not None:
                self.pane.tick()

    def _show_notice(self, view: StudyView) -> None:
        dash = self.dash
        said = notice_of(view, dash.lam, dash.url, dash.trouble, dash.starting(view.row))
        self.query_one(NoticeBar).show(said)
        self.query_one(KeyBar).offer(dash.offered(view.row))

    def _show_header(self) -> None:
        view, dash = self.dash.view, self.dash
        if view is not None:
            self.query_one(StatusBar).show(view, view.best(dash.lam), dash.clock())
