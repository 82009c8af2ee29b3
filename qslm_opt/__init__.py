"""qslm-opt: search for the lowest-bit weights of a spike-driven language model, under proof.

The names below load on first use, so that ``import qslm_opt`` stays free of torch and Optuna.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Torch and the compiled kernels have a thread pool each; one that spins while it waits slows the other. It
is read when torch is imported: a program that imports torch before this package sets it itself."""

_PUBLIC = {
    "Format": "qslm_opt.formats",
    "QuantSetting": "qslm_opt.setting",
    "StudySpec": "qslm_opt.spec",
    "Evaluation": "qslm_opt.results",
    "TrialRecord": "qslm_opt.results",
    "QslmError": "qslm_opt.errors",
    "load_model": "qslm_opt.models",
    "Session": "qslm_opt.pipeline",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from qslm_opt.errors import QslmError as QslmError
    from qslm_opt.formats import Format as Format
    from qslm_opt.models import load_model as load_model
    from qslm_opt.pipeline import Session as Session
    from qslm_opt.results import Evaluation as Evaluation
    from qslm_opt.results import TrialRecord as TrialRecord
    from qslm_opt.setting import QuantSetting as QuantSetting
    from qslm_opt.spec import StudySpec as StudySpec


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qslm_opt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
