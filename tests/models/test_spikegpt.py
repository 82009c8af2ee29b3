"""The model: its shapes, its two forms, its semantics."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.errors import ModelError  # noqa: E402
from qslm_opt.kernels.ops import REFERENCE, fast_ops  # noqa: E402
from qslm_opt.models import spikegpt  # noqa: E402
from qslm_opt.models.spikegpt_config import SpikeGPTConfig  # noqa: E402


def random_weights(cfg: SpikeGPTConfig, seed: int = 0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """Return weights at which neurons both fire and stay silent."""
    g = torch.Generator().manual_seed(seed)
    p = {}
    for name, shape in cfg.tensor_shapes().items():
        noise = torch.randn(shape, generator=g)
        if "ln" in name.split(".")[-2]:
            noise = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        elif "time_mix" in name:
            noise = noise.sigmoid()
        elif len(shape) == 2:
            noise = noise * 2.0 / shape[1] ** 0.5
        p[name] = noise.to(dtype)
    return p


CONFIGS = {
    "plain": SpikeGPTConfig(50, 3, 32),
    "ffnPre": SpikeGPTConfig(50, 3, 32, model_type="RWKV-ffnPre"),
    "no-heaviside": SpikeGPTConfig(50, 3, 32, embed_spike="off"),
    "rescale": SpikeGPTConfig(50, 5, 32, embed_spike="off", rescale_every=2),
}


def test_the_216m_shape_has_330_tensors() -> None:
    """The public checkpoint's count of tensors and parameters."""
    shapes = SpikeGPTConfig(50277, 18, 768).tensor_shapes()
    assert len(shapes) == 330
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 215_399_424


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_a_config_is_inferred_from_its_own_shapes(cfg: SpikeGPTConfig) -> None:
    """Everything but the semantics is in names and shapes."""
    inferred = SpikeGPTConfig.from_shapes(
        cfg.tensor_shapes(), embed_spike=cfg.embed_spike, rescale_every=cfg.rescale_every
    )
    assert inferred == cfg
    assert SpikeGPTConfig.from_dict(cfg.to_dict()) == cfg


def test_a_foreign_checkpoint_is_refused() -> None:
    """A state dict without SpikeGPT's names is named as such."""
    with pytest.raises(ModelError, match="no SpikeGPT"):
        SpikeGPTConfig.from_shapes({"bert.embeddings.weight": (10, 4)})
    with pytest.raises(ModelError, match="ctx_len"):
        SpikeGPTConfig.from_shapes(CONFIGS["plain"].tensor_shapes(), ctx_length=5)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_the_window_and_the_token_by_token_form_agree(cfg: SpikeGPTConfig) -> None:
    """In float64 both forms fire the same spikes and give the same logits."""
    p = random_weights(cfg, dtype=torch.float64)
    ids = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(1))
    whole, ends, spikes = spikegpt.forward(p, cfg, ids, REFERENCE)
    states, rows, count = None, [], 0
    for t in range(ids.shape[1]):
        h, states, fired = spikegpt.forward(p, cfg, ids[:, t : t + 1], REFERENCE, states)
        rows.append(h)
        count = count + fired
    torch.testing.assert_close(torch.cat(rows, 1), whole, rtol=1e-9, atol=1e-9)
    assert torch.equal(count, spikes)
    assert 0 < spikes.sum() < 2 * cfg.n_layer * cfg.n_embd * ids.numel()
    for end, state in zip(ends, states, strict=True):
        torch.testing.assert_close(state.lif_ffn, end.lif_ffn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_the_fast_path_follows_the_truth(cfg: SpikeGPTConfig) -> None:
    """float32 numba against the float64 truth on a short window, before single flips add up."""
    p = random_weights(cfg)
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    fast, _, spikes = spikegpt.forward(p, cfg, ids, fast_ops("cpu"))
    truth, _, true_spikes = spikegpt.forward({k: v.double() for k, v in p.items()}, cfg, ids, REFERENCE)
    torch.testing.assert_close(fast.double(), truth, rtol=1e-3, atol=1e-3)
    assert torch.equal(spikes, true_spikes)


def test_windows_do_not_leak_into_each_other() -> None:
    """A window's output does not depend on what ran before it or beside it."""
    cfg, ops = CONFIGS["plain"], fast_ops("cpu")
    p = random_weights(cfg)
    ids = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(3))
    together, _, _ = spikegpt.forward(p, cfg, ids, ops)
    alone, _, _ = spikegpt.forward(p, cfg, ids[1:2], ops)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_right_padding_changes_no_earlier_position_and_never_pools() -> None:
    """Class logits of a padded sentence are those of the sentence alone."""
    cfg = SpikeGPTConfig(50, 2, 32, n_labels=3)
    p, ops = random_weights(cfg), fast_ops("cpu")
    sentence = torch.tensor([[4, 9, 2, 30]])
    padded = torch.tensor([[4, 9, 2, 30, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    h, _, _ = spikegpt.forward(p, cfg, sentence, ops)
    hp, _, _ = spikegpt.forward(p, cfg, padded, ops)
    alone = spikegpt.class_logits(p, h, torch.tensor([4]))
    inside = spikegpt.class_logits(p, hp, torch.tensor([4, 7]))
    torch.testing.assert_close(inside[:1], alone, rtol=1e-5, atol=1e-5)


def test_only_the_sign_of_the_embedding_matters_under_the_heaviside() -> None:
    """±1 in place of the embedding gives the same output bit for bit; without the Heaviside it does not."""
    p, ops = random_weights(CONFIGS["plain"]), fast_ops("cpu")
    signs = {**p, "emb.weight": torch.where(p["emb.weight"] >= 0, 1.0, -1.0)}
    ids = torch.arange(50)[None]
    on, off = CONFIGS["plain"], CONFIGS["no-heaviside"]
    assert torch.equal(*(spikegpt.forward(q, on, ids, ops)[0] for q in (p, signs)))
    assert not torch.equal(*(spikegpt.forward(q, off, ids, ops)[0] for q in (p, signs)))


def test_auto_means_heaviside_only_for_the_character_vocabulary() -> None:
    """The authors' RNN form spikes the embedding only at a vocabulary of 77."""
    assert SpikeGPTConfig(77, 2, 8, embed_spike="auto").embedding_spikes
    assert not SpikeGPTConfig(50277, 2, 8, embed_spike="auto").embedding_spikes
