"""The error tree: its exit codes are the command line's contract, its docstring is its picture."""

from __future__ import annotations

import inspect
import re

import pytest

from qslm_opt import errors
from qslm_opt.errors import QslmError, did_you_mean

EXIT_CODES = {
    "QslmError": 1,
    "UsageError": 2,
    "SpecError": 2,
    "SettingError": 2,
    "ModelError": 1,
    "DataError": 1,
    "NumericsError": 1,
    "OutOfMemoryError": 1,
    "StorageError": 3,
    "StudyExistsError": 3,
    "SchemaError": 3,
    "ArchiveError": 3,
    "FingerprintError": 3,
    "InfeasibleError": 4,
    "DeviceError": 5,
    "StudyNotFoundError": 6,
    "StoppedError": 130,
}
CLASSES = {
    name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, QslmError)
}


def test_exit_codes_are_the_command_lines_contract():
    assert {name: cls.exit_code for name, cls in CLASSES.items()} == EXIT_CODES


def test_the_docstring_draws_the_tree_as_it_is():
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.search(r"(\w+Error)\s+(?:exit code )?(\d+)", line)
        if match:
            drawn.append((match.start(1), match[1]))
            assert CLASSES[match[1]].exit_code == int(match[2])
    parents = []
    for at, (depth, name) in enumerate(drawn):
        above = [other for d, other in drawn[:at] if d < depth]
        nearest = [
            other for d, other in drawn[:at] if d == max((x for x, _ in drawn[:at] if x < depth), default=-1)
        ]
        parents.append((name, nearest[-1] if above else None))
    named = {
        name: cls.__bases__[0].__name__ if cls.__bases__[0] in CLASSES.values() else None
        for name, cls in CLASSES.items()
        if name in dict(parents)
    }
    assert dict(parents) == named


def test_every_error_is_a_qslm_error_with_a_docstring():
    assert all(cls.__doc__ for cls in CLASSES.values())


@pytest.mark.parametrize(
    ("word", "known", "answer"),
    [
        ("max_dorp", ["max_drop", "max_increase"], " Did you mean 'max_drop'?"),
        (
            "attention.0/att.keys",
            ["attention.0", "attention.0/att.key"],
            " Did you mean 'attention.0/att.key'?",
        ),
        ("zzzz", ["max_drop"], ""),
        ("", [], ""),
    ],
)
def test_a_near_word_is_suggested_and_a_far_one_is_not(word, known, answer):
    assert did_you_mean(word, known) == answer
