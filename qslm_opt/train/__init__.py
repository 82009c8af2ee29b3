"""Train a small SpikeGPT from scratch: how the packaged demo model was made. Loads torch only on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "TrainConfig": "qslm_opt.train.config",
    "TrainReport": "qslm_opt.train.config",
    "train": "qslm_opt.train.loop",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from qslm_opt.train.config import TrainConfig as TrainConfig
    from qslm_opt.train.config import TrainReport as TrainReport
    from qslm_opt.train.loop import train as train


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qslm_opt.train' has no attribute {name!r}")
