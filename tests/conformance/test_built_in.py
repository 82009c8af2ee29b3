"""Every other built-in family passes the suite, with sizes as small as they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qslm_opt.conformance import CHECKS, make_case
from qslm_opt.models.registry import BUILT_IN, get_family

if TYPE_CHECKING:
    from qslm_opt.conformance import Case

SMALL: dict[str, dict[str, Any]] = {
    "spikebert": {
        "vocab_size": 40, "depths": 2, "dim": 16, "num_classes": 2, "transforms": True, "heads": 4,
        "timesteps": 3, "length": 12,
    },
    "spikingbert": {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "timesteps": 5, "type_vocab_size": 2, "n_labels": 2,
    },
    "spikelm": {
        "vocab_size": 40, "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 4, "max_position_embeddings": 12, "timesteps": 3, "num_labels": 2,
    },
    "spikellm": {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SMALL))
def case(request: pytest.FixtureRequest) -> Case:
    family = get_family(request.param)
    return make_case(family, family.config_class(**SMALL[request.param]))


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_check_passes(check: Any, case: Case) -> None:
    check(case)


def test_every_family_is_here() -> None:
    assert set(SMALL) | {"spikegpt"} == set(BUILT_IN)
