"""``qslm-opt watch``: the dashboard. It is imported by name, because qslm_opt stands without it."""

from __future__ import annotations

import gc
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from qslm_opt.cli.options import Storage, complete_names, reading, storage_url
from qslm_opt.cli.output import narrate
from qslm_opt.errors import UsageError


def watch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Name of the study; without it the dashboard lists them.",
            show_default=False, autocompletion=complete_names,
        ),
    ] = None,
    screen: Annotated[
        str, typer.Option("--screen", help="overview, rank, model, trials or power; keys 1 to 5 change it.")
    ] = "overview",
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", metavar="FILE.svg", show_default=False,
                     help="Write a picture of the screen; needs no terminal."),
    ] = None,
    size: Annotated[str, typer.Option("--size", help="Columns and rows of the picture.")] = "120x36",
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Plain ASCII signs only.")] = False,
    storage: Storage = None,
) -> None:  # fmt: skip
    """Open the dashboard on a study, running or not; it only reads.

    Keys and theme: $XDG_CONFIG_HOME/qslm-opt/config.toml, tables [keymap] and [dashboard].
    """
    url = storage_url(storage)
    if name is not None or not _dashboard("tui.reader").is_new(url):
        with reading(storage) as repository:
            if name is not None:
                repository.study(name)
    if ascii_only:
        os.environ["QSLM_OPT_ASCII"] = "1"
    if snapshot is None:
        _dashboard("tui.app").main(url, name, screen)
        return
    picture = _dashboard("tui.snapshot")
    picture.snapshot(url, name, snapshot, picture.parse_size(size), screen)
    narrate(f"wrote {snapshot}")


def open_dashboard(url: str, name: str) -> None:
    """Show a study, whose process the caller has just started, until the dashboard is left."""
    _dashboard("tui.app").main(url, name, begun=True)


def _dashboard(module: str) -> Any:
    gc.disable()  # until the first screen: collections take a third of the time to open a large study
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"the dashboard needs {error.name}; run: pip install textual.") from None
