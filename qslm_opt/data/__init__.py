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

_PUBLIC = {"TaskData": "qslm_opt.data.taskdata", "load_task": "qslm_opt.data.tasks"}
__all__ = ["TASK_KIND", "TaskKind", *_PUBLIC]

if TYPE_CHECKING:
    from qslm_opt.data.taskdata import TaskData as TaskData
    from qslm_opt.data.tasks import load_task as load_task


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qslm_opt.data' has no attribute {name!r}")
