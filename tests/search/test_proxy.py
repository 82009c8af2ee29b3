"""Workers behind ``qslm-opt proxy``: gRPC on loopback, SQLite behind it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

pytest.importorskip("grpc", reason="pip install 'qslm-opt[grpc]'")

from qslm_opt.cli.main import run
from qslm_opt.errors import StorageError, StudyNotFoundError, UsageError
from qslm_opt.measure.meter import NullMeter
from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
from qslm_opt.search.driver import create_study, delete_study, run_study
from qslm_opt.search.ledger import open_storage, start_trial
from qslm_opt.search.proxy import make_server
from qslm_opt.search.recording import MOST_WAITING
from qslm_opt.store import Repository, open_repository, wire
from qslm_opt.store.remote import RemoteRepository, unreachable
from tests.search.toy import Recorder, ToyMeter, spec, toy

ROOT = Path(__file__).resolve().parents[2]
STUDY = spec(max_increase="100%", memory_budget="17%", precisions=(8, 4, 3, 2), sensitivity_precisions=(4,))


@pytest.fixture
def served(tmp_path):
    """(URL of the proxy, URL of the database)."""
    url = f"sqlite:///{tmp_path}/toy.db"
    server, port, close = make_server(url, "127.0.0.1", 0)
    server.start()
    yield f"grpc://127.0.0.1:{port}", url
    server.stop(grace=None).wait()
    close()


def result(summary):
    return summary.best.digest, summary.score, summary.candidates, summary.order, summary.counts


def test_a_study_behind_a_proxy_is_the_study_itself(served, tmp_path):
    proxy, url = served
    plain = f"sqlite:///{tmp_path}/plain.db"
    found = []
    for where in (plain, proxy):
        create_study(STUDY, where, toy(STUDY))
        found.append(result(run_study("toy", where, toy(STUDY), listener=Recorder())))
    assert found[0] == found[1]
    with open_repository(proxy) as remote, Repository(url) as here, Repository(plain) as other:
        assert remote.names() == here.names() == ["toy"]
        assert remote.studies() == here.studies()
        assert remote.trials("toy") == here.trials("toy")
        assert remote.trials("toy", after=3, states=["complete"])
        assert [t.digest for t in here.trials("toy")] == [t.digest for t in other.trials("toy")]
        assert remote.evaluation("toy", 0) == here.evaluation("toy", 0)
        before = remote.changed()
        with Repository(url) as writer:
            writer.request_stop(here.study("toy").uuid)
        assert remote.changed() != before
        assert remote.stop_requested(here.study("toy").uuid)
    delete_study("toy", proxy)
    with Repository(url) as here:
        assert here.names() == []


def test_every_method_of_a_repository_is_carried_out_by_the_proxy():
    public = [name for name in dir(Repository) if not name.startswith("_")]
    own = [name for name in public if getattr(RemoteRepository, name) is getattr(Repository, name)]
    assert own == []


def test_trials_cannot_be_added_through_a_proxy():
    with open_repository("grpc://127.0.0.1:1") as remote, pytest.raises(UsageError, match="on its host"):
        remote.add_trials("toy", [], {}, [])


def test_a_worker_without_a_meter_says_why_through_a_proxy(served):
    proxy, url = served
    create_study(STUDY, proxy, toy(STUDY))
    run_study("toy", proxy, toy(STUDY), listener=Recorder(), meter=NullMeter("no meter here"))
    with Repository(url) as here:
        (device,) = here.power_devices(here.study("toy").uuid)
    assert (device.source, device.reason) == ("null", "no meter here")


def test_power_goes_through_a_proxy_as_it_is(served, capsys):
    proxy, url = served
    made, began = toy(STUDY), time.time()
    window = PowerWindow(
        "replay", 40, 20.0, 61.0, 1.0, 12.0, seconds=2.0, throttle=("power cap",), ended=began
    )
    plain_run = made.run
    made.run = lambda *args, **more: (plain_run(*args, **more)[0], window)
    create_study(STUDY, proxy, made)
    samples = [PowerSample(began + n, 60.0 + n, throttle=("thermal",)) for n in range(9)]
    listener = Recorder()
    run_study("toy", proxy, made, listener=listener, meter=ToyMeter(samples))
    assert not [line for line in listener.lines if "gaps" in line]
    with open_repository(proxy) as remote, Repository(url) as here:
        uuid = here.study("toy").uuid
        (device,) = remote.power_devices(uuid)
        assert [device] == here.power_devices(uuid)
        assert (device.source, device.name) == ("replay", "toy board")
        for points in (None, 3):
            found = remote.power_samples(device.id, began - 1, began + 9, points)
            assert found == here.power_samples(device.id, began - 1, began + 9, points) != []
        windows = remote.power_windows(uuid)
        assert windows == here.power_windows(uuid)
        assert set(windows.values()) == {window}
        assert remote.power_windows(uuid, began) == {}
        assert remote.best("toy") == here.best("toy") is not None
    assert run(["power", "report", "toy", "--storage", proxy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_an_hour_of_samples_that_waited_goes_through_a_proxy(served):
    proxy, url = served
    hour = [
        PowerSample(1e9 + n / 10, 60.0, 2**37, 0.123456789, 1980, 3201, 61.0, ("power cap",))
        for n in range(MOST_WAITING)
    ]
    with open_repository(proxy) as remote, Repository(url) as here:
        here.add_power_device(PowerDevice("lane", "u", "host", 7, "cuda:0", started=1e9))
        remote.add_power_samples("lane", hour)
        assert len(here.power_samples("lane", 1e9, 1e9 + 3600)) == len(hour)


def test_processes_behind_a_proxy_measure_nothing_twice(served, tmp_path):
    proxy, url = served
    create_study(STUDY, proxy, toy(STUDY))
    words = [sys.executable, "-m", "tests.search.toy", proxy, "0.01", "-1"]
    workers = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said
    plain = f"sqlite:///{tmp_path}/plain.db"
    create_study(STUDY, plain, toy(STUDY))
    alone = run_study("toy", plain, toy(STUDY), listener=Recorder())
    with Repository(url) as repository:
        trials = repository.trials("toy")
        assert repository.study("toy").state == "finished"
        assert repository.beats(repository.study("toy").uuid) == {}
    ran = [t.digest for t in trials if t.used]
    assert len(ran) == len(set(ran))
    assert {t.state for t in trials} <= {"complete", "pruned"}
    with Repository(plain) as repository:
        expected = {t.digest for t in repository.trials("toy")}
    assert {t.digest for t in trials if not t.extra} == expected
    assert alone.counts["failed"] == 0


def test_a_trial_number_is_given_once(tmp_path):
    url = f"sqlite:///{tmp_path}/toy.db"
    create_study(STUDY, url, toy(STUDY))
    storage = open_storage(url)
    study = optuna.load_study(study_name="toy", storage=storage)
    first = start_trial(storage, study._study_id, 0, {}, {}, {"digest": "a"})
    assert first is not None
    assert start_trial(storage, study._study_id, 0, {}, {}, {"digest": "b"}) is None
    assert start_trial(storage, study._study_id, 1, {}, {}, {"digest": "b"}) is not None
    assert [t.user_attrs["digest"] for t in study.trials] == ["a", "b"]
    storage.engine.dispose()


def test_errors_travel_by_name(served):
    proxy, _ = served
    with open_repository(proxy) as remote, pytest.raises(StudyNotFoundError, match="no study 'x'"):
        remote.study("x")
    assert json.loads(wire.answer({}, wire.request("names", {})))["error"] == "SchemaError"


def test_an_error_that_is_none_of_ours_says_what_it_is(served, caplog):
    proxy, _ = served
    with open_repository(proxy) as remote, pytest.raises(StorageError) as failed:
        remote._caller("study", nothing=1)
    assert "the proxy failed with TypeError" in str(failed.value)
    assert "does not answer" not in str(failed.value)
    assert "nothing" in caplog.text  # with its trace, on the proxy


@pytest.mark.parametrize("said", [b"{}", b"[1]", b"\xff", b""])
def test_what_is_no_request_gets_an_answer(said):
    with pytest.raises(StorageError, match="the proxy failed with"):
        wire.result(wire.answer({}, said))


def test_an_error_named_as_something_else_of_the_module_is_a_storage_error():
    with pytest.raises(StorageError, match="did_you_mean"):
        wire.result(b'{"error": "did_you_mean", "text": "x"}')


def test_a_failure_of_the_database_behind_a_proxy_has_the_sentence_it_has_there(served, tmp_path):
    proxy, _ = served
    create_study(STUDY, proxy, toy(STUDY))
    with sqlite3.connect(tmp_path / "toy.db") as database:
        database.execute("DROP TABLE trials")
    what = {"study_id": 1, "number": 0, "parameters": {}, "distributions": {}, "attributes": {}}
    with open_repository(proxy) as remote, pytest.raises(StorageError, match=r"sqlite:///.*toy\.db"):
        remote._caller("start_trial", **what)


@pytest.mark.parametrize(
    ("code", "silent"), [("UNAVAILABLE", True), ("DEADLINE_EXCEEDED", True), ("UNKNOWN", False)]
)
def test_only_silence_reads_as_no_answer(code, silent):
    from grpc import StatusCode

    class FailureError(Exception):
        def code(self):
            return StatusCode[code]

        def details(self):
            return "what\nhappened"

    text = str(unreachable("grpc://h:1", FailureError()))
    assert ("does not answer" in text) is silent
    assert ("what happened" in text) is not silent


def test_the_reading_commands_take_the_url_of_a_proxy(served, capsys):
    proxy, _ = served
    create_study(STUDY, proxy, toy(STUDY))
    assert run(["study", "list", "--storage", proxy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["studies"][0]["name"] == "toy"
    assert run(["study", "show", "toy", "--storage", proxy]) == 0
    assert run(["study", "compact", "--storage", proxy]) == 2
    assert "compact the database that it serves, on its host" in capsys.readouterr().err
    assert run(["proxy", "--storage", proxy]) == 2


def test_whole_studies_are_exported_and_imported_at_the_database(served, tmp_path, capsys):
    proxy, url = served
    create_study(STUDY, proxy, toy(STUDY))
    file, words = str(tmp_path / "toy.study"), ["study", "export", "toy", "--format", "study", "-o"]
    assert run([*words, file, "--storage", proxy]) == 2
    assert "export from the database that it serves, on its host" in capsys.readouterr().err
    assert run([*words, file, "--storage", url]) == 0
    assert run(["study", "import", file, "--name", "other", "--storage", proxy]) == 2
    assert "import into the database that it serves, on its host" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["grpc://", "grpc://host", "grpc://u:secret@host:1", "grpc://host:1/x"])
def test_what_is_no_address_of_a_proxy_is_said(url):
    with pytest.raises(UsageError, match="write grpc://host:port") as error:
        open_repository(url)
    assert "secret" not in str(error.value)


def test_a_proxy_that_does_not_answer_is_a_storage_error(capsys):
    nowhere = open_repository("grpc://127.0.0.1:1")
    with nowhere, pytest.raises(StorageError, match="does not answer"):
        nowhere.names()
    assert run(["study", "list", "--storage", "grpc://127.0.0.1:1"]) == 3
    assert "'qslm-opt proxy' runs there" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(served, tmp_path):
    proxy, _ = served
    with pytest.raises(UsageError, match="give another --port"):
        make_server(f"sqlite:///{tmp_path}/other.db", "127.0.0.1", int(proxy.rpartition(":")[2]))
