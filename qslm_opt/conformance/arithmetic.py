"""Checks of the forward pass: pure, cut anywhere between blocks, alike in any batch, and honest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from qslm_opt.conformance.case import most_spikes, quiet_sites
from qslm_opt.kernels.ops import REFERENCE, Ops, fast_ops
from qslm_opt.models.family import Fired, Inputs

if TYPE_CHECKING:
    from torch import Tensor

    from qslm_opt.conformance.case import Case, Weights
    from qslm_opt.models.config import Kind


def check_shapes(case: Case) -> None:
    """Logits, stream and ``finish`` have the shapes that the config says, and are finite."""
    for kind in case.kinds:
        inputs = case.inputs(kind)
        rows, tokens = inputs.ids.shape
        out, config = case.run(kind), case.config
        wanted = (rows, config.labels) if kind == "classification" else (rows, tokens, config.vocabulary)
        assert out.logits.shape == wanted, (
            f"{kind} logits are {tuple(out.logits.shape)}; they must be {wanted}."
        )
        assert out.finite, f"{kind} logits or spikes of random tensors are not finite."
        streams, _ = _streams(case, case.p, inputs)
        for i, x in enumerate(streams[1:] if case.family.reuses(config) else ()):
            size = 1.0 if x.is_floating_point() else x.element_size() / 4
            numbers = x.numel() * size / (rows * tokens)
            assert numbers == config.stream_width, (
                f"the stream behind block {i} takes {numbers:g} float32 numbers a token; "
                f"stream_width says {config.stream_width}."
            )


def check_neurons_fire(case: Case) -> None:
    """Random tensors make every site fire, sometimes: the other checks would see nothing otherwise."""
    quiet = quiet_sites(case)
    assert not quiet, (
        f"neurons of {', '.join(quiet[:3])} fire never, or always; give tensors= with which they do."
    )


def check_spikes(case: Case) -> None:
    """``Fired`` gets exactly the sites, each a whole number of spikes that its neurons can fire."""
    for kind in case.kinds:
        out, most = case.run(kind), most_spikes(case, case.inputs(kind))
        assert list(out.counts) == list(case.config.sites()), (
            f"the forward pass counted spikes of {list(out.counts)}; sites() says {list(most)}."
        )
        for site, count in out.counts.items():
            assert count in range(most[site] + 1), (
                f"site {site!r} counted {count} spikes; it must be a whole number from 0 to {most[site]} "
                "(width · tokens · steps, padding left out)."
            )


def check_pure(case: Case) -> None:
    """The same input gives the same bits, whatever came between; nothing that came in is written to."""
    for kind in case.kinds:
        inputs = case.inputs(kind)
        ids, kept = inputs.ids.clone(), {name: tensor.clone() for name, tensor in case.p.items()}
        first = case.run(kind, inputs=inputs)
        case.run(kind, {name: 2 * tensor for name, tensor in kept.items()}, case.inputs(kind, seed=1))
        case.run(kind, inputs=Inputs(ids[:1, :1], None) if not case.pad_to else inputs)
        again = case.run(kind, inputs=inputs)
        written = [name for name, tensor in kept.items() if not torch.equal(tensor, case.p[name])]
        assert not written, f"the forward pass wrote to tensor {written[0]!r}; it must not."
        assert torch.equal(ids, inputs.ids), "the forward pass wrote to the token ids; it must not."
        assert first.same(again), (
            f"the same {kind} input gave other bits the second time: state was carried over from another "
            "call; every call must start from rest."
        )


def check_semantics(case: Case) -> None:
    """A config from shapes and ``semantics()`` alone computes the same."""
    config = case.config
    found = replace(case, config=type(config).from_shapes(config.tensor_shapes(), **config.semantics()))
    for kind in case.kinds:
        assert case.run(kind).same(found.run(kind)), (
            f"from_shapes(tensor_shapes(), **semantics()) computes other {kind} logits or spikes: "
            "semantics() lacks a key that changes numbers."
        )


def check_prefix(case: Case) -> None:
    """Going on from block i on the kept stream equals the whole, bit for bit, and leaves the stream alone."""
    versions: tuple[tuple[Ops, torch.dtype], ...] = (
        (REFERENCE, torch.float64), (fast_ops("cpu"), torch.float32)
    )  # fmt: skip
    for kind in case.kinds if case.family.reuses(case.config) else ():
        inputs = case.inputs(kind)
        for ops, dtype in versions:
            p = {name: tensor.to(dtype) for name, tensor in case.p.items()}
            streams, counts = _streams(case, p, inputs, ops)
            whole = _finish(case, kind, p, streams[-1], inputs, ops)
            for i in range(case.config.blocks):
                kept = streams[i].clone()
                _streams(case, p, case.inputs(kind, seed=1), ops)  # nothing may be remembered of the whole
                rest, later = _streams(case, p, inputs, ops, i, streams[i])
                assert torch.equal(kept, streams[i]), f"run_block {i} wrote to the stream it was given."
                assert torch.equal(_finish(case, kind, p, rest[-1], inputs, ops), whole), (
                    f"going on from block {i} on the kept stream gives other logits than the whole run."
                )
                assert all(counts[site] == n for site, n in later.items()), (
                    f"going on from block {i} on the kept stream gives other spikes than the whole run."
                )


def check_blocks_apart(case: Case) -> None:
    """``embed``, each ``run_block`` and ``finish`` read the tensors of their own unit only."""
    if not case.family.reuses(case.config):
        return
    units = case.config.modules()
    for kind in case.kinds:
        inputs = case.inputs(kind)
        streams, _ = _streams(case, case.p, inputs)
        for i in range(-1, case.config.blocks):
            unit = "input" if i < 0 else f"attention.{i}"
            own = {n for u, names in units.items() if u.partition("/")[0] == unit for n in names}
            only = {n: t if n in own else torch.full_like(t, torch.nan) for n, t in case.p.items()}
            with torch.inference_mode():
                fired = Fired(inputs)
                found = (
                    case.family.embed(only, case.config, inputs, REFERENCE, fired) if i < 0
                    else case.family.run_block(only, case.config, i, streams[i], inputs, REFERENCE, fired)
                )  # fmt: skip
            assert torch.equal(found, streams[i + 1]), (
                f"{'embed' if i < 0 else f'run_block {i}'} reads a tensor that stands outside {unit!r}; what "
                "is kept between blocks would be wrong."
            )


def check_padding(case: Case) -> None:
    """What stands on padded positions never matters, or the family says ``pad_to``."""
    if case.pad_to or "classification" not in case.kinds:
        return
    inputs = case.inputs("classification")
    inside = inputs.inside()
    assert inside is not None
    other = torch.where(inside, inputs.ids, case.config.vocabulary - 1)
    first, second = (
        case.run("classification", inputs=Inputs(ids, inputs.lengths)) for ids in (inputs.ids, other)
    )
    assert first.close(second), (
        "another token id on padded positions changes logits or spikes; mask padding, or declare pad_to."
    )


def check_pads_alike(case: Case) -> None:
    """Where one pad is said to stand for all of a sentence's, it gives what all of them give."""
    encoding = case.family.encoding(case.config)
    if not encoding.pads_alike:
        return
    assert encoding.pad_to is not None, "encoding() says pads_alike, but not pad_to; say how many there are."
    whole = case.inputs("classification").ids
    lengths = torch.tensor([max(1, encoding.pad_to - 3), min(2, encoding.pad_to), 1])
    whole = whole * (torch.arange(encoding.pad_to) < lengths[:, None])
    short = whole[:, : min(int(lengths.max()) + 1, encoding.pad_to)]
    first, second = (
        case.run("classification", inputs=inputs)
        for inputs in (Inputs(whole, None), Inputs(short, lengths, pad_to=encoding.pad_to))
    )
    assert first.close(second), (
        "one pad in the place of all of a sentence's gives other logits or spikes; heed Inputs.weights(), or "
        "do not declare pads_alike."
    )


def check_batches(case: Case) -> None:
    """A batch of one gives what the batch gives, up to rounding; spikes add up exactly."""
    for kind in case.kinds:
        inputs = case.inputs(kind)
        out, total = case.run(kind, inputs=inputs), dict.fromkeys(case.config.sites(), 0.0)
        for row, ids in enumerate(inputs.ids):
            length = len(ids) if inputs.lengths is None else int(inputs.lengths[row])
            alone = case.run(kind, inputs=Inputs(ids[None, :length], None))
            assert torch.allclose(alone.logits[0], out.logits[row], rtol=1e-6, atol=1e-6), (
                f"sentence {row} alone and unpadded gives other {kind} logits than in its batch."
            )
            total = {site: n + alone.counts[site] for site, n in total.items()}
        assert total == {site: out.counts[site] for site in total}, (
            "spikes of the batch are not the sum of its sentences': padding counts, or rows mix."
        )


def check_causal(case: Case) -> None:
    """A language model's logits at a token do not know the tokens behind it."""
    if "lm" not in case.kinds or (tokens := case.inputs("lm").ids.shape[1]) < 2:
        return
    ids = case.inputs("lm").ids
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % case.config.vocabulary], dim=1)
    first, second = (case.run("lm", inputs=Inputs(i, None)).logits[:, : tokens - 1] for i in (ids, other))
    assert torch.allclose(first, second, rtol=1e-9, atol=1e-9), (
        "the last token changes the logits in front of it: a perplexity would look into the future."
    )


def _streams(
    case: Case, p: Weights, inputs: Inputs, ops: Ops = REFERENCE, first: int = 0, x: Tensor | None = None
) -> tuple[list[Tensor], dict[str, float]]:
    """Return the streams in front of block ``first`` and each later one, and behind the last; and spikes."""
    fired = Fired(inputs)
    with torch.inference_mode():
        found = [case.family.embed(p, case.config, inputs, ops, fired) if x is None else x]
        for i in range(first, case.config.blocks):
            found.append(case.family.run_block(p, case.config, i, found[-1], inputs, ops, fired))
    return found, {site: float(n) for site, n in fired.counts.items()}


def _finish(case: Case, kind: Kind, p: Weights, x: Tensor, inputs: Inputs, ops: Ops) -> Tensor:
    with torch.inference_mode():
        h = case.family.finish(p, case.config, x, inputs, ops)
        return case.read(kind, p, h, inputs, ops)
