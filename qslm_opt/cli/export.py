"""What ``study export`` writes: one setting as JSON, all trials as CSV or JSON lines, or the whole study."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qslm_opt.cli.output import json_line, narrate
from qslm_opt.errors import UsageError

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.results import TrialRecord

ExportFormat = Literal["json", "csv", "jsonl", "study"]
COLUMNS = (
    "trial", "state", "tier", "unit", "bits", "value", "bytes", "saving", "feasible", "slack_metric",
    "slack_memory", "loss", "used", "seconds", "power_w", "energy_j", "firing_rate", "started", "finished",
    "digest", "setting", "share",
)  # fmt: skip
"""Columns of CSV and keys of JSON lines, in order; below a share of 1, a trial says nothing of the metric."""


def export_text(facts: StudyFacts, fmt: ExportFormat, trial: int | None) -> str:
    """Return the exported text; raise UsageError or InfeasibleError when there is no such setting."""
    if fmt == "json":
        return json.dumps(json.loads(chosen_trial(facts, trial).setting), indent=2) + "\n"
    rows = [_row(t) for t in facts.trials]
    if fmt == "jsonl":
        return "".join(_line(row) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_text(text: str, output: Path | None) -> None:
    """Write to a file, or to stdout."""
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        text = f"--output {str(output)!r} cannot be written ({error.strerror}); give another path."
        raise UsageError(text) from None
    narrate(f"wrote {output}")


def export_study(name: str, url: str, output: Path | None) -> None:
    """Write the whole study as a study file, or to stdout."""
    from qslm_opt.store import read_study, write_archive, write_records

    records = read_study(url, name)
    if output is None:
        write_records(records, sys.stdout.buffer)
        return
    write_archive(records, output)
    narrate(f"wrote {output}; read it with: qslm-opt study import {shlex.quote(str(output))}")


def chosen_trial(facts: StudyFacts, trial: int | None) -> TrialRecord:
    """Return the trial of that number, None: the best; UsageError or InfeasibleError when there is none."""
    if trial is None:
        if facts.best is None:
            raise facts.no_candidate("; --trial N takes the setting of any trial")
        return facts.best.record
    found = next((t for t in facts.trials if t.number == trial and t.setting), None)
    if found is None:
        raise UsageError(
            f"study {facts.row.name!r} has no trial {trial} with a setting; "
            f"its {len(facts.trials)} trials are numbered from 0."
        )
    return found


def _line(row: dict[str, Any]) -> str:
    return json_line({**row, "setting": json.loads(row["setting"] or "null")})


def _row(t: TrialRecord) -> dict[str, Any]:
    values = (
        t.number, t.state, t.tier, t.unit, t.bits, t.value, t.bytes, t.saving, t.feasible,
        None if t.cheap else t.slack.get("metric"), t.slack.get("memory"), t.loss, t.used, t.seconds,
        t.power_w, t.energy_j, t.firing_rate, t.started, t.finished, t.digest, t.setting, t.share,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
