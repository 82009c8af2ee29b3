"""Which scores differ by less than chance."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from qslm_opt.rank import rank
from tests.tui.fakes import Study
from tui.noise import gap, noise, standard_error


def test_the_error_of_an_accuracy_is_the_binomial_one() -> None:
    assert standard_error("accuracy", 0.5, 100) == 0.05
    error = standard_error("accuracy", 0.85, 872)
    assert error is not None and abs(error - sqrt(0.85 * 0.15 / 872)) < 1e-12
    assert standard_error("accuracy", 1.0, 872) == 0.0


def test_what_was_not_measured_has_no_error_and_a_perplexity_neither() -> None:
    assert standard_error("accuracy", None, 872) is None and standard_error("accuracy", 0.8, 0) is None
    assert standard_error("perplexity", 34.2, 4000) is None


def test_errors_of_a_difference_add_in_squares() -> None:
    study = Study(metric="accuracy").fill(running=False)
    a, b = (t for t in study.trials if t.number in (47, 48))
    both = noise("accuracy", a, b)
    parts = [standard_error("accuracy", t.value, t.used) for t in (a, b)]
    assert both is not None and parts[0] is not None and parts[1] is not None
    assert abs(both**2 - parts[0] ** 2 - parts[1] ** 2) < 1e-15


def test_more_sentences_make_a_tie_a_difference() -> None:
    study = Study(metric="accuracy").fill(running=False)
    rows = rank(study.trials, "accuracy", 0.2)
    near = gap("accuracy", rows[0], rows[1])
    assert near.score >= 0 and near.tied
    many = [replace(r, record=replace(r.record, used=10**9)) for r in rows[:2]]
    sure = gap("accuracy", many[0], many[1])
    assert sure.score == near.score and not sure.tied


def test_a_perplexity_is_never_called_a_tie() -> None:
    rows = rank(Study().fill().trials, "perplexity", 20.0)
    assert gap("perplexity", rows[0], rows[1]).noise is None
    assert not gap("perplexity", rows[0], rows[0]).tied
    assert gap("perplexity", rows[0], rows[1]).score > 0, "the second of a ranking is behind"
