"""A study moves between storages by a file: nothing is lost, and it goes on where it was."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
import pytest

from qslm_opt.cli.main import run
from qslm_opt.errors import ArchiveError, SpecError, StudyExistsError, UsageError
from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
from qslm_opt.search.driver import create_study, delete_study, run_study
from qslm_opt.search.transfer import import_study
from qslm_opt.store import Repository, read_study, write_archive
from qslm_opt.store.measured import KINDS, window_fault
from tests.search.toy import Recorder, spec, toy
from tests.store.fake_study import FakeStudy, url_of

STUDY = spec(name="s", memory_budget="24%", precisions=(8, 6, 4, 3))
POWER = PowerWindow("replay", 20, 10.0, 250.5, 1.25, 500.75, 80.5, 2**34, 2.0, ended=1.8e9, items=7)


def run_until(url: str, last: int | None = None) -> None:
    """Run the study, to its end or until a trial of this number has ended."""

    def on_end(record: Any) -> None:
        if record.number == last:
            with Repository(url) as repository:
                repository.request_stop(repository.study("s").uuid)

    run_study("s", url, toy(STUDY), listener=Recorder(on_end=on_end))


@pytest.fixture
def half(template: Path, tmp_path: Path) -> str:
    """A study that was stopped on the way, with power and odd values."""
    shutil.copyfile(template, tmp_path / "here.db")
    return url_of(tmp_path / "here.db")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of ``half``."""
    path = tmp_path_factory.mktemp("half") / "here.db"
    url = url_of(path)
    create_study(STUDY, url, toy(STUDY))
    run_until(url, 9)
    with Repository(url) as repository:
        uuid, trial = repository.study("s").uuid, repository.trials("s")[3].uuid
        for lane in ("other", "lane"):
            repository.add_power_device(PowerDevice(lane, uuid, "host", 7, "cuda:0", 0, "H200", "nvml", 700))
        device = (2**30, 0.5, 1500, 2600, 40.0)
        samples = [PowerSample(i / 10, 200.0 + i, *device) for i in range(1200)]
        repository.add_power_samples("lane", samples)
        repository.set_power_window(uuid, trial, POWER)
    study = optuna.load_study(study_name="s", storage=url)
    study.set_user_attr("remark λ", {"nested": [1, 2.5, None, "\u202e"]})
    odd = optuna.trial.create_trial(
        value=float("inf"),
        params={"x": 0.1 + 0.2},
        distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
        user_attrs={"nan": float("nan")},
        intermediate_values={1: float("nan"), 3: float("-inf"), 5: 1e-308},
    )
    study.add_trial(odd)
    study._storage._backend.engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def content(url: str, name: str = "s") -> list[Any]:
    """All records of a study as text, so that NaN equals NaN; lanes are the storage's own numbers."""
    records = [json.loads(json.dumps(record)) for record in read_study(url, name)]
    for record in records:
        if record["kind"] == "rows" and "lane" in record["columns"]:
            place = record["columns"].index("lane")
            first = min(row[place] for row in record["rows"])
            for row in record["rows"]:
                row[place] -= first
    return [json.dumps(record) for record in records]


def test_a_study_comes_out_of_another_storage_as_it_went_in(half: str, tmp_path: Path) -> None:
    file, there = tmp_path / "s.study", url_of(tmp_path / "there.db")
    write_archive(read_study(half, "s"), file)
    FakeStudy(tmp_path / "there.db", name="before").trial(0.5)  # so that the ids of all rows differ
    found = import_study(file, there)
    assert (found.name, found.trials, found.stale) == ("s", 11, 0)
    for mine, theirs in zip(content(there), content(half), strict=True):
        assert mine == theirs
    with Repository(half) as one, Repository(there) as other:
        assert other.trials("s") == one.trials("s")
        assert other.study("s") == one.study("s")
        uuid = one.study("s").uuid
        assert other.power_windows(uuid) == one.power_windows(uuid) != {}
        assert other.power_devices(uuid) == one.power_devices(uuid)
        assert other.power_samples("lane", 0, 1e9) == one.power_samples("lane", 0, 1e9)
        assert len(other.power_samples("lane", 0, 1e9)) == 1200
        assert sorted(other.names()) == ["before", "s"]


def test_a_study_with_ternary_weights_moves_too(tmp_path: Path) -> None:
    study = spec(name="s", memory_budget="24%", precisions=(8, 1.58, 1))
    here, there = url_of(tmp_path / "here.db"), url_of(tmp_path / "there.db")
    create_study(study, here, toy(study))
    run_study("s", here, toy(study), listener=Recorder())
    write_archive(read_study(here, "s"), tmp_path / "s.study")
    import_study(tmp_path / "s.study", there)
    with Repository(here) as before, Repository(there) as after:
        trials = after.trials("s")
        assert {trial.bits for trial in trials} >= {8, 1.58}
        assert [(t.bits, t.digest, t.value) for t in trials] == [
            (t.bits, t.digest, t.value) for t in before.trials("s")
        ]


@pytest.mark.parametrize("width", [True, False, 0, 17, 1.5, 2.5, float("nan"), float("inf"), "8", None, [8]])
def test_a_width_that_no_search_tries_is_refused(half: str, tmp_path: Path, width: Any) -> None:
    lines = lines_of(half, tmp_path / "s.study")
    names = [name for name, _, _ in json.loads(lines[2])["params"]]
    place = f"params__{names.index('bits')}__2__attributes__choices__0"
    (tmp_path / "s.study").write_bytes(forged(lines, 2, **{place: width}))
    with pytest.raises(ArchiveError, match="parameter 'bits' of trial 0 has choices of another type"):
        import_study(tmp_path / "s.study", url_of(tmp_path / "new.db"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": None}, "'samples' of a power window is 'None'"),
        ({"mean_w": "250"}, "'mean_w' of a power window is '250'"),
        ({"energy_j": True}, "'energy_j' of a power window is 'True'"),
        ({"energy_j": 1e300}, "'energy_j' of a power window is '1e.300'"),
        ({"ended": 1e14}, "'ended' of a power window is out of range"),
        ({"repeats": 0}, "'repeats' of a power window is out of range"),
        ({"run_items": 0}, "'run_items' of a power window is out of range"),
        ({"items": 1.5}, "'items' of a power window is '1.5'"),
        ({"steady": 1}, "'steady' of a power window is '1'"),
        ({"throttle": "thermal"}, "'throttle' of a power window is 'thermal'"),
        ({"throttle": [1]}, "'throttle' of a power window is"),
        ({"source": {}}, "'source' of a power window is"),
    ],
)
def test_a_power_window_that_no_command_could_read_is_refused(
    half: str, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    lines = lines_of(half, tmp_path / "s.study")
    place = json.loads(lines[-2])["columns"].index("measured")
    (tmp_path / "s.study").write_bytes(
        forged(lines, -2, **{f"rows__0__{place}__{name}": value for name, value in changes.items()})
    )
    with pytest.raises(ArchiveError, match=words):
        import_study(tmp_path / "s.study", url_of(tmp_path / "new.db"))


@pytest.mark.parametrize("measured", [{"a": 1}, [], "x", 3, {}])
def test_what_is_no_power_window_is_refused(half: str, tmp_path: Path, measured: Any) -> None:
    lines = lines_of(half, tmp_path / "s.study")
    place = json.loads(lines[-2])["columns"].index("measured")
    (tmp_path / "s.study").write_bytes(forged(lines, -2, **{f"rows__0__{place}": measured}))
    with pytest.raises(ArchiveError, match=r"a power window (has no 'source'|is no object)"):
        import_study(tmp_path / "s.study", url_of(tmp_path / "new.db"))


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("qslm_power_window", "ended", 1e300), ("qslm_power_device", "started", 1e12),
        ("qslm_power_device", "started", -1.0), ("qslm_power_sample", "at_ms", 2**62),
        ("qslm_power_state", "at_ms", -1),
    ],
)  # fmt: skip
def test_a_moment_that_no_calendar_has_is_refused(
    half: str, tmp_path: Path, table: str, column: str, value: float
) -> None:
    lines = lines_of(half, tmp_path / "s.study")
    tables = [json.loads(line).get("table") for line in lines]
    place = json.loads(lines[tables.index(table)])["columns"].index(column)
    (tmp_path / "s.study").write_bytes(
        forged(lines, tables.index(table), **{f"rows__0__{place}": value})
    )
    with pytest.raises(ArchiveError, match=f"{column} of {table} is .* out of range"):
        import_study(tmp_path / "s.study", url_of(tmp_path / "new.db"))


def test_every_field_of_a_window_is_of_a_kind_that_is_checked() -> None:
    kinds = {kind for field in fields(PowerWindow) for kind in str(field.type).split(" | ")}
    assert kinds <= set(KINDS)
    assert window_fault(json.loads(json.dumps(asdict(POWER)))) == ""


def test_what_optuna_reads_of_both_is_the_same(half: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="trials_dataframe needs pandas")
    write_archive(read_study(half, "s"), tmp_path / "s.study")
    import_study(tmp_path / "s.study", url_of(tmp_path / "there.db"))
    one, other = (
        optuna.load_study(study_name="s", storage=url) for url in (half, url_of(tmp_path / "there.db"))
    )
    pandas.testing.assert_frame_equal(one.trials_dataframe(), other.trials_dataframe())
    assert len(one.trials_dataframe()) == 11
    assert other.direction == one.direction
    assert other.user_attrs == one.user_attrs
    assert [t.constraints for t in other.trials] == [t.constraints for t in one.trials]


def test_an_imported_study_goes_on_to_the_same_end(tmp_path: Path) -> None:
    here, there = url_of(tmp_path / "here.db"), url_of(tmp_path / "there.db")
    create_study(STUDY, here, toy(STUDY))
    run_until(here, 9)
    write_archive(read_study(here, "s"), tmp_path / "s.study")
    import_study(tmp_path / "s.study", there)
    run_until(here)
    session = toy(STUDY)
    assert run_study("s", there, session, listener=Recorder()).state == "finished"
    assert session.baselines == 0
    with Repository(here) as one, Repository(there) as other:
        wanted = [(t.number, t.digest, t.value, t.slack) for t in one.trials("s")]
        assert [(t.number, t.digest, t.value, t.slack) for t in other.trials("s")] == wanted


def test_a_trial_that_was_running_runs_again_after_the_import(half: str, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="s", storage=half)
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))
    write_archive(read_study(half, "s"), tmp_path / "s.study")
    assert import_study(tmp_path / "s.study", url_of(tmp_path / "there.db")).stale == 1
    last = optuna.load_study(study_name="s", storage=url_of(tmp_path / "there.db")).trials[-1]
    assert last.state == optuna.trial.TrialState.FAIL
    assert last.user_attrs["reason"].startswith("stale: it was running when the study was exported")


def test_a_copy_in_the_same_storage_has_ids_of_its_own(half: str, tmp_path: Path) -> None:
    file = tmp_path / "s.study"
    write_archive(read_study(half, "s"), file)
    with pytest.raises(StudyExistsError, match="study 's' is already in storage"):
        import_study(file, half)
    before = content(half)
    import_study(file, half, "copy")
    assert content(half) == before
    with Repository(half) as repository:
        one, copy = repository.study("s"), repository.study("copy")
        assert one.uuid != copy.uuid
        ids = [{t.uuid for t in repository.trials(name) if t.uuid} for name in ("s", "copy")]
        assert len(ids[0]) == len(ids[1]) == 10
        assert not ids[0] & ids[1]
        windows = repository.power_windows(copy.uuid)
        assert set(windows) < ids[1]
        assert list(windows.values()) == list(repository.power_windows(one.uuid).values())
    delete_study("s", half)
    with Repository(half) as repository:
        assert repository.names() == ["copy"]
        assert repository.power_windows(copy.uuid) == windows
        (device, _) = repository.power_devices(copy.uuid)
    assert import_study(file, half).name == "s"  # Optuna's ids are used again; ours are not mixed up
    assert content(half) == before
    with Repository(half) as repository:
        assert device in repository.power_devices(copy.uuid)


@pytest.mark.parametrize(
    "name", ["../x", "a'; drop table studies; --", "a\0b", "x" * 101, "\u202ex", "-x", ""]
)
def test_a_name_that_cannot_be_is_refused_before_a_storage_is_made(
    half: str, tmp_path: Path, name: str
) -> None:
    write_archive(read_study(half, "s"), tmp_path / "s.study")
    with pytest.raises(SpecError, match=r"study name .* cannot be used; .* give it with --name"):
        import_study(tmp_path / "s.study", url_of(tmp_path / "new.db"), name)
    assert not (tmp_path / "new.db").exists()


# -- files that are not as they were ---------------------------------------------------------------


def lines_of(url: str, path: Path) -> list[bytes]:
    write_archive(read_study(url, "s"), path)
    return path.read_bytes().splitlines(keepends=True)


def test_a_file_cut_anywhere_is_refused_and_nothing_is_made(half: str, tmp_path: Path) -> None:
    file, new = tmp_path / "s.study", url_of(tmp_path / "new.db")
    lines = lines_of(half, file)
    whole = b"".join(lines)
    ends = [sum(map(len, lines[:n])) for n in range(len(lines))]
    for size in {0, 1, len(whole) // 2, len(whole) - 1, *ends, *(end + 5 for end in ends)}:
        file.write_bytes(whole[:size])
        with pytest.raises(ArchiveError, match=r"is cut off after line|is no study file"):
            import_study(file, new)
    assert not (tmp_path / "new.db").exists()


def test_a_file_with_one_byte_changed_is_refused(half: str, tmp_path: Path) -> None:
    file = tmp_path / "s.study"
    whole = bytearray(b"".join(lines_of(half, file)))
    for place in range(60, len(whole), max(1, len(whole) // 150)):
        changed = whole.copy()
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(ArchiveError):
            import_study(file, url_of(tmp_path / "new.db"))
    for more in (b"\n", b"{}\n", bytes(whole)):
        file.write_bytes(whole + more)
        with pytest.raises(ArchiveError, match="was altered: its checksum does not fit"):
            import_study(file, url_of(tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


def forged(lines: list[bytes], place: int, **changes: Any) -> bytes:
    """A file whose checksum fits, with another record in one line; dotted names go into it."""
    record = json.loads(lines[place])
    for path, value in changes.items():
        *folders, last = path.split("__")
        target = record
        for folder in folders:
            target = target[int(folder) if folder.isdigit() else folder]
        target[int(last) if last.isdigit() else last] = value
    body = [*lines[:place], json.dumps(record).encode() + b"\n", *lines[place + 1 : -1]]
    end = {"kind": "end", "lines": len(body), "sha256": sha256(b"".join(body)).hexdigest()}
    return b"".join(body) + json.dumps(end).encode() + b"\n"


@pytest.mark.parametrize(
    ("place", "changes", "words"),
    [
        (0, {"version": 2}, "has format version 2, not 1, the one that this qslm-opt reads; upgrade"),
        (0, {"kind": "x"}, "is no study file"),
        (1, {"schema": 99}, "it has schema 99, this qslm-opt knows up to"),
        (1, {"kind": "trial"}, "a line of kind 'trial' in the wrong place"),
        (1, {"row__state": "x"}, "its state 'x' is unknown"),
        (1, {"row__spec": []}, "a study in it is not as it should be"),
        (1, {"row__spec__task": "x"}, "task 'x' is unknown"),
        (1, {"row__hierarchy__blocks": []}, "a study in it is not as it should be|no weights"),
        (1, {"row__budget": "10"}, "'10' is not a whole number"),
        (1, {"row__created": float("nan")}, "'nan' is not a finite number"),
        (1, {"row__evil": 1}, "qslm_study has no column 'evil'"),
        (1, {"row__uuid": "x" * 37}, "is no text of at most 36 characters"),
        (1, {"row__reason": "a\0b"}, "is no text"),
        (1, {"optuna__directions": ["MINIMIZE", "MAXIMIZE"]}, "its directions are"),
        (1, {"optuna__user_attrs__qslm_uuid": "x"}, "its two parts have different ids"),
        (2, {"number": 1}, "trial 1 comes where 0 is due"),
        (2, {"state": "DONE"}, "trial state 'DONE' is unknown"),
        (2, {"start": "yesterday"}, "a trial in it is not as it should be"),
        (2, {"values": [[None, "FINITE"]]}, "a value in it is 'None' of kind 'FINITE'"),
        (2, {"user_attrs__digest": 'a"b'}, "attribute 'digest' of a trial is"),
        (2, {"user_attrs__setting": "{}"}, "a setting is a JSON object with 'units'"),
        (2, {"params__0__2": {"name": "os.system", "attributes": {}}}, "has choices of another type"),
        (2, {"params__0__0": "x", "params__0__2__name": "os.system"}, "a trial in it is not as it should be"),
        (2, {"params__0__1": 99.0}, "is none of its choices"),
        (-2, {"table": "qslm_study"}, "it has rows of table 'qslm_study'"),
        (-2, {"table": "sqlite_master; drop table studies"}, "it has rows of table"),
        (-2, {"columns": ["x"]}, "values for 1 columns"),
        (-2, {"columns__0": 0}, "qslm_power_window has no column '0'"),
        (-2, {"columns__0": "study_uuid"}, "rows of qslm_power_window name a column twice"),
        (-2, {"rows__0__1": "other"}, "a row of qslm_power_window is of another study"),
    ],
)  # fmt: skip
def test_a_forged_file_is_refused_with_what_is_wrong(
    half: str, tmp_path: Path, place: int, changes: dict[str, Any], words: str
) -> None:
    file, new = tmp_path / "s.study", tmp_path / "new.db"
    lines = lines_of(half, file)
    file.write_bytes(forged(lines, place, **changes))
    with pytest.raises(ArchiveError, match=words):
        import_study(file, url_of(new))
    if new.exists():  # what only the database's own rows show is found inside the transaction
        with sqlite3.connect(new) as connection:
            for table in ("studies", "trials", "qslm_study", "qslm_power_device", "trial_user_attributes"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_an_import_that_fails_on_the_way_leaves_nothing_behind(
    half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qslm_opt.store import incoming

    file, there = tmp_path / "s.study", tmp_path / "there.db"
    write_archive(read_study(half, "s"), file)
    FakeStudy(there, name="before").trial(0.5)
    before = content(url_of(there), "before")
    monkeypatch.setattr(incoming._Writer, "_other", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_study(file, url_of(there))
    assert content(url_of(there), "before") == before
    with Repository(url_of(there)) as repository:
        assert repository.names() == ["before"]
    with sqlite3.connect(there) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (1,)


# -- the commands ----------------------------------------------------------------------------------


def test_the_commands_move_a_study(half: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, there = str(tmp_path / "s.study"), url_of(tmp_path / "there.db")
    assert run(["study", "export", "s", "--format", "study", "-o", file, "--storage", half]) == 0
    assert "read it with: qslm-opt study import" in capsys.readouterr().err
    assert run(["study", "import", file, "--storage", there]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "imported study 's' with its 11 trials\n" in said.err
    assert run(["study", "import", file, "--storage", there]) == 3
    assert "study 's' is already in storage" in capsys.readouterr().err
    assert run(["study", "show", "s", "--json", "--storage", there]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["complete"] == 11
    assert run(["study", "export", "s", "--format", "study", "--trial", "1", "--storage", half]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("path", ["nowhere/s.study", "a\0b", "x" * 5000])
def test_a_file_that_cannot_be_is_refused(half: str, path: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ArchiveError), match=r"study file .* (does not exist|cannot be read)"):
        import_study(Path(path), half)
    with pytest.raises(UsageError, match=r"--output .* cannot be written \(.*\); give another path"):
        write_archive(read_study(half, "s"), tmp_path / path)
    assert list(tmp_path.glob(".*.part")) == []
