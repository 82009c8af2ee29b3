"""Where the workers of one run compute: a GPU each, a GPU that they share, or a slice of the CPU's cores."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from qslm_opt.pipeline import Session

THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that torch, MKL and numba read when they are loaded."""


@dataclass(frozen=True)
class Place:
    """Where one worker computes."""

    device: str
    """As ``--device`` takes it."""
    threads: int | None = None
    """At most so many CPU threads; None where the worker is not on the CPU, or is alone."""

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that give a process this place; what the user limited further stays."""
        if self.threads is None:
            return {}
        limits = {name: _limit(given.get(name)) or self.threads for name in THREAD_LIMITS}
        return {name: str(min(self.threads, limit)) for name, limit in limits.items()}


def place_workers(
    workers: int, device: str, *, gpus: int, cores: int, environment: Mapping[str, str]
) -> tuple[Place, ...]:
    """Return the places of all workers, that of this process first.

    Args:
        workers: How many there are, this one included.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, as the user gave it.
        gpus: CUDA GPUs that can be used; with ``auto`` and 0, the CPU is.
        cores: CPU cores that this process may use.
        environment: Of this process; its OMP_NUM_THREADS is never raised.
    """
    if workers == 1:
        return (Place(device),)
    if device in ("auto", "cuda") and gpus:
        return tuple(Place(f"cuda:{worker % gpus}") for worker in range(workers))
    if device.startswith("cuda"):
        return (Place(device),) * workers
    threads = max(1, cores // workers)
    return (Place(device, min(threads, _limit(environment.get("OMP_NUM_THREADS")) or threads)),) * workers


def places_of(session: Session, workers: int) -> tuple[Place, ...]:
    """Return where ``workers`` compute that work on the study of an open session, this process first."""
    return places_on(session.engine.device, session.spec.device, workers)


def places_on(device: torch.device, asked: str, workers: int) -> tuple[Place, ...]:
    """Return where ``workers`` compute, this process first, which computes on ``device``.

    ``asked`` is what the user gave for it.
    """
    gpus = 0
    if device.type == "cuda":
        import torch

        gpus = torch.cuda.device_count()
    return place_workers(workers, asked, gpus=gpus, cores=available_cores(), environment=os.environ)


def describe(places: Sequence[Place]) -> str:
    """Return in one line how several workers are placed."""
    threads = places[0].threads
    if threads is not None:
        return f"{len(places)} workers: {threads} thread{'s' * (threads > 1)} each on the CPU"
    return f"{len(places)} workers on {', '.join(dict.fromkeys(place.device for place in places))}"


@contextmanager
def held_to(place: Place) -> Iterator[None]:
    """Hold what this process has loaded of torch and numba to the threads of ``place``, then let it go."""
    torch, numba = (sys.modules.get(name) for name in ("torch", "numba"))
    libraries = [library for library in (torch, numba) if library is not None and place.threads is not None]
    before = [library.get_num_threads() for library in libraries]
    try:
        for library, had in zip(libraries, before, strict=True):
            library.set_num_threads(min(had, place.threads or had))
        yield
    finally:
        for library, had in zip(libraries, before, strict=True):
            library.set_num_threads(had)


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit(text: str | None) -> int | None:
    """The first number of a variable such as OMP_NUM_THREADS, which may be a list; None without one."""
    found = re.match(r"\s*([1-9]\d*)", text or "")
    return int(found[1]) if found else None
