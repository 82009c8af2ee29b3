"""A mapping file is strict: every mistake is one sentence that names the key and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.errors import ModelError, UsageError
from qslm_opt.models.mapping.family import open_mapping
from qslm_opt.models.mapping.keys import read_mapping

HERE = Path(__file__).parent
TEXT = (HERE / "plain_snn.toml").read_text("utf-8")


def written(folder: Path, text: str) -> Path:
    (folder / "plain_snn.py").write_text((HERE / "plain_snn.py").read_text("utf-8"))
    path = folder / "m.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "plain-snn"', 'name = "Plain SNN"', "name 'Plain SNN' must be lower-case"),
        ('name = "plain-snn"', "", "key 'name' is missing; it is a string"),
        ('title = "Plain SNN"', "titel = 1", r"key 'titel' is unknown. Did you mean 'title'\?"),
        ('build = "plain_snn.py:make"', 'build = "plain_snn"', "must be 'package.module:function'"),
        ('build = "plain_snn.py:make"', 'build = "other.py:make"', "other.py' cannot be read"),
        ('timesteps = "steps"', 'timesteps = "step"', "timesteps names argument 'step'"),
        ('timesteps = "steps"', "timesteps = 1.5", "'timesteps' is 1.5; it must be a string or integer"),
        ('arguments = ["ids", "mask"]', 'arguments = ["ids", "masks"]', "call 'masks' is unknown"),
        ('arguments = ["ids", "mask"]', "", "told nothing of padding"),
        ('mask = "float32"', 'mask = "float16"', "call.mask 'float16' is unknown"),
        ("reuse = true", "reuse = 1", "'modules.reuse' is 1; it must be a boolean"),
        ('blocks = ["layers.*"]', 'blocks = "layers.*"', "it must be a list of strings"),
        ('kind = "classes"', 'kind = "labels"', "output.kind 'labels' is unknown"),
        ('kind = "classes"', 'kind = "tokens"', "output.head is missing"),
        ('axes = "SBC"', 'axes = "SCBB"', "output.axes 'SCBB' must be BC"),
        ('axes = "BTN"', 'axes = "BN"', "must have B, T and an axis of neurons"),
        ('calls = "S"', 'calls = "N"', "neurons.spikes.calls 'N' must be S"),
        ("[output]", "[roles]\nweird = []\n[output]", "role 'weird' is unknown"),
        ("[output]", "[roles]\nnorm = 'x'\n[output]", "roles.norm must be a list of patterns"),
        ("[arguments]", "[arguments]\nmodules = 3", "argument 'modules' has a name that configs use"),
        ("[arguments]", "[arguments]\nday = 2020-01-01", "argument 'day' is a date"),
        ("[arguments]", "[arguments]\nfile = 3", "argument 'file' has a name that configs use"),
        ("[arguments]", "[arguments]\nclass = 3", "argument 'class' can be no keyword"),
        ("[arguments]", "[arguments]\nrate = inf", "argument 'rate' is inf; it must be finite"),
        ("steps = 3", "steps = 0", "argument 'steps', the timesteps, is 0; .* from 1 to 4,096"),
        ('timesteps = "steps"', "timesteps = 5000", "'timesteps' is 5000; .* from 1 to 4,096"),
        ('timesteps = "steps"', "vocabulary = 0", "'vocabulary' is 0; it must be an integer from 1"),
        ("[output]", "[encoding]\npad_to = -1\n[output]", "'encoding.pad_to' is -1; it must be an integer"),
        ("[output]", "[encoding]\npad_to = 0\n[output]", "'encoding.pad_to' is 0; .* or leave it out"),
        ("[output]", "[encoding]\npad_to = 1.5\n[output]", "'encoding.pad_to' is 1.5; it must be an integer"),
        ("[output]", "[encoding]\nlongest = 65537\n[output]", "'encoding.longest' is 65537; .* to 65,536"),
        ("[output]", "[encoding]\nlongest = 9\npad_to = 8\n[output]", "longest is 9, above .* is 8; give at"),
        ('arguments = ["ids", "mask"]', 'arguments = ["mask"]', "never hands the module its 'ids'"),
        ('arguments = ["ids", "mask"]', "arguments = 3", "'call.arguments' is 3; it must be a list"),
        ('arguments = ["ids", "mask"]', 'arguments = ["ids", "mask", "ids"]', "names 'ids' twice"),
        ('blocks = ["layers.*"]', "blocks = []", "'modules.blocks' is an empty list"),
        ('input = ["emb"]', 'input = ["emb", ""]', "holds an empty name"),
        ('input = ["emb"]', 'input = ["norm"]', "modules.output and modules.input both name 'norm'"),
        ('kind = "classes"', 'kind = "classes"\nhead = "classifier.weight"', "output.head .* leave it out"),
        ("[[neurons.spikes]]", "[neurons.spikes]", r"write \[\[neurons.spikes\]\]"),
        ("[[neurons.spikes]]", "[neurons]\nreset = 'a:b:c'\n[[neurons.spikes]]", "reset 'a:b:c' must be"),
        ("[output]", "[roles]\nnorm = []\n[output]", "'roles.norm' is an empty list"),
        ("[modules]", "call = 3\n[modules]", "mapping file .*call"),
    ],
)
def test_a_mistake_is_named(old, new, said, tmp_path):
    assert old in TEXT
    with pytest.raises(ModelError, match=said) as error:
        open_mapping(written(tmp_path, TEXT.replace(old, new)))
    assert "m.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_may_be_called_by_keywords_alone(tmp_path):
    call = 'arguments = []\nkeywords = { ids = "ids", mask = "mask" }'
    family = open_mapping(written(tmp_path, TEXT.replace('arguments = ["ids", "mask"]', call)))
    assert family.config_class().blocks == 2


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"mapping file '.*none.toml' does not exist"):
        open_mapping(tmp_path / "none.toml")


def test_the_hash_covers_the_mapping_and_the_code_beside_it(tmp_path):
    path = written(tmp_path, TEXT)
    first = read_mapping(path)
    assert first.family == f"plain-snn@{first.digest[:12]}"
    path.write_text(TEXT + "# more\n")
    second = read_mapping(path)
    (tmp_path / "plain_snn.py").write_text("x = 1\n")
    assert len({first.digest, second.digest, read_mapping(path).digest}) == 3


def test_reading_a_mapping_runs_nothing(tmp_path):
    path = written(tmp_path, TEXT)
    (tmp_path / "plain_snn.py").write_text("raise SystemExit('the code ran')\n")
    family = open_mapping(path)
    with pytest.raises(ModelError, match="SystemExit: the code ran"):
        _ = family.config_class().blocks
