"""Numbered migrations of our tables. Each is frozen: it never uses today's ``tables.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    Index,
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


def m002_power(connection: Connection) -> None:
    """Create the tables of power: devices, samples, their states and roll-up, windows."""
    metadata = MetaData()
    Table(
        "qslm_power_device",
        metadata,
        Column("lane", Integer, primary_key=True),
        Column("id", String(36), nullable=False, unique=True),
        Column("study_uuid", String(36), nullable=False, index=True),
        Column("host", String(255), nullable=False),
        Column("pid", Integer, nullable=False),
        Column("device", String(64), nullable=False),
        Column("board", Integer),
        Column("name", String(255), nullable=False),
        Column("source", String(16), nullable=False),
        Column("limit_mw", BigInteger),
        Column("memory_bytes", BigInteger),
        Column("idle_mw", BigInteger),
        Column("idle_std_mw", BigInteger),
        Column("rate_hz", Double),
        Column("started", Double, nullable=False),
        Column("reason", Text),
    )
    Table(
        "qslm_power_sample",
        metadata,
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("power_mw", Integer),
        sqlite_with_rowid=False,
    )
    Table(
        "qslm_power_rollup",
        metadata,
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("count", Integer, nullable=False),
        Column("power_mw", Integer),
        sqlite_with_rowid=False,
    )
    Table(
        "qslm_power_state",
        metadata,
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("memory_kib", BigInteger),
        Column("utilization", Integer),
        Column("sm_clock_mhz", Integer),
        Column("memory_clock_mhz", Integer),
        Column("temperature", Integer),
        Column("throttle", Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    Table(
        "qslm_power_window",
        metadata,
        Column("trial_uuid", String(36), primary_key=True),
        Column("study_uuid", String(36), nullable=False),
        Column("ended", Double, nullable=False),
        Column("measured", JSON, nullable=False),
        Index("ix_qslm_power_window_study", "study_uuid", "ended"),
    )
    metadata.create_all(connection)


def m003_comparison(connection: Connection) -> None:
    """Create the table of comparisons."""
    metadata = MetaData()
    Table(
        "qslm_comparison",
        metadata,
        Column("study_uuid", String(36), primary_key=True),
        Column("part", String(16), primary_key=True),
        Column("digest", String(64), primary_key=True),
        Column("ended", Double, nullable=False),
        Column("measured", JSON, nullable=False),
        Column("items", JSON),
    )
    metadata.create_all(connection)


MIGRATIONS: Sequence[Callable[[Connection], None]] = (m001_initial, m002_power, m003_comparison)
"""In order; the schema's version is how many of them were applied."""
