"""What is shown, as JSON or CSV. No Textual."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord
    from tui.model import StudyView

SCHEMA = 1
COLUMNS = (
    "number", "state", "feasible", "tier", "unit", "bits", "value", "loss", "bytes", "fp32_bytes", "saving",
    "slack_metric", "slack_memory", "used", "seconds", "power_w", "energy_j", "firing_rate", "started",
    "finished", "digest", "uuid", "share",
)  # fmt: skip
"""Columns of the CSV; sizes in bytes, times in local ISO 8601, slack relative (0 or below is feasible).

Below a share of 1 of the data, a trial says nothing of the metric's bound.
"""


def trial_row(record: TrialRecord) -> dict[str, Any]:
    """Return the columns of one trial."""
    known = {key: value for key, value in record.slack.items() if key != "metric" or not record.cheap}
    slack = {f"slack_{key}": value for key, value in known.items()}
    return {name: slack.get(name) if name.startswith("slack_") else getattr(record, name) for name in COLUMNS}


def to_csv(trials: Sequence[TrialRecord]) -> str:
    """Return a table with a header; what is not known is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trial_row(record) for record in trials)
    return out.getvalue()


def to_json(
    view: StudyView, screen: str, lam: float, chosen: int | None, trials: Sequence[TrialRecord]
) -> str:
    """Return one object: what is shown, and the trials with their settings."""
    rows = [{**trial_row(record), "setting": _setting(record)} for record in trials]
    value = {
        "schema": SCHEMA, "study": view.row.name, "screen": screen, "metric": view.metric, "lambda": lam,
        "bound": view.row.bound, "budget": view.row.budget, "state": view.row.state, "chosen": chosen,
        "trials": rows,
    }  # fmt: skip
    return json.dumps(value, indent=1) + "\n"


def _setting(record: TrialRecord) -> Any:
    try:
        return json.loads(record.setting) if record.setting else None
    except ValueError:
        return record.setting
