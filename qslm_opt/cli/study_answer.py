"""``qslm-opt study answer``: other targets, answered from the stored trials without a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qslm_opt.cli import spec_options as keys
from qslm_opt.cli.facts import StudyFacts, best_json
from qslm_opt.cli.options import Json, Lambda, Name, Storage, command, storage_url
from qslm_opt.cli.output import metric_change, metric_value, narrate, print_json, print_line, size
from qslm_opt.cli.running import read_facts
from qslm_opt.errors import InfeasibleError, QslmError

if TYPE_CHECKING:
    from qslm_opt.rank import Ranked
    from qslm_opt.search.answer import Answer, OpenStep
    from qslm_opt.spec import StudySpec


def answer(
    name: Name,
    max_drop: keys.MaxDrop = None,
    min_accuracy: keys.MinAccuracy = None,
    max_increase: keys.MaxIncrease = None,
    max_perplexity: keys.MaxPerplexity = None,
    memory_budget: keys.MemoryBudget = None,
    lam: Lambda = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Answer other targets from the stored trials of a study: nothing is run, nothing is stored.

    Says whether a search for these targets would give the same, or which setting it needs first and how to
    start it. Exit code 4: no stored setting meets them.
    """
    from qslm_opt.search.answer import answer as answered
    from qslm_opt.search.targets import retarget

    facts = read_facts(name, storage)
    targets = {
        "max_drop": max_drop, "min_accuracy": min_accuracy, "max_increase": max_increase,
        "max_perplexity": max_perplexity, "memory_budget": memory_budget, "lam": lam,
    }  # fmt: skip
    row, spec = facts.row, retarget(facts.row.spec, targets)
    go_on = _search(name, spec, row.spec, storage_url(storage))
    if row.baseline is None:
        raise QslmError(
            f"study {name!r} has no answer yet, not even its unquantized model is measured; run it: "
            f"{command('study', 'resume', name, url=storage_url(storage))}."
        )
    found = answered(spec, row.spec, row.hierarchy, row.baseline, facts.trials)
    if json:
        print_json(_json(name, facts, found, go_on))
    else:
        _print(name, facts, found)
        narrate(_standing(found, go_on))
    if found.best is None:
        raise InfeasibleError(f"no stored setting of study {name!r} meets these targets{_closest(found)}.")


def _search(name: str, spec: StudySpec, before: StudySpec, url: str) -> str:
    """Return the command that searches for the targets."""
    if spec == before:
        return command("study", "resume", name, url=url)
    from qslm_opt.search.targets import TARGETS

    words = []
    for key in TARGETS:
        value = getattr(spec, key)
        if value != getattr(before, key) and value is not None:
            words += [f"--{'lambda' if key == 'lam' else key.replace('_', '-')}", f"{value}"]
    return command("study", "create", f"{name}-2", "--from", name, *words, url=url)


def _print(name: str, facts: StudyFacts, found: Answer) -> None:
    sign = "at least" if facts.metric == "accuracy" else "at most"
    print_line(
        f"{name}: {facts.metric} {sign} {metric_value(facts.metric, found.bound.value)}, at most "
        f"{size(found.budget)}, λ = {found.spec.lam:g}"
    )
    if found.best is not None:
        print_line(f"  best      {_entry(facts, found.best)}, score {found.best.score:.5g}")
        least = min(found.ranked, key=lambda entry: (entry.record.bytes, entry.rank))
        if least is not found.best:
            print_line(f"  smallest  {_entry(facts, least)}")
    print_line(f"  known     {', '.join(_known(found))}")
    print_line(f"  uniform   {', '.join(_uniform(found))}")
    if found.smallest is not None:
        print_line(f"  below     {size(found.smallest)} no setting was tried under this bound")


def _entry(facts: StudyFacts, entry: Ranked) -> str:
    t = entry.record
    return (
        f"trial {t.number}, {facts.metric} {metric_value(facts.metric, t.value)} "
        f"({metric_change(facts.metric, t.value, facts.baseline)}), {size(t.bytes)} (−{100 * t.saving:.1f} %)"
    )


def _known(found: Answer) -> Iterator[str]:
    """Yield how many settings are known, and how."""
    yield f"{found.measured} settings measured to their end"
    if found.violators:
        yield f"{found.violators} stopped early that violate this bound for certain"
    if found.open:
        yield f"{found.open} stopped early under the study's own bound that may meet this one"


def _uniform(found: Answer) -> Iterator[str]:
    """Yield ``4 bits: meets both`` and so on, a verdict for each level."""
    fitting = {True: "meets both", False: "metric violated", None: "not known"}
    for level in found.uniform:
        above = "both violated" if level.metric_ok is False else "over the budget"
        yield f"{level.bits} bits: {fitting[level.metric_ok] if level.fits else above}"


def _standing(found: Answer, go_on: str) -> str:
    """Return how the answer stands to a search for the targets."""
    from qslm_opt.search.answer import kind_of

    kind, replay = kind_of(found), found.replay
    if kind == "proven":
        return "proven: the same answer that a search for these targets gives"
    if kind == "refused":
        return f"no search would be made for these targets: {found.refused}"
    if kind == "better":
        theirs = "nothing" if replay.best is None else f"trial {replay.best.record.number}"
        return f"a search for these targets would choose {theirs}; it does not visit the better one above"
    assert replay.step is not None
    return (
        f"not proven: a search for these targets would need {_open(found, replay.step)} first, and at most "
        f"{replay.at_most} evaluations in all: {go_on}"
    )


def _open(found: Answer, step: OpenStep) -> str:
    """Return the first open step of a search in words."""
    what = f"{step.unit} at {step.bits} bits ({step.tier} tier, {size(step.bytes)})"
    if step.tier == "gate":
        return f"the membrane drift of {what}"
    if step.trial is None or step.at_best is None:
        return f"{what}, which was never run,"
    side = "at most" if found.bound.metric == "accuracy" else "at least"
    value = metric_value(found.bound.metric, step.at_best)
    return f"{what}, of which trial {step.trial} says no more than {found.bound.metric} {side} {value},"


def _closest(found: Answer) -> str:
    near = found.closest
    if near is None:
        return ""
    misses = [f"{key} by {100 * slack:.2g} %" for key, slack in near.slack.items() if slack > 0]
    where = f"trial {near.number} ({near.unit} at {near.bits} bits, {size(near.bytes)})"
    return f"; the closest, {where}, misses {' and '.join(misses)}"


def _json(name: str, facts: StudyFacts, found: Answer, go_on: str) -> dict[str, Any]:
    from qslm_opt.search.answer import kind_of

    replay = found.replay
    step = replay.step
    return {
        "study": name,
        "metric": facts.metric,
        "targets": {"bound": found.bound.value, "budget": found.budget, "lambda": found.spec.lam},
        "best": None if found.best is None else best_json(found.best),
        "candidates": [entry.record.number for entry in found.ranked],
        "closest": None if found.best or found.closest is None else {
            "trial": found.closest.number, "bytes": found.closest.bytes, "slack": dict(found.closest.slack)
        },
        "proven": found.proven,
        "standing": kind_of(found),
        "why": _standing(found, go_on),
        "known": {"measured": found.measured, "violators": found.violators, "open": found.open},
        "smallest_tried_bytes": found.smallest,
        "uniform": [
            {"bits": u.bits, "bytes": u.bytes, "fits": u.fits, "metric_ok": u.metric_ok, "value": u.value}
            for u in found.uniform
        ],
        "search": {
            "done": replay.done,
            "best": None if replay.best is None else replay.best.record.number,
            "tier": replay.tier,
            "at_most_evaluations": replay.at_most,
            "next": None if step is None else {
                "tier": step.tier, "unit": step.unit, "bits": step.bits, "bytes": step.bytes,
                "trial": step.trial, "value_at_best": step.at_best,
            },
            "command": go_on,
        },
    }  # fmt: skip
