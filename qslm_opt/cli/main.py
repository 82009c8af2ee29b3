"""The command ``qslm-opt``, and the one place where errors become a line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from qslm_opt import __version__
from qslm_opt.cli import dashboard, demo, running, study, watch
from qslm_opt.cli.bench import bench
from qslm_opt.cli.compare import compare
from qslm_opt.cli.doctor import doctor
from qslm_opt.cli.log import write_to_log
from qslm_opt.cli.model import app as model_app
from qslm_opt.cli.power import app as power_app
from qslm_opt.cli.proxy import proxy
from qslm_opt.cli.worker import worker
from qslm_opt.errors import QslmError
from qslm_opt.safe import printable

INTERRUPTED = 130

app = typer.Typer(
    name="qslm-opt",
    help="Find the fewest bits that keep a spike-driven language model's metric and fit its memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: Rich's takes twice as long to import as everything else here
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(study.app)
app.add_typer(model_app)
app.add_typer(power_app)
app.command()(worker)
app.command()(proxy)
app.command()(demo.demo)
app.command()(watch.watch)
app.command()(dashboard.dashboard)
app.command()(doctor)
app.command()(compare)
app.command()(bench)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"qslm-opt {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find the fewest bits that keep a spike-driven language model's metric and fit its memory."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code (DESIGN.md section 5)."""
    running.begin()
    write_to_log()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors="replace")  # λ and − on a terminal that has neither
    try:
        code = app(arguments, prog_name="qslm-opt", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has left; nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001  what has no name is raised again
        return _failed(error)
    return code if isinstance(code, int) else 0


def _failed(error: Exception) -> int:
    """Print an error that has a name and return its exit code; raise any other, which is a bug."""
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        sys.stderr.write(f"{error}\n")
        return 2
    if hasattr(error, "format_message"):  # of Typer: a flag or argument that cannot be
        return _say(_sentence(error), getattr(error, "exit_code", 2))
    if isinstance(error, QslmError):
        return _say(str(error), error.exit_code)
    from qslm_opt.search.failures import device_failure

    known = device_failure(error)
    if known is not None:
        return _say(str(known), known.exit_code)
    if "sqlalchemy" in sys.modules:
        from qslm_opt.store import find_database_error, storage_error

        cause = find_database_error(error)
        if cause is not None:
            failure = storage_error(cause)
            return _say(str(failure), failure.exit_code)
    raise error


def _sentence(error: Exception) -> str:
    """Return what Typer found wrong, with the command whose help says more."""
    context = getattr(error, "ctx", None)
    text = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    ended = text if text.endswith("?") else f"{text}."
    return f"{ended} Try '{context.command_path} --help'." if context is not None else ended


def _say(text: str, code: int) -> int:
    sys.stderr.write("error: " + printable(" ".join(text.split())) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(run())
