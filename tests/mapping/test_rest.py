"""The user's module computes in evaluation mode and from rest, however it comes out of its function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.mapping.family import MappedFamily, open_mapping
from tests.mapping.test_facts import HERE, opened

IDS = torch.arange(10).reshape(2, 5)
MADE = "def make(**sizes):\n    return PlainSnn(**sizes)"
USED = (
    "def make(**sizes):\n    made = PlainSnn(**sizes)\n"
    "    made(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1))\n    return made"
)
"""A function whose module has been called: its neurons are not at rest."""
BLOCK = "self.norm = nn.LayerNorm(width)\n        self.own"
TRAINED = "self.norm = nn.Sequential(nn.LayerNorm(width), {})\n        self.own"
FLAT = (
    "class Flat(nn.BatchNorm1d):\n    def forward(self, x):\n"
    "        return super().forward(x.flatten(0, 1)).reshape(x.shape)\n\n\nclass Block(nn.Module):"
)


def logits(family: MappedFamily, ids: Tensor = IDS) -> Tensor:
    config, made = family.config_class(), torch.Generator().manual_seed(0)
    p = {n: torch.rand(shape, generator=made) - 0.3 for n, shape in config.tensor_shapes().items()}
    with torch.inference_mode():
        return family.logits(p, config, Inputs(ids, None), REFERENCE, Fired(None))


@pytest.mark.parametrize("layer", ["nn.Dropout(0.5)", "Flat(width)"])
def test_dropout_drops_nothing_and_batches_have_no_statistics(layer: str, tmp_path: Path) -> None:
    """A trained BatchNorm reads what its checkpoint says, and sentences do not know of one another."""
    code = {BLOCK: TRAINED.format(layer), "class Block(nn.Module):": FLAT}
    family = opened(tmp_path, {}, code)
    assert torch.equal(logits(family), logits(family))
    torch.testing.assert_close(logits(family, IDS[:1]), logits(family)[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reset", ["reset", "plain_reset:all_of"])
def test_neurons_that_come_used_are_reset(
    reset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "plain_reset.py").write_text(
        "def all_of(module):\n    for layer in module.modules():\n"
        "        if type(layer).__name__ == 'Lif':\n            layer.reset()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = {"[[neurons.spikes]]": f'[neurons]\nreset = "{reset}"\n\n[[neurons.spikes]]'}
    rested = logits(opened(tmp_path / "a", {}))
    assert torch.equal(logits(opened(tmp_path / "b", said, {MADE: USED})), rested)
    assert not torch.equal(logits(opened(tmp_path / "c", {}, {MADE: USED})), rested)


@pytest.mark.parametrize("library", ["spikingjelly", "snntorch"])
def test_neurons_of_libraries_that_come_used_are_reset(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    more, call = {
        "spikingjelly": ("", "torch.zeros(2, 5, dtype=torch.long)"),
        "snntorch": ("reset_mem", "torch.zeros(2, 5, dtype=torch.long), torch.full((2,), 5)"),
    }[library]
    texts = [(HERE / f"{library}_snn{end}").read_text("utf-8") for end in (".toml", ".py")]
    if more:
        said = f'[neurons]\nreset = "{more}"\n\n[[neurons.spikes]]'
        texts[0] = texts[0].replace("[[neurons.spikes]]", said)
    used = "\n\nfresh = make\n\n\ndef make(**sizes):\n    import torch\n\n    made = fresh(**sizes)\n"
    found = []
    for name, code in (("a", ""), ("b", f"{used}    made({call})\n    return made\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{library}_snn.py").write_text(texts[1] + code)
        (tmp_path / name / "m.toml").write_text(texts[0].replace("vocab_size = 512", "vocab_size = 40"))
        found.append(logits(open_mapping(tmp_path / name / "m.toml")))
    assert torch.equal(*found)
