"""What every model family must keep, as checks that any adapter can run; no test framework is needed.

Under pytest, one test a check, as Optuna does for samplers::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_family(check):
        check(make_case(MyFamily(), MyConfig(...small sizes...)))

A check that fails raises AssertionError: one sentence that says what is wrong and what the contract is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING

from qslm_opt.conformance import arithmetic, reading, storage, structure
from qslm_opt.conformance.case import Case, make_case, random_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.models.config import ModelConfig
    from qslm_opt.models.family import Family

__all__ = ["CHECKS", "Case", "check_family", "make_case", "random_tensors"]


def _asserting(check: Callable[[Case], None]) -> Callable[[Case], None]:
    """Return the check with whatever else a broken family raises as an AssertionError."""

    @wraps(check)
    def asserting(case: Case) -> None:
        try:
            check(case)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{case.family.name!r} raised {type(error).__name__} ({error}) where the contract is: "
                f"{(check.__doc__ or '').strip()}"
            ) from error

    return asserting


CHECKS: Mapping[str, Callable[[Case], None]] = {
    check.__name__.removeprefix("check_"): _asserting(check)
    for check in (
        structure.check_facts,
        structure.check_config_round_trip,
        structure.check_config_rejects,
        structure.check_hostile_values,
        structure.check_shapes_round_trip,
        structure.check_hierarchy,
        structure.check_roles,
        structure.check_products_are_matrices,
        structure.check_sites,
        arithmetic.check_shapes,
        arithmetic.check_neurons_fire,
        arithmetic.check_spikes,
        arithmetic.check_pure,
        arithmetic.check_semantics,
        arithmetic.check_prefix,
        arithmetic.check_blocks_apart,
        arithmetic.check_padding,
        arithmetic.check_pads_alike,
        arithmetic.check_batches,
        arithmetic.check_causal,
        reading.check_liveness,
        reading.check_sign_only,
        reading.check_nan_shows,
        reading.check_products,
        reading.check_calibration,
        storage.check_names,
        storage.check_config_json,
        storage.check_lean,
        storage.check_checkpoint,
        storage.check_packing,
    )
}
"""Name → check, in the order in which ``check_family`` runs them."""


def check_family(
    family: Family, config: ModelConfig, *, tensors: Mapping[str, Tensor] | None = None, seed: int = 0
) -> None:
    """Run every check on a small model of ``family``.

    Args:
        config: small sizes with at least two blocks; one for every variant that the family has.
        tensors: canonical name → tensor, where random ones make no legal model of this family.

    Raises:
        AssertionError: the first check that fails, with its name.
    """
    case = make_case(family, config, tensors=tensors, seed=seed)
    for name, check in CHECKS.items():
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
