"""A random tiny LLaMA, made and written by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,
}  # fmt: skip


def tiny_llama(**keys: Any) -> LlamaForCausalLM:
    """Return a model whose norms and biases are random too."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **keys})).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                tensor += 0.3 * torch.randn(tensor.shape)
    return model


def saved_llama(folder: Path, shard: str = "5GB", **keys: Any) -> LlamaForCausalLM:
    """Return a tiny model that ``folder`` holds as transformers writes it, in shards of at most ``shard``."""
    model = tiny_llama(**keys)
    model.save_pretrained(folder, max_shard_size=shard)
    return model
