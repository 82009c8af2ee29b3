"""The tables: our own ``qslm_*`` and, of Optuna's, the columns that we read."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Double,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    column,
    table,
)

METADATA = MetaData()

SCHEMA = Table(
    "qslm_schema",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("written_by", String(64), nullable=False),
)

STUDY = Table(
    "qslm_study",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("created", Double, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("fingerprint", JSON, nullable=False),
    Column("baseline", JSON(none_as_null=True)),
    Column("hierarchy", JSON, nullable=False),
    Column("block_order", JSON, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("budget", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_since", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("stop_requested", Double),
    Column("extra", JSON(none_as_null=True)),
    Column("revision", Integer, nullable=False),
)
"""One row a study. Times are seconds since 1970; ``revision`` counts the writes.

``stop_requested`` is when somebody asked, null when nobody did. ``extra`` lists the digests that were
measured ahead and not needed, null for none.
"""

RUN = Table(
    "qslm_run",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("started", Double, nullable=False),
    Column("heartbeat", Double, nullable=False),
    Column("phase", String(64), nullable=False),
)
"""One row a process that works on the study of this uuid."""

POWER_DEVICE = Table(
    "qslm_power_device",
    METADATA,
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
"""One row a process and device of a study. ``lane`` is the short key of its samples."""

POWER_SAMPLE = Table(
    "qslm_power_sample",
    METADATA,
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("power_mw", Integer),
    sqlite_with_rowid=False,
)
"""Power, many times a second. ``at_ms`` counts from the device's ``started``, here and below."""

POWER_ROLLUP = Table(
    "qslm_power_rollup",
    METADATA,
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("power_mw", Integer),
    sqlite_with_rowid=False,
)
"""Mean power of ``count`` samples; ``at_ms`` is the last one's."""

POWER_STATE = Table(
    "qslm_power_state",
    METADATA,
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
"""The rest of a sample, valid until the next row: once a second where it changed, at once for a new limit.

``utilization`` is in percent, ``temperature`` in °C, ``throttle`` in the bits of ``results.THROTTLES``.
"""

POWER_WINDOW = Table(
    "qslm_power_window",
    METADATA,
    Column("trial_uuid", String(36), primary_key=True),
    Column("study_uuid", String(36), nullable=False),
    Column("ended", Double, nullable=False),
    Column("measured", JSON, nullable=False),
    Index("ix_qslm_power_window_study", "study_uuid", "ended"),
)
"""The PowerWindow of a trial; ``ended`` is when its window did."""

COMPARISON = Table(
    "qslm_comparison",
    METADATA,
    Column("study_uuid", String(36), primary_key=True),
    Column("part", String(16), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("ended", Double, nullable=False),
    Column("measured", JSON, nullable=False),
    Column("items", JSON(none_as_null=True)),
)
"""A setting's Comparison with the unquantized model on a ``part`` of the data: searched, or held back.

``digest`` is the setting's, or ``baseline``; ``items`` are the Items that it was made of.
"""

OPTUNA_STUDIES = table("studies", column("study_id", Integer), column("study_name", String))
OPTUNA_STUDY_ATTRIBUTES = table(
    "study_user_attributes", column("study_id", Integer), column("key", String), column("value_json", Text)
)
OPTUNA_TRIALS = table(
    "trials",
    column("trial_id", Integer),
    column("number", Integer),
    column("study_id", Integer),
    column("state", String),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
OPTUNA_USER_ATTRIBUTES = table(
    "trial_user_attributes",
    column("trial_user_attribute_id", Integer),
    column("trial_id", Integer),
    column("key", String),
    column("value_json", Text),
)
OPTUNA_SYSTEM_ATTRIBUTES = table(
    "trial_system_attributes",
    column("trial_system_attribute_id", Integer),
    column("trial_id", Integer),
    column("key", String),
    column("value_json", Text),
)
OPTUNA_VALUES = table(
    "trial_values", column("trial_id", Integer), column("objective", Integer), column("value", Float),
    column("value_type", String),
)
OPTUNA_PARAMS = table(
    "trial_params",
    column("param_id", Integer),
    column("trial_id", Integer),
    column("param_name", String),
    column("param_value", Float),
    column("distribution_json", Text),
)
OPTUNA_REPORTS = table("trial_intermediate_values", column("trial_id", Integer))
