"""Configs of the built-in families in which every key has another value than its default."""

from __future__ import annotations

from qslm_opt.models.config import ModelConfig
from qslm_opt.models.spikebert import SpikeBERTConfig
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.models.spikellm_config import SpikeLLMConfig
from qslm_opt.models.spikelm import SpikeLMConfig
from qslm_opt.models.spikingbert import SpikingBERTConfig

ROPE = '{"factor": 2.0, "rope_type": "linear"}'
SAMPLES: tuple[ModelConfig, ...] = (
    SpikeGPTConfig(40, 3, 8, "RWKV-ffnPre", 20, 3, False, 64, "off", 2),
    SpikeBERTConfig(
        30, 2, 8, 3, hidden=20, transforms=True, heads=2, timesteps=3, tau=3.0, common_thr=2.0, qk_scale=0.5,
        length=16,
    ),
    SpikingBERTConfig(
        30, 8, 2, 20, 16, 3, 4, 2, timesteps=5, threshold=2.0, leak=0.5, fit_size=6, has_feedback=False,
        has_pooler=False,
    ),
    SpikingBERTConfig(30, 8, 2, 20, 16, 3, 4, 2, has_unused=False),
    SpikeLMConfig(30, 8, 2, 20, 16, 3, 2, 3, timesteps=3, stored_steps=3, input_bits=1, layer_norm_eps=0.1),
    SpikeLLMConfig(
        300, 64, 128, 2, 4, 2, 8, 1e-5, 500.0, ROPE, 64, "relu", True, True, True, 4, 1, 0.1,
        salient_known=True,
    ),
)  # fmt: skip


def told_by_shapes(key: str, family: str) -> bool:
    """Return whether ``from_shapes`` finds the value of a key that nobody gives."""
    return any(_told(key, config) for config in SAMPLES if config.family == family)


def _told(key: str, config: ModelConfig) -> bool:
    from qslm_opt.errors import ModelError

    given = {name: value for name, value in config.to_dict().items() if name != key}
    default = config.__dataclass_fields__[key].default
    if getattr(config, key) == default:
        return False
    try:
        found = type(config).from_shapes(config.tensor_shapes(), **given)
    except ModelError:
        return False
    return bool(getattr(found, key) == getattr(config, key))
