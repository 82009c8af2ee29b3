"""``python -m tui URL [NAME]``: the dashboard, or a picture of it with ``--snapshot``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from qslm_opt.errors import QslmError


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m tui", description="The dashboard of qslm-opt.")
    made.add_argument("url", help="the storage, for instance sqlite:///qslm-opt.db")
    made.add_argument("name", nargs="?", help="the study; without it the list of studies opens")
    made.add_argument(
        "--snapshot", metavar="OUT.svg", help="write a picture instead of opening the dashboard"
    )
    made.add_argument("--size", default="120x36", help="WIDTHxHEIGHT of the picture (120x36)")
    made.add_argument("--screen", default="overview", help="overview, rank, model, trials or power")
    made.add_argument("--ascii", action="store_true", help="plain ASCII signs")
    return made


def watch(
    url: str, name: str | None, snapshot: str | None, size: str, screen: str, *, ascii_only: bool
) -> None:
    """Open the dashboard, or write a picture of it; raise QslmError on what cannot be."""
    if ascii_only:
        os.environ["QSLM_OPT_ASCII"] = "1"
    if snapshot is None:
        from tui.app import main as run

        run(url, name, screen)
        return
    from tui.snapshot import parse_size
    from tui.snapshot import snapshot as write

    write(url, name, snapshot, parse_size(size), screen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code of the error, 0 without one."""
    given = parser().parse_args(arguments)
    try:
        watch(given.url, given.name, given.snapshot, given.size, given.screen, ascii_only=given.ascii)
    except QslmError as error:
        sys.stderr.write(f"qslm-opt: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
