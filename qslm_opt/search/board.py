"""What a plain ``optuna-dashboard URL`` shows of a study beside its trials: a note and the Pareto plot.

Both are system attributes of the Optuna study in the form that optuna-dashboard reads (notes and plots in
pieces of 2045 characters); the package itself is not needed. A note that somebody edited there is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from qslm_opt.rank import Ranking, closest

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from qslm_opt.rank import Ranked
    from qslm_opt.results import TrialRecord
    from qslm_opt.store import StudyRow

PIECE = 2045
NOTE, NOTE_VERSION = "dashboard:note_str:", "dashboard:note_ver"
PLOT = "dashboard:plot_data:pareto:"
OURS = "qslm:note_version"
"""The version of the note that we wrote last; another one there is somebody else's."""
ROWS = 10
"""Candidates that the note lists."""
MOST_POINTS = 400
"""Settings that the plot shows beside the Pareto front; the smallest of them."""


def publish(storage: BaseStorage, study_id: int, row: StudyRow, trials: Sequence[TrialRecord]) -> None:
    """Write the note and the plot of a study as it is now: some ten attributes."""
    known = storage.get_study_system_attrs(study_id)
    new: dict[str, Any] = dict(_pieces(PLOT, json.dumps(figure(row, trials), separators=(",", ":")), known))
    version = known.get(NOTE_VERSION, 0)
    if version == known.get(OURS, 0):
        new |= dict(_pieces(NOTE, note(row, trials), known))
        new |= {NOTE_VERSION: version + 1, OURS: version + 1}
    for key, value in new.items():
        if known.get(key) != value:
            storage.set_study_system_attr(study_id, key, value)


def note(row: StudyRow, trials: Sequence[TrialRecord]) -> str:
    """Return what the study is, its feasible best and its candidates, in Markdown."""
    spec, whole = row.spec, row.hierarchy.fp32_bytes()
    ranked = Ranking(trials, spec.metric).at(spec.lam, ROWS)
    lines = [
        f"# {row.name}",
        "",
        f"Bits of **{spec.model}** on **{spec.task}**: every trial is one quantization setting, tier by tier "
        f"({', '.join(spec.tiers)}). A candidate meets both constraints.",
        "",
        f"- {spec.metric}: {_bound(row)}",
        f"- memory: at most {row.budget:,} bytes of {whole:,} in float32 ({row.budget / whole:.1%})",
        f"- state: {row.state}, {sum(row.counts.values())} trials{f' ({row.reason})' if row.reason else ''}",
        "",
        *_best(row, ranked, trials),
        "",
        "optuna-dashboard reads neither named constraints nor feasibility: what it calls the best trial may "
        "violate a constraint. The columns `feasible`, `metric_slack_pct` and `memory_slack_pct` (at most 0 "
        "is met) are right, and so is the dashboard that `qslm-opt dashboard` serves.",
    ]
    return "\n".join(lines)


def figure(row: StudyRow, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the Plotly figure of metric over bytes: the front, other candidates, what violates a bound."""
    spec = row.spec
    ranking = Ranking(trials, spec.metric, feasible_only=False)
    front = {ranking.records[i].number for i in ranking.front}
    rest = sorted((r for r in ranking.records if r.number not in front), key=lambda r: r.bytes)[:MOST_POINTS]
    traces = [
        _trace("Pareto front", [ranking.records[i] for i in ranking.front], "lines+markers", "circle"),
        _trace("other candidates", [r for r in rest if r.feasible], "markers", "circle-open"),
        _trace("violates a constraint", [r for r in rest if not r.feasible], "markers", "x-thin-open"),
    ]
    shapes = [_line("x", row.budget)] + ([] if row.bound is None else [_line("y", row.bound)])
    layout = {
        "title": {"text": f"{row.name}: {spec.metric} over packed bytes"}, "shapes": shapes,
        "xaxis": {"title": {"text": "packed bytes"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": spec.metric}},
    }  # fmt: skip
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _bound(row: StudyRow) -> str:
    if row.baseline is None or row.bound is None:
        return "the unquantized model is not measured yet"
    side = "at least" if row.spec.metric == "accuracy" else "at most"
    return f"{side} {row.bound:.6g}; the unquantized model has {row.baseline.value:.6g}"


def _best(row: StudyRow, ranked: Sequence[Ranked], trials: Sequence[TrialRecord]) -> Iterator[str]:
    """The feasible best and a table of candidates; without one, what came closest."""
    if not ranked:
        near = closest(trials)
        over = ", ".join(f"{k} {v:+.2%}" for k, v in near.slack.items() if v > 0) if near else ""
        yield "**No trial meets both constraints**" + (
            f"; the closest is trial {near.number} ({over})." if near else "."
        )
        return
    best = ranked[0].record
    yield (
        f"**Feasible best at λ = {row.spec.lam:g}: trial {best.number}**, "
        f"{row.spec.metric} {best.value:.6g}, {best.bytes:,} bytes (−{best.saving:.1%}), "
        f"score {ranked[0].score:.6g}."
    )
    yield ""
    yield f"| rank | trial | tier | {row.spec.metric} | bytes | saving | score |"
    yield "|---|---|---|---|---|---|---|"
    for entry in ranked:
        r = entry.record
        cells = (entry.rank, r.number, r.tier, f"{r.value:.6g}", f"{r.bytes:,}", f"{r.saving:.1%}",
                 f"{entry.score:.6g}")  # fmt: skip
        yield f"| {' | '.join(map(str, cells))} |"


def _trace(name: str, records: Sequence[TrialRecord], mode: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter", "name": name, "mode": mode, "marker": {"symbol": symbol},
        "x": [r.bytes for r in records], "y": [float(f"{r.value:.6g}") for r in records],
        "text": [f"trial {r.number}" for r in records],
    }  # fmt: skip


def _line(axis: str, at: float) -> dict[str, Any]:
    """A dotted line across the plot at one bound."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    return {"type": "line", "line": {"dash": "dot", "width": 1}, **ends}


def _pieces(prefix: str, text: str, known: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The attributes of a text; pieces of a longer one that was there before become empty."""
    count = ceil(len(text) / PIECE)
    for i in range(count):
        yield f"{prefix}{i}", text[i * PIECE : (i + 1) * PIECE]
    before = sum(key.startswith(prefix) for key in known)
    yield from ((f"{prefix}{i}", "") for i in range(count, before))
