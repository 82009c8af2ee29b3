"""Whether the blocks of a module are a chain: each called on what the one before it returned, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from qslm_opt.errors import ModelError

More = Callable[[Tensor, Mapping[str, Tensor]], tuple[Any, Any]]
"""From the stream, and what the whole module was called with, to a block's arguments and keywords."""


class Log:
    """Notes every call of every module in one run."""

    def __init__(self) -> None:
        self.called: dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {}
        self.given: dict[str, Tensor] = {}

    def watch(self, copy: nn.Module, given: dict[str, Tensor]) -> None:
        """Hook every module of ``copy``, which is called with ``given``."""
        self.given = given
        for name, module in copy.named_modules():
            module.register_forward_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Callable[..., None]:
        def note(_: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            self.called.setdefault(name, []).append((arguments, keywords, output))

        return note


def chain(blocks: tuple[str, ...], log: Log) -> Iterator[More]:
    """Yield how each block is called; ModelError where one does not read exactly what the last returned."""
    before: list[Any] | None = None
    for name in blocks:
        calls = log.called.get(name, [])
        first = [call[0][0] if call[0] else None for call in calls]
        problem = (
            "is several modules" if "+" in name
            else "is not called, or not with a tensor first, and returns one" if not calls or not all(
                isinstance(x, Tensor) and isinstance(call[2], Tensor)
                for x, call in zip(first, calls, strict=True))
            else "does not read just what the block before it returned" if before is not None and (
                len(before) != len(first) or any(a is not b for a, b in zip(before, first, strict=True)))
            else "changes the shape of the stream, and is called more than once" if len(calls) > 1 and any(
                call[0][0].shape != call[2].shape for call in calls)
            else ""
        )  # fmt: skip
        if problem:
            raise ModelError(f"modules.reuse: block {name!r} {problem}; set reuse to false.")
        before = [call[2] for call in calls]
        yield _more(name, calls[0][0][1:], calls[0][1], log.given)


def _more(
    name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], given: Mapping[str, Tensor]
) -> More:
    """Return how a block is called again: constants, and what the whole module was called with."""
    known = {id(tensor): what for what, tensor in given.items()}
    for value in (*arguments, *keywords.values()):
        if id(value) not in known and not isinstance(value, (bool, int, float, str, type(None))):
            raise ModelError(
                f"modules.reuse: block {name!r} is called with a {type(value).__name__} that was computed on "
                "the way; set reuse to false."
            )
    at = [known.get(id(value)) for value in arguments]
    named = {key: known.get(id(value)) for key, value in keywords.items()}

    def more(x: Tensor, now: Mapping[str, Tensor]) -> tuple[Any, Any]:
        own = (value if what is None else now[what] for value, what in zip(arguments, at, strict=True))
        return (x, *own), {k: keywords[k] if what is None else now[what] for k, what in named.items()}

    return more
