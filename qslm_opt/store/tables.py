"""The tables: our own ``qslm_*`` and, of Optuna's, the columns that we read."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Double,
    Float,
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
OPTUNA_PARAMS = table(
    "trial_params",
    column("param_id", Integer),
    column("trial_id", Integer),
    column("param_name", String),
    column("param_value", Float),
    column("distribution_json", Text),
)
OPTUNA_REPORTS = table("trial_intermediate_values", column("trial_id", Integer))
