"""What one call of a built module shows: its sites, products and sizes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from qslm_opt.errors import ModelError
from qslm_opt.kernels.ops import REFERENCE
from qslm_opt.models.config import Site
from qslm_opt.models.family import Inputs
from qslm_opt.models.mapping.built import in_words
from qslm_opt.models.mapping.calls import Caller, Counter, names_under, picked, reduced
from qslm_opt.models.mapping.chain import Log, More, chain
from qslm_opt.models.mapping.parts import blocks_of, check_names, owner_of, part_of, role_of, vocabulary_of

if TYPE_CHECKING:
    from qslm_opt.models.mapping.built import Built
    from qslm_opt.models.mapping.keys import MappingFile, Spikes

SENTENCES, TOKENS = 2, 6


@dataclass(frozen=True)
class Facts:
    """All that a config says of its module."""

    parts: Mapping[str, str]
    """Tensor → ``input``, ``attention.N``, ``output`` or ``aux``."""
    owners: Mapping[str, str]
    """Tensor → module inside its part, for the unit's name."""
    roles: Mapping[str, str]
    blocks: tuple[str, ...]
    """Module of each block; several of one block joined by ``+``."""
    sites: Mapping[str, tuple[str, Spikes]]
    """Site → (module, how its spikes are read), in the order in which they compute."""
    places: Mapping[str, Site]
    products: Mapping[str, bool]
    by_row: tuple[str, ...]
    vocabulary: int
    labels: int
    stream_width: int
    widest: int
    calls: int
    """Calls of each block; 0 where nothing can be reused."""
    more: tuple[More, ...]
    """How each block is called besides with the stream."""


def look(mapping: MappingFile, built: Built, steps: int) -> Facts:
    """Call the module once and conclude; the module then has no numbers of its own any more.

    Raises:
        ModelError: the mapping file says something of the module that is not so.
    """
    where = f"mapping file {str(mapping.path)!r}"
    try:
        with redirect_stdout(sys.stderr):  # what the module prints
            return _look(mapping, built, steps)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{where}: the module cannot be called as [call] and [output] say ({in_words(mapping, error)}); "
            f"correct them, or the module."
        ) from error


def _look(mapping: MappingFile, built: Built, steps: int) -> Facts:
    names = [name for name, _ in built.module.named_modules() if name]
    check_names(mapping, built, names)
    blocks = blocks_of(mapping, names)
    parts = {name: part_of(mapping, blocks, name) for name in built.state}
    roles = {name: role_of(mapping, built.module, name, parts[name]) for name in built.state}
    vocabulary = vocabulary_of(mapping, built, parts, roles)
    longest = mapping.get("encoding", "pad_to") or min(mapping.get("encoding", "longest") or TOKENS, TOKENS)
    ids = torch.arange(SENTENCES * longest).reshape(SENTENCES, longest) % vocabulary
    caller = Caller(mapping, built, dict(built.state), Inputs(ids, None), REFERENCE)
    log = Log()
    with torch.no_grad():
        out = picked(caller.whole({}, watch=log.watch), mapping.get("output", "item"))
        wanted = _as_result(mapping, out)
        sites, places = _sites(mapping, blocks, log, steps)
        head = mapping.get("output", "head") if mapping.get("output", "kind") == "tokens" else ""
        products, by_row = _sealable(built, log, head)
        built.empty()
        sealed = _checked(caller, wanted, {*products, *by_row})
    built.sealed = frozenset(sealed)
    if head:
        _check_head(caller, head, wanted)
    positions = ids.numel()
    more = tuple(chain(blocks, log)) if mapping.get("modules", "reuse") else ()
    stream = sum(call[0][0].numel() for call in log.called[blocks[0]]) if more else positions
    if stream % positions:
        raise ModelError(f"modules.reuse: {blocks[0]!r} reads no whole number a token; set reuse to false.")
    return Facts(
        parts, {name: owner_of(blocks, parts[name], name) for name in built.state}, roles, blocks, sites,
        places, {n: n == head for n in products if n in sealed}, tuple(n for n in by_row if n in sealed),
        vocabulary, 0 if head else int(wanted.shape[-1]), stream // positions,
        _widest(log, blocks, positions), len(log.called[blocks[0]]) if more else 0, more,
    )  # fmt: skip


def _as_result(mapping: MappingFile, out: Tensor) -> Tensor:
    """Return class logits [B, C] or next-token logits [B, T, V]."""
    tokens = mapping.get("output", "kind") == "tokens"
    axes = mapping.get("output", "axes") or ("BTV" if tokens else "BC")
    if out.dim() != len(axes):
        raise ModelError(f"the output has {out.dim()} axes, {tuple(out.shape)}; output.axes says {axes!r}.")
    found = reduced(out, axes, mapping.get("output", "reduce"))
    if found.shape[0] != SENTENCES:
        raise ModelError(f"the output for {SENTENCES} sentences is {tuple(out.shape)}; correct output.axes.")
    return found


def _sites(
    mapping: MappingFile, blocks: tuple[str, ...], log: Log, steps: int
) -> tuple[dict[str, tuple[str, Spikes]], dict[str, Site]]:
    """Return the sites in the order in which they compute; neurons of the output are none."""
    found: list[tuple[int, str, Spikes, Site]] = []
    for spikes in mapping.spikes:
        names = [n for n in log.called if any(fnmatchcase(n, pattern) for pattern in spikes.modules)]
        if not names:
            raise ModelError(f"neurons.spikes names {list(spikes.modules)}, which was never called.")
        for name in names:
            part = part_of(mapping, blocks, name)
            if any(name == other for _, other, _, _ in found):
                raise ModelError(f"neurons.spikes names {name!r} twice; name it once.")
            if part in ("output", "aux"):
                continue
            block = None if part == "input" else int(part.partition(".")[2])
            site = Site(block, _width(name, spikes, log, steps))
            found.append((-1 if block is None else block, name, spikes, site))
    order = list(log.called)
    found.sort(key=lambda entry: (entry[0], order.index(entry[1])))
    return {n: (n, s) for _, n, s, _ in found}, {n: site for _, n, _, site in found}


def _width(name: str, spikes: Spikes, log: Log, steps: int) -> int:
    counter, calls = Counter(spikes), log.called[name]
    for arguments, _, output in calls:
        counter(nn.Identity(), arguments, output)
    if len(calls) > 1 and not spikes.calls:
        raise ModelError(f"neurons {name!r} are called {len(calls)} times; give calls = 'S' or 'T'.")
    if counter.found[0].dim() != len(spikes.axes):
        raise ModelError(
            f"neurons {name!r} return {tuple(counter.found[0].shape)}; axes says {spikes.axes!r}."
        )
    whole, ids = counter.whole(), log.given["ids"]
    lead = tuple(whole.shape[:-1])
    if lead not in (tuple(ids.shape), (steps, *ids.shape)):
        raise ModelError(
            f"neurons {name!r} give spikes {lead} for {steps} steps of {tuple(ids.shape)} sentences and "
            "tokens; correct axes and calls."
        )
    return int(whole.shape[-1])


def _sealable(built: Built, log: Log, head: str) -> tuple[list[str], list[str]]:
    """Return the weights that may be read by products, and by rows, alone."""
    products, rows = [], []
    for name, module in built.module.named_modules():
        weight = f"{name}.weight" if name else "weight"
        if name not in log.called or weight not in built.state:
            continue
        if type(module).forward is nn.Linear.forward and not (weight == head and module.bias is not None):
            products.append(weight)
        elif type(module) is nn.Embedding and module.max_norm is None:
            rows.append(weight)
    return products, rows


def _checked(caller: Caller, wanted: Tensor, candidates: set[str]) -> set[str]:
    """Return those of ``candidates`` that nothing reads in another way; the module's own numbers are NaN."""
    built, mapping = caller.built, caller.mapping

    def computes(sealed: set[str]) -> bool:
        built.sealed = frozenset(sealed)
        out = _as_result(mapping, picked(caller.whole({}), mapping.get("output", "item")))
        return torch.allclose(out, wanted, rtol=1e-4, atol=1e-4)

    if computes(candidates):
        return candidates
    if not computes(set()):
        raise ModelError(
            "the module gives another result the second time, or without the numbers that it was built with: "
            "it draws random numbers, or computes with tensors that its state_dict has not."
        )
    return {name for name in candidates if computes({name})}


def _check_head(caller: Caller, head: str, wanted: Tensor) -> None:
    """Raise ModelError unless the next-token logits are what the head makes of one tensor, and no more."""
    if head not in caller.built.sealed:
        raise ModelError(f"output.head {head!r} must be the weight of a called nn.Linear without bias.")
    with torch.no_grad():
        found = linear(caller.before_head(head, {}, None), caller.p[head])
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-4, atol=1e-4):
        raise ModelError(
            f"the module does not return what {head!r} makes of its input; nothing may come behind the head "
            "but what output.reduce says."
        )


def _widest(log: Log, blocks: tuple[str, ...], positions: int) -> int:
    """Return the numbers per token that the modules of one block return: the most of all blocks."""
    sizes = []
    for block in blocks:
        own = [n for part in block.split("+") for n in names_under(list(log.called), part)]
        found = (call[2] for name in own for call in log.called[name])
        sizes.append(sum(out.numel() for out in found if isinstance(out, Tensor)))
    return max(1, -(-max(sizes) // positions))
