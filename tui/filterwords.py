"""What one test of a filter can ask of a trial: ``tier:block``, ``mem<2.1MB``, ``fmt:int3``, ``feasible``.

``acc``, ``saving``, ``room`` and ``memroom`` are in percent, ``mem`` takes sizes such as ``2.1MB``. What is
not known of a trial passes no test of numbers.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import SpecError, UsageError, did_you_mean
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.spec import STRATEGIES, parse_size

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.results import TrialRecord

Test = Callable[["TrialRecord"], bool]
_WORD = re.compile(r"([a-z]+)(<=|>=|!=|[:=<>])(.*)", re.IGNORECASE | re.DOTALL)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    ":": operator.eq, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
_TEXTS: Mapping[str, Callable[[TrialRecord], str]] = {
    "tier": lambda t: t.tier,
    "state": lambda t: t.state,
    "unit": lambda t: t.unit,
    "digest": lambda t: t.digest,
}
_NUMBERS: Mapping[str, Callable[[TrialRecord], float | None]] = {
    "trial": lambda t: t.number,
    "bits": lambda t: t.bits,
    "acc": lambda t: None if t.value is None else 100 * t.value,
    "ppl": lambda t: t.value,
    "mem": lambda t: t.bytes,
    "saving": lambda t: 100 * t.saving,
    "room": lambda t: _room(t, "metric"),
    "memroom": lambda t: _room(t, "memory"),
    "loss": lambda t: t.loss,
    "seconds": lambda t: t.seconds,
    "power": lambda t: t.power_w,
    "energy": lambda t: t.energy_j,
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "tier": tuple(dict.fromkeys(tier for tiers in STRATEGIES.values() for tier in tiers)),
    "state": ("running", "complete", "pruned", "failed", "waiting"),
}
KEYS = (*_TEXTS, *_NUMBERS, "fmt", "feasible")


def _room(trial: TrialRecord, key: str) -> float | None:
    slack = trial.slack.get(key)
    return None if slack is None else -100 * slack


def word_test(written: str, column: int, hierarchy: Hierarchy | None = None) -> Test:
    """Return the test of one word, quotes included; raise UsageError with its column."""
    word = written.replace('"', "")
    match = None if written.startswith('"') else _WORD.fullmatch(word)
    if match is None:
        if word.lower() == "feasible":
            return lambda trial: trial.feasible
        return lambda trial: word.lower() in trial.unit.lower()
    key, sign, wanted = match[1].lower(), match[2], match[3]
    if key == "feasible":
        yes = _truth(wanted)
        return lambda trial: trial.feasible is yes
    if key == "fmt":
        return _format_test(sign, wanted.lower(), hierarchy)
    if key in _TEXTS:
        return _text_test(key, sign, wanted)
    if key in _NUMBERS:
        return _number_test(key, sign, wanted)
    raise UsageError(
        f"filter key {key!r} at column {column} is unknown.{did_you_mean(key, KEYS) or ' ' + _ALL}"
    )


_ALL = f"Use one of {', '.join(KEYS)}."


def _truth(wanted: str) -> bool:
    if wanted.lower() in ("yes", "true", "1"):
        return True
    if wanted.lower() in ("no", "false", "0"):
        return False
    raise UsageError(f"feasible:{wanted} cannot be; write feasible:yes or feasible:no.")


def _text_test(key: str, sign: str, wanted: str) -> Test:
    if sign not in (":", "=", "!="):
        raise UsageError(f"{key} is a word and has no order; write {key}:{wanted or 'WORD'}.")
    read, sought = _TEXTS[key], wanted.lower()
    choices = _CHOICES.get(key, ())
    if choices and not any(choice.startswith(sought) for choice in choices):
        raise UsageError(f"{key}{sign}{wanted} finds nothing; {key} is one of {', '.join(choices)}.")
    if sign == "!=":
        return lambda trial: sought != read(trial).lower()
    if sign == "=":
        return lambda trial: sought == read(trial).lower()
    if key == "unit":
        return lambda trial: _unit_under(read(trial).lower(), sought)
    return lambda trial: read(trial).lower().startswith(sought)


def _unit_under(unit: str, sought: str) -> bool:
    """A block finds itself and its modules, but ``attention.1`` does not find ``attention.11``."""
    if not sought or sought[-1].isdigit():
        return unit == sought or unit.startswith(sought + "/") or not sought
    return sought in unit


def _number_test(key: str, sign: str, wanted: str) -> Test:
    try:
        limit = parse_size(wanted)[0] if key == "mem" else float(wanted.rstrip("%").lstrip("#"))
    except (ValueError, SpecError):
        example = "2.1MB" if key == "mem" else "4"
        raise UsageError(
            f"{key}{sign}{wanted} needs a number; write for instance {key}<={example}."
        ) from None
    read, compare = _NUMBERS[key], _COMPARE[sign]

    def test(trial: TrialRecord) -> bool:
        value = read(trial)
        return value is not None and compare(value, limit)

    return test


def _format_test(sign: str, sought: str, hierarchy: Hierarchy | None) -> Test:
    """``fmt:int3`` asks whether any module has a format that begins so."""
    if sign not in (":", "=", "!=") or not sought:
        raise UsageError(f"fmt{sign}{sought} cannot be; write for instance fmt:int3 or fmt:int4/channel.")
    blocks = _searched(hierarchy) if hierarchy is not None else ()

    def has(trial: TrialRecord) -> bool:
        return any(_begins(name, sought) for name in _formats(trial.setting, blocks))

    return (lambda trial: not has(trial)) if sign == "!=" else has


def _begins(name: str, sought: str) -> bool:
    """``int1`` finds ``int1/…`` but not ``int16/…``."""
    rest = name.removeprefix(sought)
    return name.startswith(sought) and not (sought[-1].isdigit() and rest[:1].isdigit())


def _searched(hierarchy: Hierarchy) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(m.unit for m in block.modules if m.searched) for block in hierarchy.blocks)


@lru_cache(maxsize=1 << 15)
def _formats(setting: str, blocks: tuple[tuple[str, ...], ...]) -> frozenset[str]:
    """Return the formats that a setting gives its modules; without blocks all that it names."""
    try:
        units = {unit: str(text).lower() for unit, text in json.loads(setting)["units"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()
    if not blocks:
        return frozenset(units.values())
    network = units.get(NETWORK, "")
    return frozenset(
        units.get(module) or units.get(module.partition("/")[0]) or network
        for modules in blocks
        for module in modules
    )
