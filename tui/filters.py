"""The filter line of the trials screen: ``tier:block state:pruned unit:attention.3 bits<=4 not saving<80``.

Words are joined by *and*; ``not`` (or a leading ``-``) turns the next one around; a bare word is looked for
in the unit's name. ``acc`` and ``saving`` are in percent, ``mem`` takes sizes such as ``2.1MB``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qslm_opt.errors import SpecError, UsageError, did_you_mean
from qslm_opt.spec import parse_size

if TYPE_CHECKING:
    from qslm_opt.results import TrialRecord

Test = Callable[["TrialRecord"], bool]
_WORD = re.compile(r"([a-z]+)(<=|>=|!=|[:=<>])(.*)", re.IGNORECASE)
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
    "loss": lambda t: t.loss,
    "seconds": lambda t: t.seconds,
    "power": lambda t: t.power_w,
    "energy": lambda t: t.energy_j,
}
KEYS = (*_TEXTS, *_NUMBERS, "feasible")


def parse_filter(text: str) -> Test:
    """Return the test that ``text`` describes; raise UsageError on a key or number that cannot be."""
    tests: list[Test] = []
    negate = False
    for word in text.split():
        if word.lower() == "not":
            negate = not negate
            continue
        if len(word) > 1 and word[0] == "-":
            negate, word = not negate, word[1:]
        test = _test(word)
        tests.append(_not(test) if negate else test)
        negate = False
    return lambda trial: all(test(trial) for test in tests)


def _not(test: Test) -> Test:
    return lambda trial: not test(trial)


def _test(word: str) -> Test:
    match = _WORD.fullmatch(word)
    if match is None:
        if word.lower() == "feasible":
            return lambda trial: trial.feasible
        return lambda trial: word.lower() in trial.unit.lower()
    key, sign, wanted = match[1].lower(), match[2], match[3]
    if key == "feasible":
        yes = _truth(wanted)
        return lambda trial: trial.feasible is yes
    if key in _TEXTS:
        return _text_test(key, sign, wanted)
    if key in _NUMBERS:
        return _number_test(key, sign, wanted)
    raise UsageError(f"filter key {key!r} is unknown.{did_you_mean(key, KEYS)}")


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
        limit = parse_size(wanted)[0] if key == "mem" else float(wanted.rstrip("%"))
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
