"""A PostgreSQL server of the tests' own: Debian's programs, a temporary folder, loopback, no root.

    python -m tests.postgres          prints the URL of an empty database, and serves it until Ctrl-C
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import pytest

WAIT_SECONDS = 120
SETTINGS = (
    "listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=16MB", "max_connections=60"
)  # fmt: skip
_numbers = count()


def why_not() -> str:
    """Return why there can be no server here; empty when there can."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'qslm-opt[postgres]'"
    if not programs():
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and not _other_user():
        return "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'"
    return ""


def programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, the newest that Debian installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    there = shutil.which("initdb")
    return found[-1].parent if found else Path(there).resolve().parent if there else None


class Server:
    """A running server; ``url`` makes a database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self._bin = folder, _free_port(), programs()
        self._user = _other_user() if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "qslm", "--auth=trust", "-E", "UTF8")
        options = [word for setting in SETTINGS for word in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [f"{self._bin}/postgres", "-D", str(folder / "data"), "-p", str(self.port), *options],
                stdout=log, stderr=log, cwd=folder, user=self._user,
            )  # fmt: skip
        self._wait()

    def url(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"study{next(_numbers)}"
        self._sql(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://qslm@127.0.0.1:{self.port}/{name}"

    def restart(self) -> None:
        """Break all connections, as a server that crashed and came back does."""
        self._sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def stop(self) -> None:
        """End the server at once."""
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        self._process.wait(WAIT_SECONDS)

    def _sql(self, query: str) -> None:
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user=qslm dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(query)  # type: ignore[arg-type]

    def _wait(self) -> None:
        import psycopg

        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self._sql("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.1)

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([f"{self._bin}/{program}", *words], check=True, capture_output=True, cwd=self.folder,
                       user=self._user)  # fmt: skip


@contextmanager
def serving() -> Iterator[Server]:
    """Start a server in a temporary folder; end it and remove the folder."""
    folder = Path(mkdtemp(prefix="qslm-pg-"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server for the tests of one file; skips them, with the reason, where there can be none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with serving() as server:
        yield server


def _other_user() -> str | None:
    names = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


if __name__ == "__main__":
    with serving() as here:
        sys.stdout.write(here.url() + "\n")
        sys.stdout.flush()
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(0)
