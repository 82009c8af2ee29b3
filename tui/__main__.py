"""``python -m tui URL [NAME]``: the dashboard, or a picture of it with ``--snapshot``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from qslm_opt.errors import QslmError


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT; write for instance 120x36")
    return int(match[1]), int(match[2])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m tui", description="The dashboard of qslm-opt.")
    made.add_argument("url", help="the storage, for instance sqlite:///qslm-opt.db")
    made.add_argument("name", nargs="?", help="the study; without it the list of studies opens")
    made.add_argument(
        "--snapshot", metavar="OUT.svg", help="write a picture instead of opening the dashboard"
    )
    made.add_argument("--size", type=_size, default=(120, 36), help="WIDTHxHEIGHT of the picture (120x36)")
    made.add_argument("--screen", default="overview", help="overview, rank, model, trials or power")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code of the error, 0 without one."""
    given = parser().parse_args(arguments)
    try:
        if given.snapshot:
            from tui.snapshot import snapshot

            snapshot(given.url, given.name, given.snapshot, given.size, given.screen)
        else:
            from tui.app import main as run

            run(given.url, given.name)
    except QslmError as error:
        sys.stderr.write(f"qslm-opt: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
