"""What the mapping file says of the module is held against one call of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qslm_opt.errors import ModelError
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models.family import Fired, Inputs
from qslm_opt.models.mapping.family import MappedFamily, open_mapping

HERE = Path(__file__).parent
TEXT = (HERE / "plain_snn.toml").read_text("utf-8")
CODE = (HERE / "plain_snn.py").read_text("utf-8")


def opened(folder: Path, changes: dict[str, str], code: dict[str, str] | None = None) -> MappedFamily:
    texts = []
    for text, found in ((TEXT, changes), (CODE, code or {})):
        for old, new in found.items():
            assert old in text
            text = text.replace(old, new)
        texts.append(text)
    (folder / "plain_snn.py").write_text(texts[1])
    (folder / "m.toml").write_text(texts[0].replace("vocab_size = 512", "vocab_size = 40"))
    return open_mapping(folder / "m.toml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({'blocks = ["layers.*"]': 'blocks = ["blocks.*"]'}, "modules.blocks names 'blocks.*'"),
        ({'aux = ["teacher"] ': "aux = [] "}, "'teacher.weight' stands in no part"),
        ({'modules = ["layers.*.lif"]': 'modules = ["layers.*.neuron"]'}, "which was never called"),
        ({'calls = "S"': ""}, "called 3 times; give calls"),
        ({'calls = "S"': 'calls = "T"', 'axes = "BTN"': 'axes = "SBN"'}, "correct axes and calls"),
        ({'axes = "SBC"': 'axes = "BC"'}, "the output has 3 axes"),
        ({'axes = "SBC"': 'axes = "BSC"'}, "correct output.axes"),
        ({'arguments = ["ids", "mask"]': 'arguments = ["ids", "lengths", "mask"]'}, "cannot be called as"),
        ({"layers = 2": "layers = 2\ndepth = 9"}, r"build 'plain_snn.py:make' .* failed \(TypeError"),
        ({"plain_snn.py:make": "plain_snn.py:maker"}, "failed .AttributeError: module 'plain_snn.py' has no"),
        ({"plain_snn.py:make": "plain_snn.py:dict"}, "failed .AttributeError"),
        ({'input = ["emb"]': 'input = ["emb", "embed"]'}, "modules.input names 'embed', .* mean 'emb'"),
        ({'["layers.*"]': '["layers.*", "layers.1"]'}, "modules.blocks names 'layers.1' twice"),
        ({"[output]": '[roles]\nnorm = ["layer.*"]\n[output]'}, "names 'layer.*', which no tensor"),
        ({"[output]": '[roles]\nnorm = ["norm.*"]\nbias = ["*.bias"]\n[output]'}, "roles norm and bias"),
        ({"[[neurons.spikes]]": '[neurons]\nreset = "restart"\n[[neurons.spikes]]'}, "a method of no part"),
        ({"[[neurons.spikes]]": '[neurons]\nreset = "os:getcwd"\n[[neurons.spikes]]'}, "'os:getcwd' failed"),
    ],
)
def test_what_is_not_so_is_said(changes, said, tmp_path):
    family = opened(tmp_path, changes)
    with pytest.raises(ModelError, match=said) as error:
        _ = family.config_class().blocks
    assert "m.toml" in str(error.value)


def test_neurons_that_are_named_twice_are_refused(tmp_path):
    family = opened(tmp_path, {})
    again = '[[neurons.spikes]]\nmodules = ["layers.0.lif"]\naxes = "BTN"\ncalls = "S"\n'
    (tmp_path / "m.toml").write_text((tmp_path / "m.toml").read_text() + again)
    with pytest.raises(ModelError, match=r"neurons\.spikes names 'layers.0.lif' twice"):
        _ = open_mapping(tmp_path / "m.toml").config_class().blocks
    assert family.config_class().blocks == 2


def test_code_that_exits_or_prints_is_an_error_and_no_data(tmp_path, capsys):
    (tmp_path / "plain_snn.py").write_text("")
    code = {"import torch\n": "import torch\nprint('banner')\nraise SystemExit(0)\n"}
    with pytest.raises(ModelError, match=r"failed \(SystemExit: 0\)"):
        _ = opened(tmp_path, {}, code).config_class().blocks
    assert capsys.readouterr().out == ""


def test_a_forward_that_exits_or_prints_is_an_error_and_no_data(tmp_path, capsys):
    line = next(line for line in CODE.splitlines() if "def forward(self, ids" in line)
    code = {line: f"{line}\n        print('banner')\n        raise SystemExit(0)"}
    with pytest.raises(ModelError, match="SystemExit: 0"):
        _ = opened(tmp_path, {}, code).config_class().blocks
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"h = layer(h, mask)": "h = layer(h, mask) * 1"}, "'layers.1' does not read just what"),
        ({"h = layer(h, mask)": "h = layer(h, mask + 0)"}, "called with a Tensor that was computed on"),
        ({"h = layer(h, mask)": "h = layer(x=h, mask=mask)"}, "not with a tensor first"),
    ],
)
def test_blocks_that_are_no_chain_are_not_reused(code, said, tmp_path):
    with pytest.raises(ModelError, match=said):
        _ = opened(tmp_path, {}, code).config_class().blocks
    family = opened(tmp_path, {"reuse = true": "reuse = false"}, code)
    assert family.reuses(family.config_class()) is False


def logits(family: MappedFamily, tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return family.logits(tensors, family.config_class(), Inputs(ids, None), REFERENCE, Fired(None))


def test_logits_are_the_modules_own_bit_for_bit(tmp_path):
    from tests.mapping import plain_snn

    torch.manual_seed(0)
    module = plain_snn.make(vocab_size=40, width=24, layers=2, steps=3, classes=2).eval()
    ids = torch.randint(0, 40, (3, 5))
    with torch.no_grad():
        wanted = module(ids, torch.ones(3, 5)).mean(0)
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    for change in ({}, {"reuse = true": "reuse = false"}):
        assert torch.equal(logits(opened(tmp_path, change), tensors, ids), wanted)


def test_a_weight_that_is_read_past_its_layer_is_no_product(tmp_path):
    code = {"mean = (h * mask": "h = h + 0.01 * self.own.weight.sum()\n        mean = (h * mask"}
    family = opened(tmp_path, {}, code)
    products = family.products(family.config_class())
    assert set(products) == {"layers.0.all.weight", "layers.1.all.weight", "classifier.weight"}


def test_a_module_that_draws_random_numbers_is_refused(tmp_path):
    code = {"= self.norm(x)\n": "= self.norm(x) + torch.rand_like(x)\n"}
    family = opened(tmp_path, {}, code)
    with pytest.raises(ModelError, match="it draws random numbers"):
        _ = family.config_class().blocks


def test_roles_and_signs_may_be_said(tmp_path):
    roles = '[roles]\nnorm = ["*.own.bias"]\nsign_only = ["emb.weight"]\n\n[output]'
    config = opened(tmp_path, {"[output]": roles}).config_class()
    assert config.role("layers.1.own.bias") == "norm" and config.role("layers.0.lif.decay") == "neuron"
    assert config.reads_sign_only("emb.weight") and not config.reads_sign_only("classifier.weight")


def test_sizes_and_steps_are_keys_of_the_config(tmp_path):
    family = opened(tmp_path, {})
    config = family.config_class(timesteps=5, layers=3, width=8)
    assert config.arguments() == {"vocab_size": 40, "width": 8, "layers": 3, "steps": 5, "classes": 2}
    assert config.blocks == 3 and config.stream_width == 5 * 8
    with pytest.raises(ModelError, match="'layers' is 1000; it must be at most 32"):
        family.config_class(layers=1000)
    with pytest.raises(ModelError, match="made with mapping file 0000"):
        family.config_class(mapping="0" * 64)


def test_a_tie_that_is_stored_once_has_both_names(tmp_path):
    code = {"self.teacher = nn.Linear(width, 3)": "self.teacher = nn.Linear(width, 3)\n"
            "        self.layers[1].all.weight = self.layers[0].all.weight"}  # fmt: skip
    family = opened(tmp_path, {}, code)
    config = family.config_class()
    stored = {name: torch.zeros(shape) for name, shape in config.tensor_shapes().items()}
    del stored["layers.1.all.weight"]
    found = family.canonical(stored, {})
    assert found["layers.1.all.weight"] is found["layers.0.all.weight"]


def test_build_is_a_path_from_the_mapping_files_folder(tmp_path):
    digests = set()
    for build in ("../code/plain_snn.py:make", f"{tmp_path}/code/plain_snn.py:make"):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "maps").mkdir(exist_ok=True)
        (tmp_path / "code/plain_snn.py").write_text(CODE)
        (tmp_path / "maps/m.toml").write_text(TEXT.replace("plain_snn.py:make", build))
        family = open_mapping(tmp_path / "maps/m.toml")
        assert family.config_class().blocks == 2
        (tmp_path / "code/plain_snn.py").write_text(CODE + "# an edit is another model")
        digests |= {family.mapping.digest, open_mapping(tmp_path / "maps/m.toml").mapping.digest}
    assert len(digests) == 4
