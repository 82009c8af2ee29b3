"""Every built-in family on a GPU gives what it gives on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from qslm_opt.conformance import make_case  # noqa: E402
from qslm_opt.kernels.ops import fast_ops  # noqa: E402
from qslm_opt.models.registry import get_family  # noqa: E402
from tests.conformance.test_built_in import SMALL  # noqa: E402

if TYPE_CHECKING:
    from qslm_opt.conformance import Case
    from qslm_opt.models.family import Inputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CONFIGS = {
    **SMALL,
    "spikegpt": {"vocab_size": 40, "n_layer": 2, "n_embd": 16, "n_labels": 2},
    "spikelm-bipolar": {**SMALL["spikelm"], "input_bits": 1},
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> Case:
    family = get_family(request.param.partition("-")[0])
    return make_case(family, family.config_class(**CONFIGS[request.param]))


def on_gpu(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def inputs_on_gpu(inputs: Inputs) -> Inputs:
    lengths = None if inputs.lengths is None else inputs.lengths.cuda()
    return replace(inputs, ids=inputs.ids.cuda(), lengths=lengths)


def test_float64_gives_the_same_spikes_and_logits(case: Case) -> None:
    for kind in case.kinds:
        cpu, inputs = case.run(kind), case.inputs(kind)
        gpu = case.run(kind, p=on_gpu(case.p), inputs=inputs_on_gpu(inputs))
        assert gpu.counts == cpu.counts
        torch.testing.assert_close(gpu.logits.cpu(), cpu.logits, rtol=1e-9, atol=1e-9)


def test_the_kernels_fire_as_float64_does_but_for_rounding(case: Case) -> None:
    ops = fast_ops("cuda", "fp32")
    for kind in case.kinds:
        exact, inputs = case.run(kind), case.inputs(kind)
        found = case.run(kind, p=on_gpu(case.tensors), inputs=inputs_on_gpu(inputs), ops=ops)
        assert found.finite
        for site, count in exact.counts.items():
            assert abs(found.counts[site] - count) <= max(5, 0.05 * count), site
