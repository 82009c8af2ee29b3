"""A tiny SpikingBERT with random weights, as the original's checkpoint has it, and SST-2 data it can read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from qslm_opt.models.loading import LoadedModel, hash_weights
from qslm_opt.models.spikingbert import SpikingBERT, SpikingBERTConfig
from qslm_opt.spec import StudySpec

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35)))
CONFIG = SpikingBERTConfig(
    vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, intermediate_size=24, type_vocab_size=2,
    max_position_embeddings=12, n_labels=2, num_attention_heads=4, timesteps=5, fit_size=20,
)  # fmt: skip
FAMILY = SpikingBERT()


def tensors_of(config: SpikingBERTConfig = CONFIG, seed: int = 3) -> dict[str, Tensor]:
    """Return weights with which every site fires, but not always."""
    made = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in config.tensor_shapes().items():
        values = torch.randn(shape, generator=made)
        if config.role(name) == "norm":
            found[name] = 0.3 * values + (0.6 if name.endswith("weight") else 0.2)
        elif config.role(name) == "bias":
            found[name] = 0.1 * values + 0.2
        else:
            found[name] = values / (shape[-1] ** 0.5)
    found["classification.weight"] *= 8
    return found


def model_of(config: SpikingBERTConfig = CONFIG) -> LoadedModel:
    tensors = tensors_of(config)
    return LoadedModel(config, tensors, "made here", hash_weights(tensors), None)


def write_checkpoint(folder: Path, stored: dict[str, Tensor] | None = None) -> Path:
    """Write a folder as the original does: every alias, shared storages, config.json, vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(stored or FAMILY.expanded(CONFIG, tensors_of()), folder / "model.pth")
    values = {
        "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 12, "intermediate_size": 24,
        "max_position_embeddings": 12, "type_vocab_size": 2, "vocab_size": len(WORDS), "hidden_act": "gelu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


def write_data(folder: Path) -> Path:
    """Write 24 labelled sentences of 1 to 9 words for each split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "validation")):
        made = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1, 10, (24,), generator=made).tolist()
        words = [torch.randint(0, 35, (size,), generator=made).tolist() for size in sizes]
        text = [" ".join(f"w{i}" for i in some) for some in words]
        labels = torch.randint(0, 2, (24,), generator=made).tolist()
        pq.write_table(pa.table({"sentence": text, "label": labels}), folder / f"{split}.parquet")
    return folder


def spec_of(folder: Path, **keys: object) -> StudySpec:
    """Return a study of the checkpoint and data in ``folder``."""
    values = {
        "name": "x", "model": str(folder / "model"), "task": "sst2", "data": str(folder / "data"),
        "tokenizer": str(folder / "model" / "vocab.txt"), "timesteps": 5, "max_drop": 0.5,
        "memory_budget": "90%", "device": "cpu", **keys,
    }  # fmt: skip
    return StudySpec.from_mapping(values)
