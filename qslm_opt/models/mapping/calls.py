"""Calls of a mapped module, whole or in parts: what goes in, what is counted, what comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qslm_opt.models.mapping.built import in_dtype

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.family import Fired, Inputs
    from qslm_opt.models.mapping.built import Built
    from qslm_opt.models.mapping.keys import MappingFile, Spikes

_MASKS = {"bool": torch.bool, "int64": torch.int64, "float32": torch.float32}
Patch = Callable[..., Any]


class Enough(BaseException):
    """Ends a call of the module whose rest is not needed."""


@dataclass
class Counter:
    """What one site of neurons returned, call after call."""

    spikes: Spikes
    found: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    """Sums of 0 · what neurons compute with: NaN where it was not finite, which no spike would tell."""

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Note one call, as a forward hook."""
        self.found.append(output if isinstance(output, Tensor) else output[self.spikes.item])
        own = (*arguments, *module.parameters(), *module.buffers())
        self.read += [(a * 0).sum() for a in own if isinstance(a, Tensor) and a.is_floating_point()]

    def whole(self) -> Tensor:
        """Return all spikes as [B, T, N], or [S, B, T, N]."""
        axes = self.spikes.calls + self.spikes.axes
        x = torch.stack(self.found) if self.spikes.calls else self.found[0]
        front = [letter for letter in "SBT" if letter in axes]
        order = [axes.index(letter) for letter in front]
        order += [i for i, letter in enumerate(axes) if letter not in front]
        return x.permute(order).flatten(len(front))

    def add_to(self, fired: Fired, site: str) -> None:
        """Count the spikes."""
        fired.add(site, self.whole(), torch.stack(self.read) if self.read else None)


@dataclass(frozen=True)
class Caller:
    """Calls copies of one built module with given tensors, inputs and operations."""

    mapping: MappingFile
    built: Built
    p: Mapping[str, Any]
    inputs: Inputs
    ops: Ops

    @cached_property
    def dtype(self) -> torch.dtype:
        """The float type of the tensors that came."""
        there = frozenset(self.p)
        plain = (self.p[n] for n in self.built.state if n in there and n not in self.built.sealed)
        kinds = (t.dtype for t in (*plain, *self.p.values()) if isinstance(t, Tensor))
        return next(kinds, torch.float32)

    def given(self) -> dict[str, Tensor]:
        """Return what the module can be called with."""
        ids, inside = self.inputs.ids, self.inputs.inside()
        kind = _MASKS[self.mapping.get("call", "mask")]
        mask = torch.ones_like(ids, dtype=torch.bool) if inside is None else inside
        lengths = self.inputs.lengths
        if lengths is None:
            lengths = ids.new_full(ids.shape[:1], ids.shape[1])
        mask = mask.to(self.dtype if kind == torch.float32 else kind)
        return {"ids": ids, "mask": mask, "lengths": lengths}

    def whole(
        self,
        sites: Mapping[str, tuple[str, Spikes]],
        fired: Fired | None = None,
        patches: Mapping[str, Patch] | None = None,
        watch: Callable[[nn.Module, dict[str, Tensor]], None] | None = None,
    ) -> Any:
        """Call the module: its output, or None where a patch raised ``Enough``.

        Args:
            sites: site → (module, how its spikes are read), of those that are counted in ``fired``.
            patches: module → what takes the place of its forward.
        """
        hollow, given = tuple(patches or {}), self.given()
        self.built.place(given["ids"].device)
        copy = self.built.fresh(hollow=hollow)
        tensors = self.built.prepared(copy, "", self.p, self.ops, self.dtype, hollow)
        for name, forward in (patches or {}).items():
            copy.get_submodule(name).forward = forward
        if watch is not None:
            watch(copy, given)
        call = self.mapping.tables["call"]
        arguments = tuple(given[what] for what in call["arguments"])
        keywords = {key: given[what] for key, what in call["keywords"].items()}
        return self._called(copy, "", tensors, arguments, keywords, sites, fired)

    def before_head(
        self,
        head: str,
        sites: Mapping[str, tuple[str, Spikes]],
        fired: Fired | None,
        patches: Mapping[str, Patch] | None = None,
    ) -> Tensor:
        """Return what the language-model head reads, [B, T, D]; the head itself is not computed."""
        read: list[Tensor] = []
        rows = self.built.state[head].shape[0]

        def forward(x: Tensor) -> Tensor:
            read.append(x)
            return x.new_zeros(()).expand(*x.shape[:-1], rows)

        module = head.removesuffix(".weight")
        self.whole(sites, fired, {**(patches or {}), module: forward})
        axes = self.mapping.get("output", "axes") or "BTV"
        how = self.mapping.get("output", "reduce")
        if "S" not in axes or read[0].dim() == len(axes):
            return reduced(read[0], axes, how)
        return reduced(torch.stack(read), "S" + axes.replace("S", ""), how)  # called once a step

    def part(
        self, name: str, x: Tensor, more: Callable[[Tensor, Mapping[str, Tensor]], tuple[Any, Any]],
        sites: Mapping[str, tuple[str, Spikes]], fired: Fired,
    ) -> Tensor:  # fmt: skip
        """Call one submodule with each of ``x`` [calls, …], one after the other: [calls, …]."""
        given = self.given()
        self.built.place(given["ids"].device)
        copy = self.built.fresh(name)
        tensors = self.built.prepared(copy, name, self.p, self.ops, self.dtype)
        found: list[Tensor] = []
        counters = _counting(copy, name, sites)
        with in_dtype(self.dtype):
            for own in x:
                arguments, keywords = more(own, given)
                found.append(
                    functional_call(copy, tensors, arguments, keywords, tie_weights=False, strict=False)
                )
        for site, counter in counters.items():
            counter.add_to(fired, site)
        return torch.stack(found)

    def _called(
        self, copy: nn.Module, name: str, tensors: dict[str, Tensor], arguments: tuple[Any, ...],
        keywords: dict[str, Any], sites: Mapping[str, tuple[str, Spikes]], fired: Fired | None,
    ) -> Any:  # fmt: skip
        counters = _counting(copy, name, sites)
        try:
            with in_dtype(self.dtype):
                out = functional_call(copy, tensors, arguments, keywords, tie_weights=False, strict=False)
        except Enough:
            out = None
        if fired is not None:
            for site, counter in counters.items():
                counter.add_to(fired, site)
        return out


def _counting(
    copy: nn.Module, part: str, sites: Mapping[str, tuple[str, Spikes]]
) -> dict[str, Counter]:
    """Hook a counter to each site's module, named from the whole module."""
    found = {}
    for site, (name, spikes) in sites.items():
        found[site] = Counter(spikes)
        own = name[len(part) :].removeprefix(".") if part else name
        copy.get_submodule(own).register_forward_hook(found[site])
    return found


def picked(output: Any, item: str | int) -> Tensor:
    """Return the tensor of a module's output that holds the result; TypeError or KeyError where none is."""
    if item == "":
        found = output if isinstance(output, Tensor) else output[0]
    elif isinstance(item, int) or isinstance(output, Mapping):
        found = output[item]
    else:
        found = getattr(output, item)
    if not isinstance(found, Tensor):
        raise TypeError(f"the output is a {type(found).__name__}, no tensor")
    return found


def reduced(x: Tensor, axes: str, how: str) -> Tensor:
    """Return ``x`` without its time steps, sentences first, then tokens where there are any."""
    if "S" in axes:
        at = axes.index("S")
        x = x.select(at, -1) if how == "last" else x.mean(at) if how == "mean" else x.sum(at)
        axes = axes.replace("S", "")
    return x.permute([axes.index(letter) for letter in sorted(axes, key="BTCV".index)])


def names_under(names: Collection[str], part: str) -> list[str]:
    """Return the names that are ``part`` or stand below it."""
    return [name for name in names if name == part or name.startswith(f"{part}.")]
