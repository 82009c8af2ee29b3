"""Numbered migrations of our tables. Each is frozen: it never uses today's ``tables.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)


def m001_initial(connection: Connection) -> None:
    """Create the study and run tables."""
    metadata = MetaData()
    Table(
        "qslm_study",
        metadata,
        Column("uuid", String(36), primary_key=True),
        Column("name", String(100), nullable=False),
        Column("created", Double, nullable=False),
        Column("spec", JSON, nullable=False),
        Column("fingerprint", JSON, nullable=False),
        Column("baseline", JSON),
        Column("hierarchy", JSON, nullable=False),
        Column("block_order", JSON, nullable=False),
        Column("progress", JSON, nullable=False),
        Column("budget", BigInteger, nullable=False),
        Column("state", String(16), nullable=False),
        Column("state_since", Double, nullable=False),
        Column("reason", Text, nullable=False),
        Column("stop_requested", Double),
        Column("extra", JSON),
        Column("revision", Integer, nullable=False),
    )
    Table(
        "qslm_run",
        metadata,
        Column("uuid", String(36), primary_key=True),
        Column("host", String(255), primary_key=True),
        Column("pid", Integer, primary_key=True, autoincrement=False),
        Column("started", Double, nullable=False),
        Column("heartbeat", Double, nullable=False),
        Column("phase", String(64), nullable=False),
    )
    metadata.create_all(connection)


MIGRATIONS: Sequence[Callable[[Connection], None]] = (m001_initial,)
"""In order; the schema's version is how many of them were applied."""
