"""Options that several commands share, as types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qslm_opt.errors import QslmError, SchemaError

if TYPE_CHECKING:
    from qslm_opt.store import Repository

ProgressKind = Literal["auto", "plain", "none"]


def complete_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the studies that begin with ``incomplete``; none when they cannot be read."""
    try:
        with reading(ctx.params.get("storage")) as repository:
            return [name for name in repository.names() if name.startswith(incomplete)]
    except QslmError:
        return []


Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="URL", envvar="QSLM_OPT_STORAGE", show_envvar=True, show_default=False,
        help="Where studies are kept. [default: sqlite:///qslm-opt.db]",
    ),
]  # fmt: skip
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the study.", autocompletion=complete_names)
]
Lambda = Annotated[
    float | None,
    typer.Option("--lambda", min=0.0, metavar="X", show_default=False,
                 help="Weight of memory in the score; the study's own without it."),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, schema 1.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", show_default=False)
]
Progress = Annotated[
    ProgressKind,
    typer.Option("--progress", help="auto: a bar on a terminal, else one line a trial. plain: lines. none."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes that search together.")]
PowerWindow = Annotated[
    float | None,
    typer.Option("--power-window", metavar="SECONDS", show_default=False,
                 help="Measure a candidate's power for so long; 0: only while it is evaluated. [default: 2]"),
]  # fmt: skip
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", metavar="TIME", show_default=False,
                 help="Stop after so long, 90s, 30m or 1h30m, with the best that is proven by then."),
]  # fmt: skip
Watch = Annotated[bool, typer.Option("--watch", help="Run in the background and open the dashboard.")]


def storage_url(given: str | None) -> str:
    """Return the storage that the user named, else the default one."""
    from qslm_opt.store import default_url

    return given or default_url()


@contextmanager
def reading(storage: str | None) -> Iterator[Repository]:
    """Open a storage for reading; tables of an older release are upgraded first, with a copy kept."""
    with _open(storage_url(storage), read_only=True) as repository:
        yield repository


@contextmanager
def writing(storage: str | None) -> Iterator[Repository]:
    """Open an existing storage for writing."""
    with _open(storage_url(storage), read_only=False) as repository:
        yield repository


def _open(url: str, read_only: bool) -> Repository:
    from qslm_opt.store import open_repository, prepare

    try:
        return open_repository(url, read_only=read_only)
    except SchemaError:
        prepare(url)  # raises it again when the tables are of a newer release
        return open_repository(url, read_only=read_only)


def command(*words: str, url: str) -> str:
    """Return a command line to suggest, with the storage when it is not the default one."""
    import shlex

    from qslm_opt.store import default_url, masked

    where = () if url == default_url() else ("--storage", masked(url))
    return shlex.join(("qslm-opt", *words, *where))
