"""Studies in and out of files: the part that needs Optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution

from qslm_opt.errors import SpecError
from qslm_opt.hierarchy.tree import Hierarchy
from qslm_opt.search.ledger import open_storage
from qslm_opt.search.space import SearchSpace
from qslm_opt.spec import StudySpec
from qslm_opt.store import Imported, checked, prepare, read_archive, with_words, write_study
from qslm_opt.store.urls import refuse_proxy


def import_study(path: Path, storage: str, name: str | None = None) -> Imported:
    """Store the study of a file in ``storage``, under another name when one is given.

    The file is read to its end twice: once to see that all of it can be used, then to store it in one
    transaction, so that a failure leaves nothing behind.

    Raises:
        UsageError: the file does not exist, ``name`` cannot be one, or ``storage`` is a proxy.
        ArchiveError: the file is damaged, altered, of a newer release, or says what cannot be.
        StudyExistsError: the name is taken.
        StorageError: the storage cannot be written.
    """
    refuse_proxy(storage, "import into")
    for record in _usable(path):
        if record["kind"] == "study":
            _check_name(record, name)
    prepare(storage)
    open_storage(storage).engine.dispose()  # Optuna's tables, of the release that is installed
    return write_study(storage, _usable(path), name)


def _usable(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a file after all checks, Optuna's own among them."""
    for record in checked(read_archive(path)):
        if record["kind"] == "study":
            with_words(_check_space, record)
        elif record["kind"] == "trial":
            with_words(_check_distributions, record)
        yield record


def _check_space(record: Mapping[str, Any]) -> None:
    row = record["row"]
    SearchSpace.of(StudySpec.from_mapping(row["spec"]), Hierarchy.from_json(row["hierarchy"]))


def _check_distributions(record: Mapping[str, Any]) -> None:
    for _, value, distribution in record["params"]:
        _distribution(json.dumps(distribution)).to_external_repr(value)


@lru_cache(maxsize=64)
def _distribution(text: str) -> Any:
    return json_to_distribution(text)


def _check_name(record: Mapping[str, Any], name: str | None) -> None:
    """Check the name that the study is to have, by the rule of a spec's."""
    wanted = record["name"] if name is None else name
    spec = StudySpec.from_mapping(record["row"]["spec"])
    try:
        spec.renamed(wanted)
    except SpecError as error:
        raise SpecError(f"{str(error).rstrip('.')}; give it with --name.") from None
