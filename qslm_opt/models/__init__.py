"""Models, one file a family, and how they are found and read. The names below load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "LoadedModel": "qslm_opt.models.loading",
    "load_model": "qslm_opt.models.loading",
    "save_model": "qslm_opt.models.loading",
    "PackedModel": "qslm_opt.models.packed",
    "load_packed": "qslm_opt.models.packed",
    "SpikeGPTConfig": "qslm_opt.models.spikegpt_config",
    "SpikeGPTHFConfig": "qslm_opt.models.hf",
    "SpikeGPTForCausalLM": "qslm_opt.models.hf",
    "SpikeGPTForSequenceClassification": "qslm_opt.models.hf",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from qslm_opt.models.hf import SpikeGPTForCausalLM as SpikeGPTForCausalLM
    from qslm_opt.models.hf import SpikeGPTForSequenceClassification as SpikeGPTForSequenceClassification
    from qslm_opt.models.hf import SpikeGPTHFConfig as SpikeGPTHFConfig
    from qslm_opt.models.loading import LoadedModel as LoadedModel
    from qslm_opt.models.loading import load_model as load_model
    from qslm_opt.models.loading import save_model as save_model
    from qslm_opt.models.packed import PackedModel as PackedModel
    from qslm_opt.models.packed import load_packed as load_packed
    from qslm_opt.models.spikegpt_config import SpikeGPTConfig as SpikeGPTConfig


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qslm_opt.models' has no attribute {name!r}")
