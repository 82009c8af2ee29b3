"""Counts of spikes: exact, padding left out, and NaN where something is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from qslm_opt.kernels.fire.count import count_spikes  # noqa: E402
from tests.kernels.neuron_arms import ARMS, device_of  # noqa: E402

NAN = float("nan")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
Count = Callable[..., torch.Tensor]


@pytest.fixture(params=[*DTYPES, *(arm for arm in ARMS if arm != "cpu")])
def count(request: pytest.FixtureRequest) -> Count:
    """Return the count of float tensors in a dtype, on the CPU or by Triton in float32."""
    if request.param in DTYPES:
        dtype = DTYPES[request.param]
        return lambda spikes, weights, v=None: count_spikes(
            spikes.to(dtype), weights, None if v is None else v.to(dtype)
        )
    device = device_of(request.param)
    from qslm_opt.kernels.fire import count_cuda

    def by_triton(spikes: Any, weights: Any, v: Any = None) -> torch.Tensor:
        moved = [None if one is None else one.to(device) for one in (spikes, weights, v)]
        with np.errstate(all="ignore"):
            return count_cuda.count(*moved).cpu()

    return by_triton


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 37, 160, 1030])
@pytest.mark.parametrize("padded", [False, True])
def test_spikes_are_counted_by_sign_and_padding(count: Count, padded: bool, width: int) -> None:
    spikes = (2 * draw(7, 4, 3, 5, width)).round().clamp(-1, 1) * 0.7
    inside = torch.arange(5) < torch.tensor([5, 2, 0])[:, None] if padded else None
    kept = spikes if inside is None else spikes * inside[..., None]
    found = count(spikes, inside, draw(8, 3, 5, width))
    assert found.dtype == torch.float64 and found.shape == ()
    assert float(found) == int(torch.count_nonzero(kept)) > 3
    weights = torch.arange(15).reshape(3, 5)  # a token may stand for several
    wanted = (torch.count_nonzero(spikes, dim=-1) * weights).sum()
    assert float(count(spikes, weights)) == int(wanted)
    assert float(count(spikes.transpose(1, 2), None if inside is None else inside.T)) == float(found)
    assert float(count(spikes[:1].expand(6, -1, -1, -1), weights)) == 6 * float(count(spikes[:1], weights))


def test_rows_that_no_program_has_alone_are_all_counted(count: Count) -> None:
    spikes, v = torch.ones(3, 2, 4000, 2), torch.zeros(2, 4000, 2)
    assert float(count(spikes, None, v)) == 48_000
    assert float(count(spikes, torch.full((2, 4000), 3), v)) == 144_000
    v[1, -1, -1] = NAN
    assert torch.isnan(count(spikes, None, v))


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
def test_what_is_no_number_makes_a_count_nan(count: Count, bad: float) -> None:
    spikes, v = torch.ones(2, 3, 4, 5), torch.zeros(3, 4, 5)
    assert float(count(spikes, None, v)) == 120
    v[1, 2, 3] = bad
    assert torch.isnan(count(spikes, None, v))
    spikes[1, 2, 3, 4] = bad
    inside = torch.ones(3, 4, dtype=torch.bool)
    assert torch.isnan(count(spikes, inside))
    inside[2, 3] = False
    assert float(count(spikes, inside)) == 110
    assert float(count(spikes[:, :0], inside[:0])) == 0
    assert float(count(spikes[..., :0], inside)) == 0


def test_a_long_row_of_a_short_dtype_is_counted_to_the_last(count: Count) -> None:
    """4097 is no bfloat16."""
    assert float(count(torch.ones(1, 1, 1, 4097), None)) == 4097
