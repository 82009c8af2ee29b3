"""Reading all that a report needs from a storage."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.options import command, reading, storage_url
from qslm_opt.cli.report.data import Report
from qslm_opt.cli.running import read_facts
from qslm_opt.safe import file_stem

if TYPE_CHECKING:
    from qslm_opt.spec import StudySpec
    from qslm_opt.store import Repository


def read_report(name: str, storage: str | None, lam: float | None = None) -> Report:
    """Read a study, its trials and its power; raise StudyNotFoundError with the nearest name."""
    report = Report(read_facts(name, storage, lam))
    with reading(storage) as repository:
        report = _with_measurements(report, repository)
    url = storage_url(storage)
    made = datetime.now().isoformat(" ", "seconds")
    return replace(report, commands=_commands(report, url, lam), made=made)


def _with_measurements(report: Report, repository: Repository) -> Report:
    row, choice = report.facts.row, report.choice
    return replace(
        report,
        windows=repository.power_windows(row.uuid),
        devices=repository.power_devices(row.uuid),
        chosen_run=None if choice is None else repository.evaluation(row.name, choice.number),
    )


def _commands(report: Report, url: str, lam: float | None) -> dict[str, str]:
    """Return the commands that take the choice away and measure it again; empty without one."""
    name = report.facts.row.name
    go_on = command("study", "resume", name, url=url)
    if report.choice is None:
        return {} if report.facts.row.state in ENDED else {"go on with the search": go_on}
    file = f"{file_stem(name)}.json"
    at = () if lam is None else ("--lambda", repr(lam))
    model, packed = report.facts.row.spec.model, f"{file_stem(name)}-packed"
    spec = report.facts.row.spec
    # No command evaluates the part of a split that was searched on.
    again = {} if spec.hold_back else {"measure it again": _measure(spec, file)}
    return {
        "get the model, packed": command(
            "model", "pack", model, "--study", name, *at, "--output", packed, url=url
        ),
        "write the chosen setting to a file": command(
            "study", "export", name, *at, "--output", file, url=url
        ),
        **again,
    }


def _measure(spec: StudySpec, file: str) -> str:
    """Return the command that evaluates a setting as the study did."""
    given = {
        "--data": spec.data, "--split": spec.split, "--window": spec.window, "--limit": spec.limit,
        "--rescale-every": spec.rescale_every or None,
        "--embed-spike": None if spec.embed_spike == "on" else spec.embed_spike,
        "--matmul": None if spec.matmul == "auto" else spec.matmul,
    }  # fmt: skip
    flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    return shlex.join(
        ["qslm-opt", "model", "evaluate", spec.model, "--task", spec.task, *flags, "--setting", file]
    )
