"""``qslm-opt demo``: the whole main job on the embedded model and data, without a network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from qslm_opt.cli.facts import ENDED
from qslm_opt.cli.options import Deadline, Json, Progress, Storage, reading, storage_url
from qslm_opt.cli.output import narrate
from qslm_opt.cli.running import deadline_of, open_session, report, resumable, run
from qslm_opt.cli.study_create import create_and_run
from qslm_opt.errors import StorageError
from qslm_opt.spec import StudySpec

DEMOS: dict[str, dict[str, Any]] = {
    "demo": {
        "name": "demo", "model": "demo", "task": "demo", "max_increase": "5%", "memory_budget": "12%",
        "precisions": [8, 6, 5, 4, 3, 2], "power_window": 0.5,
    },
    "demo-classify": {
        "name": "demo-classify", "model": "demo", "task": "demo-classify", "max_drop": 0.005,
        "memory_budget": "12%", "precisions": [8, 6, 5, 4, 3, 2], "power_window": 0.5,
    },
}  # fmt: skip
"""The two demo studies; ``studies/demo.toml`` and ``studies/demo-classify.toml`` say the same."""


def demo(
    task: Annotated[
        Literal["demo", "demo-classify"],
        typer.Option("--task", help="demo: perplexity of a language model. demo-classify: accuracy."),
    ] = "demo",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the demo's study first.")] = False,
    deadline: Deadline = None,
    storage: Storage = None,
    progress: Progress = "auto",
    json: Json = False,
) -> None:
    """Run the whole job on the embedded model and data: about a minute on two cores."""
    spec, until = StudySpec.from_mapping(DEMOS[task]), deadline_of(deadline)
    url = storage_url(storage)
    state = _state(spec.name, url)
    if fresh and state is not None:
        from qslm_opt.search.driver import delete_study

        delete_study(spec.name, url)
        state = None
    if state is None:
        create_and_run(spec, url, progress=progress, as_json=json, deadline=until)
    elif state in ENDED:
        narrate(f"study {spec.name!r} has ended before; its result is below. --fresh runs it again")
        report(spec.name, url, as_json=json)
    else:
        narrate(f"study {spec.name!r} exists and is {state}; going on with it. --fresh starts it again")
        with resumable(spec.name, url):
            run(spec.name, url, open_session(spec), progress=progress, as_json=json, deadline=until)


def _state(name: str, url: str) -> str | None:
    """Return the state of the demo's study, None when there is none."""
    try:
        with reading(url) as repository:
            return repository.study(name).state if name in repository.names() else None
    except StorageError:
        return None  # no storage yet; another fault is said when the study is created
