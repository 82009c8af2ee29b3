"""``qslm-opt proxy``: one storage for workers that reach this host but not its database."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from qslm_opt.cli.options import Storage, storage_url
from qslm_opt.cli.output import narrate
from qslm_opt.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def proxy(
    storage: Storage = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 13000,
) -> None:
    """Serve a storage by gRPC until Ctrl-C: other hosts give --storage grpc://HOST:PORT.

    This process alone opens the database. There is neither a password nor encryption: beyond this host, use
    a tunnel or a network that you trust.
    """
    from qslm_opt.search.proxy import make_server
    from qslm_opt.store import is_grpc, masked

    url = storage_url(storage)
    if is_grpc(url):
        raise UsageError(f"storage {url} is a proxy itself; give the database that is to be served.")
    server, bound, close = make_server(url, host, port)
    server.start()
    narrate(f"serving {masked(url)} as grpc://{host}:{bound} until Ctrl-C")
    if host not in LOOPBACK:
        narrate("everybody who reaches that address can read and write its studies")
    try:
        threading.Event().wait()
    finally:
        server.stop(grace=5).wait()
        close()
