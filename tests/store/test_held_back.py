"""Comparisons in the storage: kept once, gone with their study, moved with it, checked in a file."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from sqlalchemy import func, select

from qslm_opt.errors import ArchiveError
from qslm_opt.items import Items
from qslm_opt.results import Comparison
from qslm_opt.search.proxy import methods_of
from qslm_opt.search.transfer import import_study
from qslm_opt.store import Repository, prepare, read_study, wire, write_archive
from qslm_opt.store.measured import KINDS, comparison_fault
from qslm_opt.store.tables import COMPARISON, STUDY
from tests.store.fake_study import FakeStudy, url_of

FOUND = Comparison(
    "accuracy", 0.8, 200, correct=160, low=0.739, high=0.85, baseline=0.81, change=-0.01, change_low=-0.03,
    change_high=0.01, p=0.6, slack=-0.05, split="train", data_hash="h", seconds=1.5, device="cpu",
)  # fmt: skip


def items() -> Items:
    found = Items.empty(200, None)
    found.add(range(200), np.linspace(0, 3, 200), np.arange(200) % 5 > 0)
    return found


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    made = FakeStudy(tmp_path / "q.db")
    made.trial(0.88)
    with Repository(made.url) as repository:
        repository.add_comparison(made.uuid, "held back", "baseline", replace(FOUND, change=None), items())
        repository.add_comparison(made.uuid, "held back", "d1", FOUND, items())
        repository.add_comparison(made.uuid, "searched", "d1", replace(FOUND, value=0.9), None)
    return made


def count(url: str) -> int:
    with Repository(url) as repository, repository._read() as connection:
        return int(connection.execute(select(func.count()).select_from(COMPARISON)).scalar_one())


def test_what_was_stored_first_stays(study: FakeStudy) -> None:
    with Repository(study.url) as repository:
        before = repository.changed()
        repository.add_comparison(study.uuid, "held back", "d1", replace(FOUND, value=0.1), None)
        assert repository.comparisons(study.uuid, "held back")["d1"] == FOUND
        assert list(repository.comparisons(study.uuid, "held back")) == ["baseline", "d1"]
        assert repository.comparisons(study.uuid, "searched")["d1"].value == 0.9
        assert repository.study("s").held_back["d1"] == FOUND
        again = repository.items(study.uuid, "held back", "d1")
        assert again is not None
        assert again.right is not None
        assert again.right.tolist() == (np.arange(200) % 5 > 0).tolist()
        assert repository.items(study.uuid, "searched", "d1") is None
        assert repository.items(study.uuid, "held back", "other") is None
        with Repository(study.url) as other:
            other.add_comparison(study.uuid, "held back", "d2", FOUND, None)
        assert repository.changed() != before


def test_a_deleted_study_takes_its_comparisons_with_it(study: FakeStudy) -> None:
    other = FakeStudy(Path(study.url.removeprefix("sqlite:///")), name="other")
    with Repository(study.url) as repository:
        repository.add_comparison(other.uuid, "searched", "d", FOUND, None)
        repository.delete(study.uuid)
        assert list(repository.comparisons(other.uuid, "searched")) == ["d"]
    assert count(study.url) == 1


def test_comparisons_without_a_study_are_swept(study: FakeStudy) -> None:
    optuna.delete_study(study_name="s", storage=study.url)
    with Repository(study.url) as repository, repository._write() as connection:
        connection.execute(STUDY.update().values(created=0.0))
    prepare(study.url)
    assert count(study.url) == 0


def test_a_proxy_carries_comparisons_and_items(study: FakeStudy) -> None:
    """Through the bytes of the wire, without a server."""
    with Repository(study.url) as repository:
        methods = methods_of(repository, None)  # type: ignore[arg-type]

        def call(method: str, **arguments: Any) -> Any:
            return wire.result(wire.answer(methods, wire.request(method, arguments)))

        which = {"study_uuid": study.uuid, "part": "held back", "digest": "d3"}
        call("add_comparison", **which, comparison=FOUND.to_json(), items=items().to_json())
        call("add_comparison", **{**which, "digest": "d4"}, comparison=FOUND.to_json(), items=None)
        assert Items.from_json(call("items", **which)).losses.tolist() == items().losses.tolist()
        assert call("items", **{**which, "digest": "d4"}) is None
        found = wire.decode_comparisons(call("comparisons", study_uuid=study.uuid, part="held back"))
        assert found == repository.comparisons(study.uuid, "held back")
        row = wire.decode_study(json.loads(json.dumps(call("study", name="s"))))
        assert row.held_back == found
        assert set(found) == {"baseline", "d1", "d3", "d4"}


def test_comparisons_move_with_their_study(study: FakeStudy, tmp_path: Path) -> None:
    write_archive(read_study(study.url, "s"), tmp_path / "s.study")
    there = url_of(tmp_path / "there.db")
    found = import_study(tmp_path / "s.study", there)
    again = import_study(tmp_path / "s.study", there, "again")  # with new ids
    with Repository(study.url) as one, Repository(there) as other:
        for uuid in (found.uuid, again.uuid):
            for part in ("held back", "searched"):
                assert other.comparisons(uuid, part) == one.comparisons(study.uuid, part) != {}
            moved, kept = other.items(uuid, "held back", "d1"), one.items(study.uuid, "held back", "d1")
            assert moved is not None
            assert kept is not None
            assert moved.to_json() == kept.to_json()


def forged(path: Path, change: dict[str, Any]) -> None:
    """Change the last comparison that has items in a study file, and make its checksum fit."""
    lines = path.read_bytes().splitlines(keepends=True)
    place = max(i for i, line in enumerate(lines) if b'"qslm_comparison"' in line and b'"losses"' in line)
    record = json.loads(lines[place])
    row = dict(zip(record["columns"], record["rows"][0], strict=True))
    for key, value in change.items():
        column, _, inner = key.partition("__")
        if inner:
            row[column][inner] = value
        else:
            row[column] = value
    record["rows"][0] = [row[column] for column in record["columns"]]
    lines[place] = json.dumps(record).encode() + b"\n"
    body = b"".join(lines[:-1])
    end = {"kind": "end", "lines": len(lines) - 1, "sha256": sha256(body).hexdigest()}
    path.write_bytes(body + json.dumps(end, separators=(",", ":")).encode() + b"\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measured": []}, "a comparison is no object"),
        ({"measured__n": 0}, "'n' of a comparison is out of range"),
        ({"measured__value": "0.8"}, "'value' of a comparison is '0.8'"),
        ({"measured__p": True}, "'p' of a comparison is 'True'"),
        ({"measured__high": 1e300}, "'high' of a comparison is"),
        ({"items__n": 7}, "the items of a comparison cannot be read"),
        ({"items__right": "AA"}, "the items of a comparison cannot be read"),
        ({"items": [1]}, "the items of a comparison cannot be read"),
        ({"digest": "d" * 65}, "is no text of at most 64 characters"),
    ],
)
def test_a_comparison_that_no_command_could_read_is_refused(
    study: FakeStudy, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = tmp_path / "s.study"
    write_archive(read_study(study.url, "s"), file)
    forged(file, {})
    import_study(file, url_of(tmp_path / "good.db"))
    forged(file, change)
    with pytest.raises(ArchiveError, match=words):
        import_study(file, url_of(tmp_path / "new.db"))


def test_every_field_of_a_comparison_is_of_a_kind_that_is_checked() -> None:
    kinds = {kind for field in fields(Comparison) for kind in str(field.type).split(" | ")}
    assert kinds <= set(KINDS)
    assert comparison_fault(json.loads(json.dumps(FOUND.to_json())), items().to_json()) == ""
    assert Comparison.from_json({**FOUND.to_json(), "of a later release": 1}) == FOUND
