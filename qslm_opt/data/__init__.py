"""Tasks: what a model is measured on. Token sequences in a fixed order, and a hash that names them.

``TaskData`` and ``load_task`` load on first use, so that the names of the tasks cost no import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

TaskKind = Literal["lm", "classification"]
TASK_KIND: dict[str, TaskKind] = {
    "demo": "lm",
    "demo-classify": "classification",
    "sst2": "classification",
    "wikitext2": "lm",
}
"""Every task, and whether its metric is perplexity (``lm``) or accuracy (``classification``)."""

CALIBRATION_SPLIT: dict[str, str] = {
    "demo": "train", "demo-classify": "train", "sst2": "train", "wikitext2": "validation"
}  # fmt: skip
"""What calibrated quantizers look at unless told otherwise: never what the task is measured on by default."""
CALIBRATION_SEQUENCES: dict[TaskKind, int] = {"lm": 32, "classification": 1024}
"""How many windows or sentences of it, unless told otherwise: about 25,000 tokens."""

_PUBLIC = {
    "TaskData": "qslm_opt.data.taskdata",
    "load_task": "qslm_opt.data.tasks",
    "split_off": "qslm_opt.data.holding",
}
__all__ = ["CALIBRATION_SEQUENCES", "CALIBRATION_SPLIT", "TASK_KIND", "TaskKind", *_PUBLIC]

if TYPE_CHECKING:
    from qslm_opt.data.holding import split_off as split_off
    from qslm_opt.data.taskdata import TaskData as TaskData
    from qslm_opt.data.tasks import load_task as load_task


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qslm_opt.data' has no attribute {name!r}")
