"""Timing: rounds, warm-up, limits, and what running out of memory does to the others."""

from __future__ import annotations

import pytest
import torch

from qslm_opt.bench import timing
from qslm_opt.bench.memory import peak_growth
from qslm_opt.bench.timing import Timing, Variant, interleaved, measure


@pytest.fixture(autouse=True)
def one_call_a_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)


def test_a_timing_is_median_and_range() -> None:
    assert Timing.of([3.0, 1.0, 2.0]) == Timing(2.0, 1.0, 3.0, 3)
    with pytest.raises(ValueError):
        Timing.of([])


def test_every_round_times_each_variant_once() -> None:
    ran: list[str] = []
    variants = {n: Variant(lambda n=n: ran.append(n), lambda n=n: ran.append("warm " + n)) for n in "ab"}
    found = interleaved(variants, repeats=3, seconds_limit=60)
    assert ran == ["warm a", "warm b", "a", "b", "a", "b", "a", "b"]
    assert {name: t.repeats for name, t in found.items() if isinstance(t, Timing)} == {"a": 3, "b": 3}


def test_a_variant_over_its_limit_is_timed_once() -> None:
    assert measure(lambda: None, repeats=5, seconds_limit=0.0).repeats == 1


def test_running_out_of_memory_ends_one_variant_and_other_errors_end_all() -> None:
    def no_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = interleaved({"big": Variant(no_memory), "small": Variant(int)}, repeats=2, seconds_limit=60)
    assert isinstance(found["big"], torch.OutOfMemoryError)
    assert isinstance(found["small"], Timing)
    with pytest.raises(torch.OutOfMemoryError):
        measure(no_memory, repeats=1, seconds_limit=1)

    def wrong() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        interleaved({"wrong": Variant(wrong)}, repeats=1, seconds_limit=1)


def test_peak_growth_sees_what_a_run_holds() -> None:
    megabytes = 64
    found = peak_growth(lambda: torch.ones(megabytes * 2**18).sum(), torch.device("cpu"))
    if found is None:
        pytest.skip("this system has no /proc/self/statm")
    assert 0.8 * megabytes * 2**20 < found < 3 * megabytes * 2**20
