from __future__ import annotations

from textual.app import App, ComposeResult

from tests.tui.driving import screen_of
from tui.widgets.table import Column, WindowTable

COLUMNS = (
    Column("number", 7, right=True),
    Column("name", 10, grow=True),
    Column("extra", 8, drop=1),
    Column("more", 8, drop=2),
)


class TableApp(App[None]):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.made: list[int] = []
        self.picked: list[int] = []

    def compose(self) -> ComposeResult:
        yield WindowTable(COLUMNS, empty="nothing at all")

    def on_mount(self) -> None:
        self.table.focus()
        self.table.set_rows(self.count, self.row)

    @property
    def table(self) -> WindowTable:
        return self.query_one(WindowTable)

    def row(self, index: int) -> list[tuple[str, str]]:
        self.made.append(index)
        return [(str(index), "dim"), (f"name {index}", ""), ("extra", "best"), ("more", "")]

    def on_window_table_picked(self, event: WindowTable.Picked) -> None:
        self.picked.append(event.index)


async def test_only_rows_on_screen_are_ever_made() -> None:
    app = TableApp(10_000)
    async with app.run_test(size=(60, 12)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        assert "9999" in screen_of(app) and "number" in screen_of(app).splitlines()[0]
        assert len(set(app.made)) <= 24


async def test_the_cursor_stays_in_sight_and_opens_rows() -> None:
    app = TableApp(100)
    async with app.run_test(size=(60, 12)) as pilot:
        await pilot.press("pagedown", "pagedown", "j", "k", "down", "up", "enter")
        assert app.picked == [20] and "name 20" in screen_of(app)
        await pilot.press("home", "up", "enter")
        assert app.picked == [20, 0]
        await pilot.press("G", "down", "enter")
        assert app.picked[-1] == 99
        await pilot.click(WindowTable, offset=(3, 2), times=2)
        assert app.picked[-1] == 90


async def test_fewer_rows_pull_the_cursor_back() -> None:
    app = TableApp(100)
    async with app.run_test(size=(60, 12)) as pilot:
        await pilot.press("end")
        app.table.set_rows(3, app.row)
        await pilot.pause()
        assert app.table.cursor == 2 and "name 0" in screen_of(app)
        app.table.set_rows(0, app.row)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.picked == [] and "nothing at all" in screen_of(app)


async def test_columns_go_in_their_order_when_there_is_no_room() -> None:
    app = TableApp(3)
    async with app.run_test(size=(60, 12)) as pilot:
        for width, heads in (
            (40, ["number", "name", "extra", "more"]),
            (30, ["number", "name", "extra"]),
            (20, ["number", "name"]),
        ):
            await pilot.resize_terminal(width, 12)
            await pilot.pause()
            assert screen_of(app).splitlines()[0].split() == heads
