"""``qslm-opt study report``: a page that shows what a study found, how, and on what machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qslm_opt.cli.options import Json, Lambda, Name, Storage
from qslm_opt.cli.output import narrate, print_json
from qslm_opt.safe import file_stem


def report(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default=False,
                     help="HTML file to write. [default: NAME-report.html]"),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", show_default=False,
                     help="Folder for the figures as PNG. [default: FILE without .html, then -figures]"),
    ] = None,
    lam: Lambda = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Write one HTML page on a study, finished or not, and its figures as PNG; nothing is run.

    The page has everything in it: it opens offline, in the dark, and prints. --json also prints its numbers.
    """
    from qslm_opt.cli.report.source import read_report
    from qslm_opt.cli.report.write import write

    found = read_report(name, storage, lam)
    page = output or Path(f"{file_stem(name)}-report.html")
    files = write(found, page, figures or page.with_name(f"{page.stem}-figures"))
    if json:
        print_json({"files": [str(path) for path in files], "report": found.to_json()})
    beside = f", and {len(files) - 1} figures to {files[-1].parent}" if files[1:] else ""
    narrate(f"wrote {page}{beside}")
    if found.choice is None:
        narrate(str(found.facts.no_candidate()))
    if open_page:
        _show(page)


def _show(page: Path) -> None:
    """Open a page in the user's browser; where there is none, say so and go on."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        narrate(f"no browser could be started; open {page} yourself")
