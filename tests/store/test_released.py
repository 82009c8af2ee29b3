"""Files that released code wrote: each is upgraded with a copy kept, loses nothing, and goes on."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from qslm_opt.results import Comparison
from qslm_opt.search.driver import run_study
from qslm_opt.store import Repository, migrations, prepare
from tests.search.toy import Recorder, toy
from tests.store.fake_study import url_of

FILES = Path(__file__).resolve().parent / "files"
VERSIONS = sorted(int(path.stem.removeprefix("schema")) for path in FILES.glob("schema*.db"))
KEPT = (
    "trials", "trial_params", "trial_user_attributes", "trial_system_attributes", "trial_values",
    "trial_intermediate_values", "studies", "study_user_attributes", "study_directions",
)  # fmt: skip


def rows(path: Path, table: str, columns: str = "*") -> list[Any]:
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


@pytest.fixture(params=VERSIONS)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[int, Path]:
    """A copy of the file of one schema."""
    path = tmp_path / "q.db"
    shutil.copyfile(FILES / f"schema{request.param}.db", path)
    return request.param, path


def test_there_is_a_file_of_every_schema() -> None:
    assert list(range(1, len(migrations.MIGRATIONS) + 1)) == VERSIONS


def test_an_upgrade_loses_nothing_and_keeps_a_copy(released: tuple[int, Path]) -> None:
    version, path = released
    names = ", ".join(row[1] for row in rows(path, "pragma_table_info('qslm_study')"))
    before = {table: rows(path, table) for table in KEPT}, rows(path, "qslm_study", names)
    prepare(url_of(path))
    assert ({table: rows(path, table) for table in KEPT}, rows(path, "qslm_study", names)) == before
    assert rows(path, "qslm_schema", "version, 0") == [(len(migrations.MIGRATIONS), 0)]
    copies = list(path.parent.glob("q.db.schema*.bak"))
    assert len(copies) == (version < len(migrations.MIGRATIONS))
    for copy in copies:
        assert rows(copy, "qslm_schema", "version, 0") == [(version, 0)]
        assert rows(copy, "trials") == before[0]["trials"]


def test_power_of_a_released_file_is_read(released: tuple[int, Path]) -> None:
    version, path = released
    prepare(url_of(path))
    with Repository(url_of(path)) as repository:
        uuid = repository.study("done").uuid
        assert len(repository.power_devices(uuid)) == len(repository.power_windows(uuid)) == (version >= 2)
        assert len(repository.power_samples("lane", 0, 2e9)) == (30 if version >= 2 else 0)


def test_comparisons_of_a_released_file_are_read(released: tuple[int, Path]) -> None:
    version, path = released
    prepare(url_of(path))
    with Repository(url_of(path)) as repository:
        study = repository.study("done")
        assert list(study.held_back) == ["baseline"] * (version >= 3)
        items = repository.items(study.uuid, "held back", "baseline")
        assert (items is not None) == (version >= 3)
        repository.add_comparison(study.uuid, "searched", "d", Comparison("perplexity", 5.0, 14), None)
        assert repository.comparisons(study.uuid, "searched")["d"].value == 5.0
        assert items is None or [float(loss) for loss in items.losses] == [9.5, 8.25, 7.0]


def test_its_studies_are_read_and_a_half_done_one_goes_on_to_the_same_end(
    released: tuple[int, Path],
) -> None:
    _, path = released
    url = url_of(path)
    prepare(url)
    with Repository(url) as repository:
        done, half = repository.study("done"), repository.study("half")
        assert (done.state, half.state) == ("finished", "stopped")
        wanted = {trial.digest: trial.value for trial in repository.trials("done")}
        earlier = repository.trials("half")
    assert 0 < len(earlier) < len(wanted)
    session = toy(half.spec)
    assert run_study("half", url, session, listener=Recorder()).state == "finished"
    assert session.baselines == 0
    with Repository(url) as repository:
        trials = repository.trials("half")
    assert trials[: len(earlier)] == earlier
    assert {trial.digest: trial.value for trial in trials} == wanted
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert len(optuna.load_study(study_name="half", storage=url).trials) == len(trials)
