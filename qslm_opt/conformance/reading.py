"""Checks of what is read and how: liveness, signs, products and rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from qslm_opt.conformance.case import Output
from qslm_opt.data import TaskData
from qslm_opt.evaluate.calibrate import input_moments
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models.registry import registered

if TYPE_CHECKING:
    from qslm_opt.conformance.case import Case
    from qslm_opt.kernels.ops import Operand, Weight
    from qslm_opt.models.config import Kind

STRENGTHS = (1.0, 10.0, -3.0)
"""How strongly a live tensor is changed, one after another, until something shows."""


class _Sealed:
    """A product's weight as fast versions hold it: no tensor, opened by ``ops.linear`` alone."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor


class _Rows(_Sealed):
    """An embedding that gives nothing but rows."""

    def rows(self, ids: Tensor) -> Tensor:
        return embedding(ids, self._tensor)


def check_liveness(case: Case) -> None:
    """Changing a tensor that is not live changes nothing; changing one that is changes logits or spikes."""
    for kind in case.kinds:
        before, live = case.run(kind), set(case.live(kind))
        for name in case.config.tensor_shapes():
            if name in live:
                assert any(not before.same(case.run(kind, case.changed(name, s))) for s in STRENGTHS), (
                    f"tensor {name!r} is live for {kind}, but another one in its place changes neither "
                    "logits nor spikes; is_live must say False, or the forward pass must read it."
                )
            else:
                assert before.same(case.run(kind, case.changed(name))), (
                    f"tensor {name!r} is not live for {kind}, but another one in its place changes results."
                )


def check_sign_only(case: Case) -> None:
    """Of a sign-only tensor nothing but the signs matters."""
    for kind in case.kinds:
        before = case.run(kind)
        for name in filter(case.config.reads_sign_only, case.live(kind)):
            draw = torch.Generator().manual_seed(case.seed)
            sizes = torch.rand(case.p[name].shape, generator=draw, dtype=torch.float64) + 0.1
            other = {**case.p, name: torch.sign(case.p[name]) * sizes}
            assert before.same(case.run(kind, other)), (
                f"tensor {name!r} is said to be read by its signs only, but its sizes change the result."
            )


def check_nan_shows(case: Case) -> None:
    """NaN in a live tensor shows in logits or spikes; in one that is not, nowhere."""
    for kind in case.kinds:
        live = set(case.live(kind))
        for name, tensor in case.p.items():
            if case.config.reads_sign_only(name):
                continue
            out = case.run(kind, {**case.p, name: torch.full_like(tensor, torch.nan)})
            if name in live:
                assert not out.finite, (
                    f"NaN in {name!r} shows neither in {kind} logits nor in spikes; hand the potentials to "
                    "Fired.add, so that a neuron whose current is NaN shows."
                )
            else:
                assert out.finite, f"NaN in {name!r}, which is not live for {kind}, reaches the result."


def check_products(case: Case) -> None:
    """Tensors of ``products()`` are read by ``ops.linear`` alone, and ``ops.linear`` reads no others."""
    for kind in case.kinds:
        seen, out = _sealed(case, kind)
        wanted = _products(case, kind)
        assert wanted <= seen, (
            f"{sorted(wanted - seen)[:3]} are products() but no product reads them for {kind}."
        )
        plain = case.run(kind)
        assert out.same(plain), f"held as codes, products give other {kind} logits than as tensors."


def _sealed(case: Case, kind: Kind) -> tuple[set[str], Output]:
    """Run with products and rows that nothing but their own readers can open; return what products read."""
    seen: set[str] = set()
    names: dict[int, str] = {}

    def compute(x: Operand, weight: Weight) -> Tensor:
        assert id(weight) in names, (
            "a tensor is read by ops.linear or ops.affine that products() does not name; name it there."
        )
        seen.add(names[id(weight)])
        return linear(x, weight._tensor)

    p: dict[str, Any] = dict(case.p)
    for name in _products(case, kind):
        p[name] = _Sealed(case.p[name])
        names[id(p[name])] = name
    for name in case.family.read_by_row(case.config):
        p[name] = _Rows(case.p[name])
    try:
        return seen, case.run(kind, p, ops=replace(REFERENCE, linear=compute))
    except (TypeError, AttributeError, RuntimeError) as error:
        raise AssertionError(
            f"a tensor of products() or read_by_row() is read in another way than by ops.linear or rows_of "
            f"({error}); take it from the list, or read it so."
        ) from error


def _products(case: Case, kind: Kind) -> set[str]:
    """Return the products that the body of a task of ``kind`` reads: all but the language-model head."""
    products = case.family.products(case.config)
    return {name for name, head in products.items() if not head and case.config.is_live(name, kind)}


def check_calibration(case: Case) -> None:
    """Calibration sees what every live product reads, so that gptq can use it."""
    for kind in case.kinds:
        wanted = _products(case, kind)
        if kind == "lm":
            wanted |= {case.family.head(case.config)}
        with registered(case.family):
            moments = input_moments(case.tensors, case.config, _data(case, kind), torch.device("cpu"))
        assert set(moments) == wanted, (
            f"calibration saw inputs of {sorted(moments)}; products() that are live for {kind} are "
            f"{sorted(wanted)}."
        )
        for name, moment in moments.items():
            width = case.config.tensor_shapes()[name][1]
            assert moment.shape == (width, width), f"what {name!r} reads is not {width} numbers wide."


def _data(case: Case, kind: Kind) -> TaskData:
    inputs = case.inputs(kind)
    lengths = [inputs.ids.shape[1]] * len(inputs.ids) if inputs.lengths is None else inputs.lengths.tolist()
    rows = tuple(ids[:n].numpy() for ids, n in zip(inputs.ids, lengths, strict=True))
    labels = np.zeros(len(rows), np.int64) if kind == "classification" else None
    window = rows[0].size if kind == "lm" else None
    if kind == "lm":
        rows = tuple(np.concatenate([row, row[:1]]) for row in rows)
    return TaskData(
        "conformance", kind, "made", window, rows, labels, "0" * 16, "random ids",
        tuple(map(str, range(case.config.labels))) if kind == "classification" else (), case.pad_to,
    )  # fmt: skip
