"""``qslm-opt watch``: the dashboard. It is imported by name, because qslm_opt stands without it."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from qslm_opt.cli.options import Storage, complete_names, reading, storage_url
from qslm_opt.errors import UsageError


def watch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Name of the study; without it the dashboard lists them.",
            show_default=False, autocompletion=complete_names,
        ),
    ] = None,
    storage: Storage = None,
) -> None:  # fmt: skip
    """Open the dashboard on a study, running or not."""
    with reading(storage) as repository:
        if name is not None:
            repository.study(name)
    open_dashboard(storage_url(storage), name)


def open_dashboard(url: str, name: str | None) -> None:
    """Show the dashboard until it is left."""
    try:
        app = import_module("tui.app")
    except ModuleNotFoundError as error:
        raise UsageError(f"the dashboard needs {error.name}; run: pip install textual.") from None
    app.main(url, name)
