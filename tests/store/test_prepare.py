from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from qslm_opt.errors import SchemaError, StorageError, UsageError
from qslm_opt.store import Repository, migrations, optuna_storage_kwargs, prepare
from qslm_opt.store.failures import ROOM_BYTES
from qslm_opt.store.tables import METADATA
from tests.store.fake_study import FakeStudy, url_of

ROOT = Path(__file__).resolve().parents[2]
NEWEST = len(migrations.MIGRATIONS)


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (version,) = connection.execute("SELECT version FROM qslm_schema").fetchone()
    return int(version)


def test_a_new_file_has_our_tables_and_a_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    prepare(url_of(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    power = {f"qslm_power_{name}" for name in ("device", "sample", "rollup", "state", "window")}
    ours = {"qslm_schema", "qslm_study", "qslm_run", "qslm_comparison"}
    assert {name for (name,) in rows} == ours | power
    assert version_of(path) == len(migrations.MIGRATIONS)


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    prepare(url_of(path))
    before = path.read_bytes()
    prepare(url_of(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["q.db"]


def test_the_migrations_end_in_exactly_the_tables_that_are_used(tmp_path: Path) -> None:
    prepare(url_of(tmp_path / "q.db"))
    migrated = create_engine(url_of(tmp_path / "q.db"))
    expected = create_engine(url_of(tmp_path / "expected.db"))
    METADATA.create_all(expected)

    def columns(name: str, engine: object) -> list[tuple[str, str, bool, int]]:
        found = inspect(engine).get_columns(name)
        return [(c["name"], str(c["type"]), c["nullable"], c["primary_key"]) for c in found]

    for name in METADATA.tables:
        assert columns(name, migrated) == columns(name, expected)


def test_optuna_and_its_schema_check_live_beside_our_tables(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.9)
    storage = optuna.storages.RDBStorage(study.url, engine_kwargs=optuna_storage_kwargs(study.url))
    storage.upgrade()
    assert optuna.load_study(study_name="s", storage=storage).best_value == 0.9
    with storage.engine.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # every result is synced
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE qslm_study ADD COLUMN later INTEGER"))


def fail_half_way(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE qslm_study ADD COLUMN half INTEGER"))
    raise RuntimeError("stop")


def test_an_upgrade_keeps_a_copy_of_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = FakeStudy(tmp_path / "q.db")
    study.trial(0.9)
    study.close()
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, add_column))
    older = f"has schema {NEWEST}, older than {NEWEST + 1}; 'qslm-opt study list' upgrades it"
    with pytest.raises(SchemaError, match=older):
        Repository(study.url, read_only=True)
    prepare(study.url)
    assert version_of(tmp_path / "q.db") == NEWEST + 1
    assert len(Repository(study.url).trials("s")) == 1
    (copy,) = tmp_path.glob(f"q.db.schema{NEWEST}-*.bak")
    assert version_of(copy) == NEWEST
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'qslm_study'").fetchone()
    assert "later" not in sql


def test_a_migration_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that an upgrade does is one transaction: the migration before the failing one is undone as well."""
    prepare(url_of(tmp_path / "q.db"))
    before = version_of(tmp_path / "q.db")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, add_column, fail_half_way))
    with pytest.raises(RuntimeError, match="stop"):
        prepare(url_of(tmp_path / "q.db"))
    assert version_of(tmp_path / "q.db") == before
    with sqlite3.connect(tmp_path / "q.db") as connection:
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'qslm_study'").fetchone()
    assert "later" not in sql
    assert "half" not in sql


def test_an_upgrade_without_room_for_the_copy_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    prepare(url_of(path))
    before = version_of(path)
    room = path.stat().st_size + ROOM_BYTES - 1
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": room})())
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, add_column))
    with pytest.raises(StorageError, match=r"no room for the copy of [\d,]+ bytes that is kept; free"):
        prepare(url_of(path))
    assert version_of(path) == before
    assert list(tmp_path.glob("*.bak*")) == []


def test_processes_that_upgrade_at_once_keep_one_copy_which_others_may_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    prepare(url_of(path))
    path.chmod(0o600)
    before = version_of(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, add_column))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, [url_of(path)] * 8))
    assert version_of(path) == before + 1
    (copy,) = tmp_path.glob("*.bak")
    assert version_of(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.part*")) == []


def test_a_storage_of_a_newer_release_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    prepare(url_of(path))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE qslm_schema SET version = 99")
    for attempt in (prepare, Repository, lambda url: Repository(url, read_only=True)):
        with pytest.raises(SchemaError, match=f"has schema 99, newer than {NEWEST}, .*upgrade qslm-opt"):
            attempt(url_of(path))
    assert version_of(path) == 99


def test_many_processes_may_prepare_one_storage_at_once(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, [url] * 8))
    assert version_of(tmp_path / "q.db") == len(migrations.MIGRATIONS)


def test_rows_of_studies_that_optuna_lost_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, lost = FakeStudy(tmp_path / "q.db", name="kept"), FakeStudy(tmp_path / "q.db", name="lost")
    writer = Repository(kept.url)
    writer.beat(lost.uuid, 1, "host", "block")
    optuna.delete_study(study_name="lost", storage=kept.url)
    prepare(kept.url)
    assert writer.names() == ["kept", "lost"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    prepare(kept.url)
    assert writer.names() == ["kept"]
    with sqlite3.connect(tmp_path / "q.db") as connection:
        assert connection.execute("SELECT count(*) FROM qslm_run").fetchone() == (0,)


def test_reused_trial_ids_do_not_mix_studies_up(tmp_path: Path) -> None:
    first = FakeStudy(tmp_path / "q.db", name="first")
    first.trial(0.9)
    optuna.delete_study(study_name="first", storage=first.url)
    Repository(first.url).delete(first.uuid)
    second = FakeStudy(tmp_path / "q.db", name="second")
    second.trial(0.7)
    assert [t.value for t in Repository(first.url).trials("second")] == [0.7]


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("sqlite:///nowhere/q.db", StorageError, "folder .*nowhere' does not exist; create it"),
        ("sqlite:////proc/q.db", StorageError, "cannot be opened|is read-only|full disk"),
        ("q.db", UsageError, "is not a URL.* For a file give sqlite:///q.db"),
        ("sqlite://", UsageError, "is lost when the command ends"),
        ("sqlite:///:memory:", UsageError, "is lost when the command ends"),
        ("sqlite:///file:x?mode=ro&uri=true", UsageError, "has options; give the plain path"),
        ("oracle://host/x", UsageError, "is of kind 'oracle'"),
        ("mysql+nosuch://host/x", StorageError, "a driver that SQLAlchemy does not know"),
    ],
)
def test_what_cannot_be_a_storage_is_refused_with_the_fix(
    url: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(url)


def test_a_folder_is_not_a_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder; add the name of a file"):
        prepare(url_of(tmp_path))


def test_a_text_file_is_not_a_storage(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_text("not a database, " * 100)
    with pytest.raises(StorageError, match="is not an SQLite database"):
        prepare(url_of(tmp_path / "q.db"))
    assert (tmp_path / "q.db").read_text() == "not a database, " * 100


def test_a_nearly_full_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match="is on a full disk; free some space"):
        prepare(url_of(tmp_path / "q.db"))
    assert list(tmp_path.iterdir()) == []


def run_where_writing_is_forbidden(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a read-only folder, as another user when this one, root, may write everywhere."""
    warm = folder / "warm"
    warm.mkdir()
    setup = (
        "import os\nfrom qslm_opt.store import Repository, prepare\n"
        f"prepare('{url_of(warm / 'q.db')}')\n"
        "os.getuid() or os.setresuid(65534, 65534, 65534)\n"
    )
    folder.chmod(0o555)
    try:
        return subprocess.run([sys.executable, "-c", setup + code], cwd=ROOT, capture_output=True, text=True)
    finally:
        folder.chmod(0o755)


@pytest.fixture
def everyones_folder() -> Iterator[Path]:
    """A folder that other users reach too: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_folder_is_refused(everyones_folder: Path) -> None:
    done = run_where_writing_is_forbidden(everyones_folder, f"prepare('{url_of(everyones_folder / 'q.db')}')")
    assert done.returncode == 1
    assert re.search(r"StorageError: storage .* is read-only; make it writable", done.stderr)


def test_a_read_only_file_system_can_still_be_read(everyones_folder: Path) -> None:
    study = FakeStudy(everyones_folder / "q.db")
    study.trial(0.9)
    study.close()
    assert [path.name for path in everyones_folder.iterdir()] == ["q.db"]
    code = f"print(len(Repository('{study.url}', read_only=True).trials('s')))"
    done = run_where_writing_is_forbidden(everyones_folder, code)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_a_password_is_never_shown() -> None:
    from qslm_opt.store import masked, storage_error

    url = "postgresql+psycopg://me:s3cret@host/db"
    assert masked(url) == "postgresql+psycopg://me:***@host/db"
    assert "s3cret" not in str(storage_error(RuntimeError("auth failed for me:s3cret"), url))
    with pytest.raises(UsageError) as failed:
        prepare("postgresql+psycopg://me:s3cret@host:nonsense/db")
    assert "s3cret" not in str(failed.value)
    with pytest.raises(UsageError) as failed:
        prepare("oracle://me:s3cret@host/db")
    assert "s3cret" not in str(failed.value)


def test_a_missing_driver_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "MySQLdb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StorageError, match=r"needs a driver; run: pip install 'qslm-opt\[postgres\]'"):
        prepare("postgresql+psycopg://me:pw@host/db")
    with pytest.raises(StorageError, match="pip install 'mysqlclient'"):
        prepare("mysql://me:pw@host/db")


def test_the_environment_names_the_default_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    from qslm_opt.store import default_url

    monkeypatch.delenv("QSLM_OPT_STORAGE", raising=False)
    assert default_url() == "sqlite:///qslm-opt.db"
    monkeypatch.setenv("QSLM_OPT_STORAGE", "sqlite:////tmp/x.db")
    assert default_url() == "sqlite:////tmp/x.db"


def test_our_statements_compile_for_postgresql_and_mysql() -> None:
    from sqlalchemy.dialects import mysql, postgresql
    from sqlalchemy.schema import CreateTable

    from qslm_opt.store.trials import _EVERYTHING

    for dialect in (postgresql.dialect(), mysql.dialect()):
        assert "LEFT OUTER JOIN" in str(_EVERYTHING.compile(dialect=dialect))
        for table in METADATA.tables.values():
            assert table.name in str(CreateTable(table).compile(dialect=dialect))
