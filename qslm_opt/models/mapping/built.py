"""A module that a mapping file builds: its tensors, and fresh copies of it that compute at rest.

Building runs the user's code. Every call computes in a copy that no call has touched, so nothing is carried
over; its own weights are NaN, so that what is read in another way than handed in shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qslm_opt.errors import ModelError, in_a_line
from qslm_opt.kernels.ops import rows_of
from qslm_opt.models.mapping.keys import source_file

if TYPE_CHECKING:
    from qslm_opt.kernels.ops import Ops
    from qslm_opt.models.mapping.keys import MappingFile


@dataclass
class Built:
    """A module in its state at rest, without numbers of its own."""

    module: nn.Module
    state: dict[str, Tensor]
    """Name → float tensor as it was built; the same tensor under each name of a tie."""
    others: dict[str, Tensor]
    """Tensors of the state that are not float, such as counters: they stay as they were built."""
    sealed: frozenset[str] = frozenset()
    """Tensors that are read by products or by rows alone."""
    reset: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where its own buffers are."""
    _kept: dict[int, Any] = field(default_factory=dict, repr=False)

    def empty(self) -> None:
        """Forget the numbers of the module: each float tensor becomes NaN, which takes no memory."""
        with torch.no_grad():
            for name, tensor in self.state.items():
                owner, _, last = name.rpartition(".")
                nothing = torch.full((), torch.nan, dtype=tensor.dtype).expand(tensor.shape)
                module = self.module.get_submodule(owner)
                if last in module._parameters:
                    module._parameters[last] = nn.Parameter(nothing, requires_grad=False)
                else:
                    module._buffers[last] = nothing
        self.keep()

    def keep(self) -> None:
        """Note which tensors copies share with the module."""
        self._kept = {id(t): t for t in self.module.state_dict(keep_vars=True).values()}

    def place(self, device: torch.device) -> None:
        """Move its own buffers, once: nothing is copied to a device while a CUDA graph is recorded there."""
        if device == self.device:
            return
        for module in self.module.modules():
            for name, tensor in list(module.named_buffers(recurse=False)):
                if id(tensor) not in self._kept:
                    module._buffers[name] = tensor.to(device)
        self.others = {name: tensor.to(device) for name, tensor in self.others.items()}
        self.device = device

    def fresh(self, part: str = "", hollow: Collection[str] = ()) -> nn.Module:
        """Return a copy of the module, or of a part of it, at rest.

        Modules named in ``hollow`` share what is inside them: for those whose forward is replaced.
        """
        known = dict(self._kept)
        for name in hollow:
            module = self.module.get_submodule(name)
            shell = object.__new__(type(module))
            shell.__dict__ = module.__dict__.copy()
            known[id(module)] = shell
        copy = deepcopy(self.module.get_submodule(part), known)
        reset_state(copy, self.reset)
        return copy

    def prepared(
        self, copy: nn.Module, part: str, p: Mapping[str, Any], ops: Ops, dtype: torch.dtype,
        hollow: Collection[str] = (),
    ) -> dict[str, Tensor]:  # fmt: skip
        """Let ``copy`` read products by ``ops`` and rows by ``rows_of``; return its other tensors by name.

        What stands inside modules named in ``hollow`` is left alone.
        """
        prefix, there = f"{part}." if part else "", frozenset(p)
        inside = tuple(f"{name}." for name in hollow)
        names = [n for n in self.state if n.startswith(prefix) and n in there and not n.startswith(inside)]
        own = {n.removeprefix(prefix): n for n in names}
        for last, name in own.items():
            if name in self.sealed:
                read_through(copy.get_submodule(last.rpartition(".")[0]), p, name, ops)
        shared = {id(m) for name in hollow for m in copy.get_submodule(name).modules()}
        for module in (m for m in copy.modules() if id(m) not in shared):
            for name, tensor in list(module.named_buffers(recurse=False)):
                if id(tensor) not in self._kept and tensor.is_floating_point():
                    module._buffers[name] = tensor.to(dtype)
        others = {
            n.removeprefix(prefix): t
            for n, t in self.others.items()
            if n.startswith(prefix) and not n.startswith(inside)
        }
        plain = {last: p[name] for last, name in own.items() if name not in self.sealed}
        return plain | others


def read_through(module: nn.Module, p: Mapping[str, Any], name: str, ops: Ops) -> None:
    """Replace the forward of a Linear or Embedding by one that reads weight ``name`` of ``p`` by ``ops``."""
    weight = p[name]
    if isinstance(module, nn.Embedding):
        module.forward = partial(rows_of, weight)  # type: ignore[method-assign]
        return
    bias = p[f"{name.removesuffix('weight')}bias"] if getattr(module, "bias", None) is not None else None

    def forward(x: Tensor) -> Tensor:
        like = weight if isinstance(weight, Tensor) else bias
        return ops.affine(x if like is None else x.to(like.dtype), weight, bias)

    module.forward = forward


class _AsDouble(TorchFunctionMode):
    """Where a float64 model is computed, ``.float()`` of its own code means float64 too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        return func(*args, **(kwargs or {}))


def in_dtype(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context in which the module's own code computes in ``dtype``."""
    return _AsDouble() if dtype == torch.float64 else nullcontext()


def reset_state(module: nn.Module, how: str) -> None:
    """Reset by ``how``: a function ``package.module:function`` of the module, or a method of its parts."""
    if not how:
        return
    try:
        _reset(module, how)
    except (Exception, SystemExit) as error:
        raise ModelError(f"neurons.reset {how!r} failed ({in_a_line(error)}); correct it.") from error


def _reset(module: nn.Module, how: str) -> None:
    where, _, name = how.rpartition(":")
    if where:
        getattr(import_module(where), name)(module)
        return
    for part in module.modules():
        method = getattr(part, name, None)
        if callable(method):
            method()


def build(mapping: MappingFile, arguments: Mapping[str, Any]) -> Built:
    """Build the module in evaluation mode, with the numbers that it is built with.

    Raises:
        ModelError: the user's function is not there, fails, or gives no module.
    """
    text = mapping.get("", "build")
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # state that a call leaves behind can then be copied
            stack.enter_context(redirect_stdout(sys.stderr))
            torch.manual_seed(0)
            module = _function(mapping, text)(**arguments)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"mapping file {str(mapping.path)!r}: build {text!r} with {dict(arguments)} failed "
            f"({in_words(mapping, error)}); correct the function, or its arguments."
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"mapping file {str(mapping.path)!r}: build {text!r} gave a {type(module).__name__}; it must "
            "return a torch.nn.Module."
        )
    module = module.eval().requires_grad_(False)
    whole = module.state_dict(keep_vars=True)
    state = {name: tensor for name, tensor in whole.items() if tensor.is_floating_point()}
    others = {name: tensor for name, tensor in whole.items() if name not in state}
    built = Built(module, state, others, reset=mapping.get("neurons", "reset"))
    built.keep()
    return built


def in_words(mapping: MappingFile, error: BaseException) -> str:
    """Return an error of the user's code as one line, with the name of its file and not of our module."""
    path = source_file(mapping.path, mapping.get("", "build"))
    line = in_a_line(error)
    return line if path is None else line.replace(_module_name(mapping), path.name)


def _module_name(mapping: MappingFile) -> str:
    return f"qslm_opt_mapped_{mapping.digest[:16]}"


def _function(mapping: MappingFile, text: str) -> Callable[..., Any]:
    """Return the user's function: of a package, or of the .py file beside the mapping file."""
    where, _, name = text.partition(":")
    path = source_file(mapping.path, text)
    if path is None:
        found: Callable[..., Any] = getattr(import_module(where), name)
        return found
    own = _module_name(mapping)
    if own not in sys.modules:
        spec = spec_from_file_location(own, path)
        if spec is None or spec.loader is None:
            raise ModelError(f"{str(path)!r} is no Python file.")
        sys.modules[own] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[own])
        except BaseException:
            del sys.modules[own]
            raise
    made: Callable[..., Any] = getattr(sys.modules[own], name)
    return made
