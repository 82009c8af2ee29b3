from __future__ import annotations

from pathlib import Path

import torch

import qslm_opt
from qslm_opt.models import load_model
from qslm_opt.train.measure import measure
from qslm_opt.train.measure import test_set as demo_test_set

FOLDER = Path(qslm_opt.__file__).parent / "data" / "demo_model"


def test_the_packaged_model_knows_its_tasks_and_takes_few_bytes() -> None:
    model = load_model("demo")
    assert (model.config.n_labels, model.config.has_head) == (2, True)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4e6
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = measure(model.tensors, model.config, *demo_test_set(model.need_tokenizer()))
    torch.set_num_threads(before)
    assert found.perplexity < 70, "a uniform guess has 2048"
    assert found.accuracy is not None
    assert found.accuracy > 0.78
    assert 0.02 < found.firing_rate < 0.5


def test_the_packaged_model_says_how_it_was_made() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    for word in ("qslm-opt model train", "pydoc_data.topics", "Python 3.", "validation", "test"):
        assert word in text
