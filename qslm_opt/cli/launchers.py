"""Where the workers of ``study create --workers N`` are placed: on this host, or on a Ray cluster.

A launcher only places: what is done and what is left is in the storage, whoever placed the workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qslm_opt.cli.options import command, writing
from qslm_opt.cli.output import narrate
from qslm_opt.cli.placement import THREAD_LIMITS
from qslm_opt.errors import QslmError, UsageError

if TYPE_CHECKING:
    from qslm_opt.search.deadline import Deadline
    from qslm_opt.spec import StudySpec

LauncherKind = Literal["local", "ray"]
RETRIES = 3
"""A worker whose host dies is placed again so often."""


def launch_on_ray(spec: StudySpec, url: str, workers: int, deadline: Deadline | None = None) -> None:
    """Place workers on a study that is stored, a GPU each where the cluster has GPUs, and wait for them.

    What is left until ``deadline`` counts from the start of each worker, whose clock may be another.

    The cluster is the one of ``RAY_ADDRESS``, else one on this host alone. Every host needs qslm-opt, the
    model and the data where they are here. Ctrl-C asks the workers to stop after their running trials.

    Raises:
        UsageError: Ray is not installed, or the storage is a file that other hosts do not see.
    """
    ray = import_ray()
    ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        hosts = [node for node in ray.nodes() if node["Alive"]]
        where = shared_url(url, len(hosts))
        each = share_of(ray.cluster_resources(), workers)
        place = ray.remote(**each, max_retries=RETRIES)(work)
        narrate(f"{workers} workers on a Ray cluster of {len(hosts)} host{'s' * (len(hosts) > 1)}")
        words, cpus = worker_words(spec, deadline), int(each["num_cpus"])
        tasks = [place.remote(words, where, cpus) for _ in range(workers)]
        _wait(ray, tasks, spec.name, url)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """Return the package; UsageError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("--launcher ray needs Ray; run: pip install 'qslm-opt[ray]'.") from None
    return ray


def shared_url(url: str, hosts: int) -> str:
    """Return the storage as every worker can name it; UsageError for a file of one host among several."""
    from qslm_opt.store import is_grpc
    from qslm_opt.store.urls import is_sqlite, sqlite_path

    if is_grpc(url) or not is_sqlite(url):
        return url
    if hosts > 1:
        raise UsageError(
            f"storage {url} is a file of this host, and the Ray cluster has {hosts} hosts; give a "
            "postgresql:// or grpc:// --storage that all of them reach."
        )
    return f"sqlite:///{sqlite_path(url).absolute()}"


def share_of(resources: dict[str, float], workers: int) -> dict[str, float]:
    """Return what each worker asks Ray for: a GPU where there are any, and its part of the CPUs."""
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    return {"num_cpus": max(1, int(cpus // workers)), "num_gpus": 1 if gpus else 0}


def worker_words(spec: StudySpec, deadline: Deadline | None = None) -> list[str]:
    """Return the words after ``qslm-opt`` that start a worker."""
    until = [] if deadline is None else ["--deadline", f"{max(1, ceil(deadline.left()))}s"]
    return ["worker", "--study", spec.name, "--progress", "none", *until]


def work(words: Sequence[str], url: str, threads: int) -> tuple[int, str]:
    """Run a worker in a process of its own; return its exit code and the last line that it said."""
    limits = {name: str(threads) for name in THREAD_LIMITS}
    done = subprocess.run(
        [sys.executable, "-m", "qslm_opt.cli.main", *words],
        env={**os.environ, **limits, "QSLM_OPT_STORAGE": url}, cwd=Path.home(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def _wait(ray: Any, tasks: Sequence[Any], name: str, url: str) -> None:
    try:
        ended = ray.get(list(tasks))
    except KeyboardInterrupt:
        narrate("asking the workers to stop after their running trials")
        with writing(url) as repository:
            repository.request_stop(repository.study(name).uuid)
        ray.get(list(tasks))
        raise
    for code, said in ended:
        if code:
            narrate(f"a worker ended with exit code {code}: {said}")
    if all(code not in (0, 4) for code, _ in ended):
        raise QslmError(
            f"none of the {len(ended)} workers on the Ray cluster reached the end; mend what they said, "
            f"then go on: {command('study', 'resume', name, url=url)}."
        )
