"""A small SpikeGPT with random weights, packed or not, as what generates text reads it."""

from __future__ import annotations

import torch

from qslm_opt.formats import SIGN, Layout
from qslm_opt.models.resident import StoredModel
from qslm_opt.models.spikegpt_config import SpikeGPTConfig
from qslm_opt.quant import quantize
from qslm_opt.quant.packed_tensor import PackedTensor


def small_config(**keys) -> SpikeGPTConfig:
    """Return a config of three blocks, 64 wide."""
    return SpikeGPTConfig(**{"vocab_size": 96, "n_layer": 3, "n_embd": 64, **keys})


def small_tensors(config: SpikeGPTConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random weights that make neurons fire now and then."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in config.tensor_shapes().items():
        drawn = torch.randn(shape, generator=generator)
        if "time_mix" in name:
            drawn = torch.rand(shape, generator=generator)
        elif len(shape) == 2 and name != "emb.weight":
            strength = 4.0 if name.endswith(("output.weight", "value.weight")) else 1.0
            drawn = drawn * strength / shape[1] ** 0.5
        elif name.startswith("ln") or ".ln" in name:
            drawn = 0.2 * drawn + (1.0 if name.endswith("weight") else 0.0)
        found[name] = drawn
    return found


def small_model(bits: float, layout: str = "channel/midrise", **keys) -> StoredModel:
    """Return a model at so many bits, its embedding as signs and vectors as float16; at 32 in float32."""
    config = small_config(**keys)
    tensors: dict[str, object] = dict(small_tensors(config))
    if bits != 32:
        for name, tensor in small_tensors(config).items():
            if tensor.dim() == 2:
                fmt = SIGN if name == "emb.weight" else Layout.parse(layout).with_bits(bits)
                tensors[name] = PackedTensor.of(quantize(tensor, fmt, "hqq" if "offset" in layout else "mse"))
            else:
                tensors[name] = tensor.half()
    size = sum(t.nbytes for t in tensors.values())
    return StoredModel(config, tensors, None, "small", bits != 32, size, size)


def weights_of(model: StoredModel) -> dict[str, torch.Tensor]:
    """Return the float32 weights that a model stands for."""
    found = {}
    for name, tensor in model.tensors.items():
        found[name] = tensor.dequantize() if isinstance(tensor, PackedTensor) else tensor.float()
    return found
