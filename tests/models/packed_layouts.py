"""Tensors of a packed file by family, in their order, written from docs/packed-format.md alone.

Each layout takes the header's ``config``; nothing of qslm_opt is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Layout = Iterator[tuple[str, Shape]]
Config = Mapping[str, Any]


def pair(name: str, out: int, width: int) -> Layout:
    yield f"{name}.weight", (out, width)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Layout:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def spikegpt(config: Config) -> Layout:
    v, d, f, c = (config[key] for key in ("vocab_size", "n_embd", "n_ffn", "n_labels"))
    yield "emb.weight", (v, d)
    for i in range(config["n_layer"]):
        block = f"blocks.{i}."
        for name in ("ln1", "ln2", "ln0") if i == 0 else ("ln1", "ln2"):
            yield from norm(block + name, d)
        if i == 0 and config["model_type"] == "RWKV-ffnPre":
            yield from _channel(f"{block}ffnPre.", d, f)
        else:
            att = f"{block}att."
            yield from ((att + name, (d,)) for name in ("time_decay", "time_first"))
            yield from ((f"{att}time_mix_{z}", (1, 1, d)) for z in "kvr")
            yield from ((f"{att}{m}.weight", (d, d)) for m in ("key", "value", "receptance", "output"))
        yield from _channel(f"{block}ffn.", d, f)
    yield from norm("ln_out", d)
    if config["has_head"]:
        yield "head.weight", (v, d)
    if c > 0:
        yield "classifier.weight", (c, d)


def _channel(prefix: str, d: int, f: int) -> Layout:
    yield from ((f"{prefix}time_mix_{z}", (1, 1, d)) for z in "kr")
    yield prefix + "key.weight", (f, d)
    yield prefix + "receptance.weight", (d, d)
    yield prefix + "value.weight", (d, f)


def spikebert(config: Config) -> Layout:
    d, h = config["dim"], config["hidden"]
    yield "emb.weight", (config["vocab_size"], d)
    for i in range(config["depths"]):
        block = f"blocks.{i}."
        for m in ("q", "k", "v", "last"):
            yield from pair(f"{block}attn.{m}_m", d, d)
            yield from norm(f"{block}attn.{m}_ln", d)
        yield from pair(f"{block}mlp.fc1", h, d)
        yield from norm(f"{block}mlp.ln1", h)
        yield from pair(f"{block}mlp.fc2", d, h)
        yield from norm(f"{block}mlp.ln2", d)
    yield from norm("last_ln", d)
    yield from pair("classifier", config["num_classes"], d)


def _tables(prefix: str, config: Config) -> Layout:
    d = config["hidden_size"]
    yield f"{prefix}word_embeddings.weight", (config["vocab_size"], d)
    yield f"{prefix}position_embeddings.weight", (config["max_position_embeddings"], d)
    yield f"{prefix}token_type_embeddings.weight", (config["type_vocab_size"], d)
    yield from norm(f"{prefix}LayerNorm", d)


def spikingbert(config: Config) -> Layout:
    d, h = config["hidden_size"], config["intermediate_size"]
    yield from _tables("network_x.", config)
    for k in range(0, 6 * config["num_hidden_layers"], 6):
        for place, name in ((1, "dense"), (2, "dense"), (3, "query"), (4, "dense")):
            yield from pair(f"network_s{k + place}.{name}", d, d)
        yield from norm(f"network_s{k + 4}.LayerNorm", d)
        yield from pair(f"network_s{k + 5}.dense", h, d)
        yield from pair(f"network_s{k + 6}.dense", d, h)
        yield from norm(f"network_s{k + 6}.LayerNorm", d)
    yield from pair("classification", config["n_labels"], d)


def spikelm(config: Config) -> Layout:
    d, h = config["hidden_size"], config["intermediate_size"]
    own = "attention.self."
    amplitudes = (
        f"{own}query.act_clip_val", f"{own}key.act_clip_val", f"{own}clip_key", f"{own}value.act_clip_val",
        f"{own}clip_value", "attention.output.dense.act_clip_val", "intermediate.dense.act_clip_val",
        "output.dense.act_clip_val",
    )  # fmt: skip
    yield from _tables("bert.embeddings.", config)
    for i in range(config["num_hidden_layers"]):
        block = f"bert.encoder.layer.{i}."
        for name in (f"{own}query", f"{own}key", f"{own}value", "attention.output.dense"):
            yield from pair(block + name, d, d)
        yield from pair(f"{block}intermediate.dense", h, d)
        yield from pair(f"{block}output.dense", d, h)
        yield from norm(f"{block}attention.output.LayerNorm", d)
        yield from norm(f"{block}output.LayerNorm", d)
        for name in amplitudes:
            yield from ((f"{block}{name}.{step}", ()) for step in range(config["stored_steps"]))
    yield from pair("bert.pooler.dense", d, d)
    yield from pair("classifier", config["num_labels"], d)


def spikellm(config: Config) -> Layout:
    d, h, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    k, q = (config[key] * config["head_dim"] for key in ("num_key_value_heads", "num_attention_heads"))
    attention = {"q_proj": (q, d), "k_proj": (k, d), "v_proj": (k, d), "o_proj": (d, q)}
    mlp = {"gate_proj": (h, d), "up_proj": (h, d), "down_proj": (d, h)}
    yield "model.embed_tokens.weight", (v, d)
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        for part, biased, matrices in (
            ("self_attn", "attention_bias", attention), ("mlp", "mlp_bias", mlp)
        ):  # fmt: skip
            for name, (out, width) in matrices.items():
                yield f"{block}{part}.{name}.weight", (out, width)
                if config[biased]:
                    yield f"{block}{part}.{name}.bias", (out,)
                if config["salient_known"]:
                    yield f"{block}{part}.{name}.salient", (width,)
        yield f"{block}input_layernorm.weight", (d,)
        yield f"{block}post_attention_layernorm.weight", (d,)
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (v, d)


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "spikegpt": spikegpt, "spikebert": spikebert, "spikingbert": spikingbert, "spikelm": spikelm,
    "spikellm": spikellm,
}  # fmt: skip
