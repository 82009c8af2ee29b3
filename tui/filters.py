"""The filter language of the trials screen: ``tier:block (acc>62 or mem<2.1MB) not fmt:int3``.

Tests side by side must both hold (*and* may be written); *or* binds weaker, *not* (or a leading ``-``)
stronger, parentheses group, ``"…"`` keeps spaces and words such as *or* together. A bare word is looked for
in the unit's name. What a test can ask is in ``tui.filterwords``. Errors name the place and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qslm_opt.errors import UsageError
from tui.filterwords import KEYS as KEYS
from tui.filterwords import word_test

if TYPE_CHECKING:
    from qslm_opt.hierarchy.tree import Hierarchy
    from qslm_opt.results import TrialRecord

Test = Callable[["TrialRecord"], bool]
_PART = re.compile(r"\s*(?:(?P<bracket>[()])|(?P<word>(?:\"[^\"]*\"|[^\s()\"])+)|(?P<open>\"))")
HELP = (
    "tier state unit fmt digest : word   "
    "trial bits acc ppl mem saving room memroom loss seconds power energy : = != < <= > >=   "
    'feasible   and or not ( ) "…"'
)
"""All of the language in one line."""


@dataclass(frozen=True)
class _Token:
    text: str
    """As written, quotes included."""
    column: int
    """Counted from 1."""

    @property
    def operator(self) -> str:
        """``and``, ``or``, ``not``, a parenthesis, or empty for a test; a quoted word is no operator."""
        word = self.text.lower()
        return word if word in ("and", "or", "not", "(", ")") else ""


def parse_filter(text: str, hierarchy: Hierarchy | None = None) -> Test:
    """Return the test that ``text`` describes; raise UsageError that names what cannot be, and where.

    ``hierarchy`` lets ``fmt:`` leave out formats that a setting names but that no module has.
    """
    tokens = _tokens(text)
    if not tokens:
        return lambda trial: True
    parser = _Parser(tokens, hierarchy)
    found = parser.either()
    if parser.left:
        raise UsageError(f"the ) at column {parser.left[0].column} closes nothing; remove it.")
    return found


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _PART.match(text, at)
        assert match is not None  # the three alternatives take every character
        begin = match.start(match.lastgroup or 0) + 1
        if match["open"]:
            raise UsageError(f'the quote at column {begin} is not closed; write another " after it.')
        found.append(_Token(match["bracket"] or match["word"], begin))
        at = match.end()
    return found


class _Parser:
    """Recursive descent over the tokens that are left."""

    def __init__(self, tokens: list[_Token], hierarchy: Hierarchy | None) -> None:
        self.left = tokens
        self._hierarchy = hierarchy
        self._end = tokens[-1].column + len(tokens[-1].text)

    @property
    def _next(self) -> str:
        return self.left[0].operator if self.left else "end"

    def either(self) -> Test:
        """Read tests joined by *or*."""
        tests = [self._all()]
        while self._next == "or":
            self.left = self.left[1:]
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda trial: any(test(trial) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._next in ("and", "not", "(", ""):
            if self._next == "and":
                self.left = self.left[1:]
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda trial: all(test(trial) for test in tests)

    def _one(self) -> Test:
        if not self.left:
            raise UsageError(f"the filter ends at column {self._end} where a test is due, as in tier:block.")
        token, self.left = self.left[0], self.left[1:]
        if token.operator == "not":
            return _not(self._one())
        if token.operator == "(":
            return self._group(token)
        if token.operator:
            raise UsageError(f"{token.text!r} at column {token.column} has no test before it; write one.")
        if token.text.startswith("-") and len(token.text) > 1:
            return _not(word_test(token.text[1:], token.column + 1, self._hierarchy))
        if token.text == "-" and self._next == "(":
            return _not(self._one())
        return word_test(token.text, token.column, self._hierarchy)

    def _group(self, opened: _Token) -> Test:
        found = self.either()
        if self._next != ")":
            raise UsageError(f"the ( at column {opened.column} is not closed; write a ) after its tests.")
        self.left = self.left[1:]
        return found


def _not(test: Test) -> Test:
    return lambda trial: not test(trial)
