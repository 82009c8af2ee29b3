"""Recordings: written, read back, played at their own pace, and refused with the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qslm_opt.errors import UsageError
from qslm_opt.measure.meter import ENVIRONMENT_KEY, open_meter
from qslm_opt.measure.replay import ReplaySource, read_recording, recording_lines
from qslm_opt.results import PowerDevice, PowerSample
from tests.measure.fakes import Bench

GPU = PowerDevice("", "", "", 0, "cuda:0", 0, "NVIDIA H200", "nvml", 700.0, 141 * 2**30)
SAMPLES = [
    PowerSample(50.0, 100.0, 2**30, 0.5, 1980, 3201, 40.0, ("power cap",)),
    PowerSample(51.0, 200.0),
    PowerSample(53.0, 300.0),
]


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_recording_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", *recording_lines(GPU, SAMPLES))
    assert read_recording(path) == (GPU, SAMPLES)


def test_of_several_devices_the_wanted_one_is_played_or_the_first(tmp_path: Path) -> None:
    rows = [{"device": name, "at": at, "power_w": watts}
            for at in (1.0, 2.0) for name, watts in (("cuda:0", 10.0), ("cuda:1", 20.0))]  # fmt: skip
    path = written(tmp_path / "r.jsonl", *recording_lines(GPU, []), *(json.dumps(row) for row in rows))
    assert [s.power_w for s in read_recording(path, "cuda:1")[1]] == [20.0, 20.0]
    device, samples = read_recording(path, "cpu")
    assert (device, [s.power_w for s in samples]) == (GPU, [10.0, 10.0])


def test_samples_are_played_at_their_own_pace_and_again_from_the_start() -> None:
    source, now = ReplaySource(SAMPLES, GPU), [7000.0]

    def watts(seconds: float) -> float | None:
        now[0] = 7000.0 + seconds
        return source.read(lambda: now[0]).sample.power_w

    played = [watts(s) for s in (0, 0.9, 1.0, 2.9, 3.0, 3.9, 4.1, 301)]
    assert played == [100, 100, 200, 200, 100, 100, 200, 200]
    assert source.read(lambda: 7000.0 + 6.0).sample == PowerSample(
        7006.0, 100.0, 2**30, 0.5, 1980, 3201, 40.0, ("power cap",)
    )


def test_a_single_sample_is_played_for_ever() -> None:
    source = ReplaySource(SAMPLES[:1], GPU)
    assert [source.read(lambda at=at: at).sample.power_w for at in (0.0, 5.0, 9.0)] == [100.0] * 3  # type: ignore[misc]


def test_a_window_over_a_recording_is_measured_like_any_other() -> None:
    bench = Bench(ReplaySource(SAMPLES, GPU))
    bench.meter.step()
    with bench.meter.window() as window:
        bench.go(2.9)
    found = window.result()
    assert found is not None
    assert (found.source, found.limit_w, found.device) == ("replay", 700.0, "cuda:0")
    assert 100 < found.mean_w < 200


def test_the_environment_chooses_a_recording_for_any_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "r.jsonl", *recording_lines(GPU, SAMPLES))
    monkeypatch.setenv(ENVIRONMENT_KEY, f"replay:{path}")
    meter = open_meter("cpu")
    device = meter.describe()
    meter.close()
    assert (device.device, device.name, device.source) == ("cpu", "NVIDIA H200", "replay")


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 2 is no sample"), ('{"power_w": 3}', "line 2 is no sample"),
     ('{"at": "x"}', "not finite numbers"), ('{"at": 1, "power_w": NaN}', "not finite numbers"),
     ("", "has no samples"),
     ("[1]", "line 2 is no sample")],
)  # fmt: skip
def test_what_is_no_recording_is_an_error_with_the_line(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path / "r.jsonl", *recording_lines(GPU, []), line)
    with pytest.raises(UsageError, match=said):
        read_recording(path)


def test_a_recording_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="power watch --json"):
        read_recording(tmp_path / "none.jsonl")
