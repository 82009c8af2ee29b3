"""What `from qslm_opt import …` promises."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

import qslm_opt

PROMISED = {
    "__version__", "Evaluation", "Format", "QslmError", "QuantSetting", "Session", "StudySpec", "TrialRecord",
    "load_model",
}  # fmt: skip
NEEDS_TORCH = {"Session", "load_model"}


def test_the_public_list_is_what_is_promised():
    assert set(qslm_opt.__all__) == PROMISED
    assert set(dir(qslm_opt)) == PROMISED


@pytest.mark.parametrize("name", sorted(set(qslm_opt.__all__) - NEEDS_TORCH - {"__version__"}))
def test_a_public_name_loads_and_is_documented(name):
    value = getattr(qslm_opt, name)
    assert value.__name__ == name
    assert value.__doc__


@pytest.mark.parametrize("name", sorted(NEEDS_TORCH))
def test_a_public_name_that_needs_torch_loads_too(name):
    pytest.importorskip("torch")
    value = getattr(qslm_opt, name)
    assert value.__doc__
    assert value is getattr(import_module(qslm_opt._PUBLIC[name]), name)


def test_an_unknown_name_is_an_attribute_error_as_python_expects():
    assert not hasattr(qslm_opt, "Qslm")
    with pytest.raises(ImportError, match="cannot import name 'Qslm'"):
        exec("from qslm_opt import Qslm")


def test_the_version_is_a_semantic_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", qslm_opt.__version__)
