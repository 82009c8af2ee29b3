"""``qslm-opt dashboard``: optuna-dashboard on the same storage, with our constraints."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from qslm_opt.cli.options import Storage, reading, storage_url
from qslm_opt.cli.output import narrate
from qslm_opt.errors import UsageError
from qslm_opt.safe import is_loopback, open_words


def dashboard(
    storage: Storage = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Serve optuna-dashboard: constraints shown, and the best trial is a feasible one."""
    if find_spec("optuna_dashboard") is None:
        raise UsageError("optuna-dashboard is not installed; run: pip install 'qslm-opt[dashboard]'.")
    with reading(storage):
        pass
    from qslm_opt.search.dashboard_storage import serve

    if not is_loopback(host):
        narrate(open_words(host))
    narrate(f"serving http://{host}:{port}/ until Ctrl-C")
    try:
        serve(storage_url(storage), host, port)
    except OSError as error:
        text = f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host."
        raise UsageError(text) from None
