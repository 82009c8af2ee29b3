"""The one line under the header: what a state means and which command goes on from it. No Textual."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from qslm_opt.safe import file_stem
from tui.glyphs import glyphs, plain
from tui.text import (
    byte_unit,
    bytes_text,
    cli_command,
    exact_lam,
    lam_text,
    metric_text,
    percent,
    safe_url,
    significant,
    study_command,
)
from tui.times import moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qslm_opt.results import TrialRecord
    from tui.model import StudyView
    from tui.reader import Trouble

STATE_SIGNS: Mapping[str, tuple[str, str]] = {
    "created": ("waiting", "dim"),
    "running": ("feasible", "best"),
    "stopped": ("stopped", "infeasible"),
    "finished": ("done", "best"),
    "infeasible": ("failed", "infeasible"),
    "dead": ("gone", "failed"),
}
"""Study state → (name of its glyph, colour role)."""


@dataclass(frozen=True)
class Notice:
    """A sentence for the user, and a command line that goes on from here."""

    role: str
    text: str
    command: str = ""


def state_parts(state: str) -> tuple[str, str]:
    """Return (sign and word, role) of a study's state."""
    sign, role = STATE_SIGNS.get(state, ("waiting", "dim"))
    return f"{getattr(glyphs(), sign)} {state}", role


def notice_of(
    view: StudyView, lam: float, url: str, trouble: Trouble | None = None, starting: str = ""
) -> Notice | None:
    """Return what is worth saying about the study, None when all is as usual.

    ``starting`` says that its process is on its way, where that is known.
    """
    if trouble is not None:
        return _trouble(view, trouble)
    if starting:
        return Notice("dim", starting)
    state, name = view.row.state, view.row.name
    resume = study_command("resume", name, url=url)
    if state == "dead":
        return Notice("failed", f"The process is gone{_last_sign(view)}. Resume with", resume)
    if state == "stopped":
        return Notice("infeasible", f"{_sentence('Stopped', view.row.reason)} Resume with", resume)
    if state == "running" and view.row.stop_requested:
        return Notice("infeasible", "Asked to stop: it ends after the running trial.")
    if state == "infeasible" or (state == "finished" and not view.feasible):
        if not view.candidates:
            return Notice("infeasible", _sentence("Ended, and nothing is feasible", view.row.reason))
        return Notice("infeasible", f"Finished, and nothing is feasible.{closest_text(view)} {_relax(view)}")
    if state == "finished":
        turned = () if lam == view.row.spec.lam else ("--lambda", exact_lam(lam))
        at = f" (λ {lam_text(lam)})" if turned else ""
        where = ("--study", name, *turned, "--output", f"{file_stem(name)}-packed")
        pack = cli_command("model", "pack", view.row.spec.model, *where, url=url)
        return Notice("best", plain(f"Finished{at}: {_winner(view, lam)}. Take it away with"), pack)
    if not view.trials:
        waits = (
            "Trials follow."
            if view.row.baseline
            else "The unquantized baseline is being measured; trials follow."
        )
        if state == "created":
            return Notice("dim", "Created, not started. Start with", resume)
        return Notice("dim", f"No trial yet. {waits}")
    if view.candidates and not view.feasible:
        return Notice("infeasible", f"Nothing feasible yet.{closest_text(view)}")
    return None


def _sentence(word: str, reason: str) -> str:
    """Return ``Stopped: by Ctrl-C.``"""
    return f"{word}: {reason.strip().rstrip('.')}." if reason.strip() else f"{word}."


def closest_text(view: StudyView) -> str:
    """Return `` Closest: #97, memory 3.1 % over its limit.``, empty without a verdict."""
    record = view.closest
    if record is None:
        return ""
    over = [
        f"{view.metric if key == 'metric' else key} {significant(100 * slack, 2)} % past its limit"
        for key, slack in record.slack.items()
        if slack > 0
    ]
    return f" Closest: #{record.number}, {' and '.join(over) or 'not measured to its end'}."


def pruned_why(record: TrialRecord, metric: str) -> str:
    """Return in two words why a trial was pruned or is not feasible; empty when it is feasible."""
    if record.state == "failed":
        return "failed"
    if record.cheap and record.state == "pruned":
        return record.share_text
    if record.tier == "sensitivity" and record.state == "complete" and not record.feasible:
        return "sensitivity"
    if record.state not in ("complete", "pruned") or record.feasible:
        return ""
    over = {key: slack for key, slack in record.slack.items() if slack > 0}
    if not over:
        return "not run" if record.value is None else ""
    key = max(over, key=lambda k: over[k])
    word = key if key == "memory" else {"accuracy": "acc", "perplexity": "ppl"}.get(metric, metric)
    return f"{word} !{significant(100 * over[key], 2) if over[key] < 10 else '>1000'} %"


def _trouble(view: StudyView, trouble: Trouble) -> Notice:
    at = f"Shown is what was read at {view.read_at:%H:%M:%S}"
    if trouble.kind == "missing":
        return Notice("failed", f"The study is gone from the storage. {at}.")
    if trouble.kind == "newer":
        return Notice("failed", f"{trouble.text} {at}.")
    return Notice("failed", f"The storage does not answer (attempt {trouble.attempt}): {trouble.text} {at}.")


def _last_sign(view: StudyView) -> str:
    row, seen = view.row, moment(view.row.heartbeat)
    who = f"pid {row.pid} on {row.host}" if row.pid and row.host else ""
    when = f"last sign at {seen:%H:%M:%S}" if seen else ""
    both = ", ".join(filter(None, (who, when)))
    return f" ({both})" if both else ""


def _winner(view: StudyView, lam: float) -> str:
    best = view.best(lam)
    if best is None:
        return "nothing feasible"
    value = metric_text(view.metric, best.value)
    return (
        f"#{best.number} has {view.metric} {value} in {bytes_text(best.bytes)}, {percent(best.saving)} saved"
    )


def _relax(view: StudyView) -> str:
    record = view.closest
    if record is None:
        return ""
    if record.slack.get("memory", 0) > 0:
        unit, factor = byte_unit(record.bytes)
        return f"It needs --memory-budget {ceil(100 * record.bytes / factor) / 100:g}{unit} or more."
    return f"Allow more loss of {view.metric}, or try other --precisions."


def trouble_page(trouble: Trouble, url: str, name: str | None) -> tuple[str, str, str]:
    """Return (title, text, what to do) for when nothing at all could be read."""
    again = (
        f"Trying again every {significant(trouble.wait_seconds, 2)} s (attempt {trouble.attempt}); q quits."
    )
    if trouble.kind == "missing":
        return f"No study {name!r}", trouble.text, f"Press o for the studies of {safe_url(url)}. {again}"
    if trouble.kind == "newer":
        if "older" in trouble.text:
            return "The storage is of an older qslm-opt", trouble.text, "q quits."
        return "The storage is newer than this qslm-opt", trouble.text, "Upgrade qslm-opt; q quits."
    return f"{safe_url(url)} cannot be read", trouble.text, again
