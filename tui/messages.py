"""What the reading thread tells the app: plain values, so that only handlers touch widgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from tui.model import StudyView
    from tui.reader import StudyLine, Trouble


class FromReader(Message):
    """Something from the reader of generation ``turn``; older turns are ignored."""

    def __init__(self, turn: int) -> None:
        super().__init__()
        self.turn = turn


class ViewRead(FromReader):
    """The study changed."""

    def __init__(self, turn: int, view: StudyView) -> None:
        super().__init__(turn)
        self.view = view

    def can_replace(self, message: Message) -> bool:
        """A newer view makes one that was not yet shown needless."""
        return isinstance(message, ViewRead) and message.turn == self.turn


class StudiesRead(FromReader):
    """The list of studies was read."""

    def __init__(self, turn: int, studies: list[StudyLine]) -> None:
        super().__init__(turn)
        self.studies = studies


class ReadFailed(FromReader):
    """Nothing could be read."""

    def __init__(self, turn: int, trouble: Trouble) -> None:
        super().__init__(turn)
        self.trouble = trouble
