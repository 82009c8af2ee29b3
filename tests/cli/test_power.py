"""``qslm-opt power``: live lines from a recording, the report of a study, a recording of it, the A/A test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qslm_opt.cli import power, power_aa
from qslm_opt.cli.main import run
from qslm_opt.cli.power_aa import Arm
from qslm_opt.cli.power_tables import lane_line
from qslm_opt.measure.meter import ENVIRONMENT_KEY, NullMeter
from qslm_opt.measure.replay import read_recording, recording_lines
from qslm_opt.results import PowerDevice, PowerSample, PowerWindow
from qslm_opt.store import Repository
from tests.search.toy import ToyMeter
from tests.store.fake_study import FakeStudy

GPU = PowerDevice("lane", "", "host-a", 7, "cuda:0", 0, "NVIDIA H200", "nvml", 700.0, None, 76.0, 0.5, 19.6)
WINDOW = PowerWindow(
    "nvml", 40, 19.6, 301.5, 4.25, 603.0, 76.0, seconds=2.0, counter_j=603.0, integral_j=600.0, repeats=3,
    steady=True, steady_reason="the halves differ by 0.2 %", items=1000, device="cuda:0", ended=1.0,
)  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of level power that stands in for every meter."""
    path = tmp_path / "r.jsonl"
    samples = [PowerSample(n / 10, 300.0, sm_clock_mhz=1980, throttle=("thermal",)) for n in range(10)]
    path.write_text("\n".join(recording_lines(GPU, samples)))
    monkeypatch.setenv(ENVIRONMENT_KEY, f"replay:{path}")
    return path


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    study = FakeStudy(tmp_path / "q.db")
    monkeypatch.setenv("QSLM_OPT_STORAGE", study.url)
    return study


def measured(study: FakeStudy) -> FakeStudy:
    """Fill a study with a candidate, another trial, their windows and a recording."""
    study.trial(0.885, 9_000, bits=8)
    study.trial(0.70, 3_000, bits=3, metric_slack=0.17)
    with Repository(study.url) as repository:
        trials = repository.trials("s")
        device = PowerDevice(**{**vars(GPU), "study_uuid": study.uuid, "started": 50.0})
        repository.add_power_device(device)
        repository.add_power_samples("lane", [PowerSample(50.0 + n, 100.0 + n) for n in range(3)])
        for trial in trials:
            repository.set_power_window(study.uuid, trial.uuid, WINDOW)
    return study


# ------------------------------------------------------------------------------------------------ watch


def wait_for_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an interval last until the meter's thread has said something, however slow the machine is."""
    lanes: list[Any] = []
    made = power._Lane.__init__

    def remembered(self: Any, meter: Any) -> None:
        made(self, meter)
        lanes.append(self)

    def ticks(interval: float, count: int | None) -> Iterator[int]:
        import time

        for done in range(count or 0):
            end = time.monotonic() + 60
            while not all(lane._samples for lane in lanes) and time.monotonic() < end:
                time.sleep(0.001)
            yield done

    monkeypatch.setattr(power._Lane, "__init__", remembered)
    monkeypatch.setattr(power, "_ticks", ticks)


def test_watch_prints_a_line_an_interval_and_ends_after_so_many(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_samples(monkeypatch)
    assert run(["power", "watch", "--device", "cuda", "--samples", "2"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "cuda: NVIDIA H200 by replay, limit 700 W"
    assert len(lines) == 2
    assert "300 W  n/a  n/a  SM 1980 MHz  n/a  thermal" in lines[0]


def test_watch_prints_a_recording_that_can_be_played(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_samples(monkeypatch)
    assert run(["power", "watch", "--device", "cuda", "--samples", "3", "--json"]) == 0
    (tmp_path / "again.jsonl").write_text(capsys.readouterr().out)
    device, samples = read_recording(tmp_path / "again.jsonl")
    assert (device.name, device.limit_w) == ("NVIDIA H200", 700.0)
    assert [(s.power_w, s.throttle) for s in samples] == [(300.0, ("thermal",))] * 3


def test_watch_without_any_meter_exits_with_5_and_the_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "qslm_opt.measure.meter.open_meter", lambda name, **_: NullMeter(f"nothing reads {name}; buy one")
    )
    monkeypatch.setattr(power, "_devices", lambda: ["cuda:0", "cpu"])
    assert run(["power", "watch"]) == 5
    error = capsys.readouterr().err
    assert "no power can be read here: nothing reads cuda:0; buy one. nothing reads cpu; buy one." in error


def test_a_live_line_shows_what_there_is_and_na_for_the_rest() -> None:
    whole = PowerSample(0.0, 312.4, 5 * 10**9, 0.98, 1980, 3201, 61.0, ("power cap",))
    assert lane_line("cuda:0", whole)[8:] == (
        "  cuda:0  312 W  98 % busy  5.00 GB  SM 1980 MHz  61 °C  power cap"
    )
    assert lane_line("cpu", PowerSample(0.0, 42.0))[8:] == "  cpu  42.0 W  n/a  n/a  n/a  n/a"


# ----------------------------------------------------------------------------------------------- report


def test_the_report_has_each_candidates_watts_joules_and_steadiness(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(study)
    assert run(["power", "report", "s", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["schema"], value["study"], value["per"]) == (1, "s", "sentence")
    (device,) = value["devices"]
    assert (device["name"], device["idle_w"], device["idle_std_w"]) == ("NVIDIA H200", 76.0, 0.5)
    (row,) = value["rows"]
    assert (row["trial"], row["bits"], row["candidate"], row["mean_w"]) == (0, 8, True, 301.5)
    assert (row["run_j"], row["item_j"], row["over_idle_w"]) == (201.0, 0.603, 225.5)
    assert row["counter_difference"] == pytest.approx(0.005)
    assert run(["power", "report", "s", "--all", "--json"]) == 0
    assert [row["trial"] for row in json.loads(capsys.readouterr().out)["rows"]] == [0, 1]


def test_the_report_for_people_says_the_rest_and_that_simulation_saves_nothing(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(study)
    assert run(["power", "report", "s"]) == 0
    out, said = capsys.readouterr()
    assert "host-a cuda:0: NVIDIA H200 by nvml, rest 76.0 W (σ 0.50 W), limit 700 W, 19.6 samples" in out
    cells = next(line for line in out.splitlines() if line.split()[:1] == ["0"]).split()
    assert cells[3:] == ["8", "302", "4.2", "226", "201", "603", "mJ", "2.00", "40", "3", "yes"]
    assert "not what packed weights save" in said


def test_a_study_without_a_meter_is_na_with_the_reason_and_never_0(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trial(0.885, 9_000, bits=8)
    assert run(["power", "report", "s"]) == 0
    assert capsys.readouterr().out == "power n/a: no run of this study had a meter\n"
    none = PowerDevice("x", study.uuid, "host-a", 7, "cpu", reason="no RAPL here; use Linux")
    with Repository(study.url) as repository:
        repository.add_power_device(none)
    assert run(["power", "report", "s"]) == 0
    assert capsys.readouterr().out == "host-a cpu: power n/a: no RAPL here; use Linux\n"
    assert run(["power", "recording", "s"]) == 2
    assert "has no recording of any device: no RAPL here; use Linux" in capsys.readouterr().err


def test_a_study_that_is_not_there_exits_with_6(study: FakeStudy) -> None:
    for word in ("report", "recording"):
        assert run(["power", word, "nothing"]) == 6


def test_a_studys_recording_can_be_played_again(study: FakeStudy, tmp_path: Path) -> None:
    measured(study)
    path = tmp_path / "r.jsonl"
    assert run(["power", "recording", "s", "--device", "cuda:0", "-o", str(path)]) == 0
    device, samples = read_recording(path)
    assert (device.name, device.idle_w) == ("NVIDIA H200", 76.0)
    assert [(s.at, s.power_w) for s in samples] == [(50.0, 100.0), (51.0, 101.0), (52.0, 102.0)]


# -------------------------------------------------------------------------------------------------- A/A


class Bench:
    """A session whose windows are level, but for what the test adds."""

    def __init__(self, watts: float) -> None:
        self.spec, self.hierarchy, self.model = SimpleNamespace(), None, None
        self.data = SimpleNamespace(kind="lm")
        self.engine = SimpleNamespace(arithmetic="cuda/tf32/triton")
        self.watts, self.count = watts, 0

    def run(self, setting: object) -> tuple[object, None]:
        return SimpleNamespace(value=12.5), None

    def measure(self, setting: object, meter: object, seconds: float) -> PowerWindow | None:
        self.count += 1
        watts = self.watts + self.count % 3
        return PowerWindow(
            "replay", 40, 20.0, watts, 1.0, watts * seconds, seconds=seconds, items=1000, steady=True
        )


def aa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run the command on two sessions that draw 300 and 330 W; return what it printed."""
    from contextlib import contextmanager

    @contextmanager
    def meter_of(session: object, *, idle: bool) -> Iterator[ToyMeter]:
        assert idle
        yield ToyMeter()

    def arms(first: Any, precisions: list[str]) -> list[Arm]:
        same = [Arm(f"{precisions[0]} A", first), Arm(f"{precisions[0]} A'", first)]
        return same + [Arm(name, Bench(330.0)) for name in precisions[1:]]  # type: ignore[arg-type]

    monkeypatch.setattr(power_aa, "open_session", lambda spec, narrate: Bench(300.0))
    monkeypatch.setattr(power_aa, "setting_of", lambda *_: None)
    monkeypatch.setattr(power_aa, "meter_of", meter_of)
    monkeypatch.setattr(power_aa, "_arms", arms)
    assert run(["power", "aa", "demo", "--task", "demo", "--windows", "6", "--seconds", "2", *words]) == 0
    return capsys.readouterr().out


def test_a_model_against_itself_does_not_differ_and_another_arithmetic_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(aa(monkeypatch, capsys, "--matmul", "fp32,tf32", "--json"))
    assert [arm["label"] for arm in value["arms"]] == ["fp32 A", "fp32 A'", "tf32"]
    assert [len(arm["measured"]) for arm in value["arms"]] == [6, 6, 6]
    assert (value["per"], value["arms"][0]["value"], value["arms"][0]["steady"]) == ("token", 12.5, 6)
    found = {(row["second"], row["quantity"]): row for row in value["comparisons"]}
    same, other = found["fp32 A'", "mean_w"], found["tf32", "mean_w"]
    assert not same["differs"]
    assert 0 < same["smallest"] < 0.02
    assert other["differs"]
    assert other["difference"] == pytest.approx(0.1, abs=0.01)


def test_the_a_a_test_says_in_words_what_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = aa(monkeypatch, capsys)
    assert "6 windows of 2 s each, interleaved" in out
    assert "auto A' against auto A: power does not differ" in out
    assert "the smallest difference that 6 windows show is" in out


def test_without_a_meter_the_a_a_test_exits_with_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv(ENVIRONMENT_KEY, "off")
    assert run(["power", "aa", "demo", "--task", "demo-classify", "--limit", "2"]) == 5
    assert "power cannot be measured here: QSLM_OPT_METER is off" in capsys.readouterr().err


def test_an_unknown_precision_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["power", "aa", "demo", "--task", "demo", "--matmul", "fp32,tf23"]) == 2
    assert "--matmul 'tf23' is unknown" in capsys.readouterr().err
