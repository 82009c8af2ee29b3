"""Flags that contradict each other are refused, and those of a file are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from qslm_opt.cli.model_session import reading_keys
from qslm_opt.cli.spec_flags import config_keys, make_spec, reading_flags
from qslm_opt.errors import UsageError
from qslm_opt.spec import StudySpec

KEYS = {"model": "demo", "task": "demo-classify", "memory_budget": "50%", "max_drop": 0.1}


def test_a_config_key_with_two_values_is_refused() -> None:
    with pytest.raises(UsageError, match="--config length is given as 64 and as 32; give one of them"):
        config_keys(["length=64", "length=32"])
    assert config_keys(["length=64", "length=64", "tau=2.0"]) == {"length": 64, "tau": 2.0}


def test_time_steps_that_are_said_twice_and_differ_are_refused() -> None:
    said = "--timesteps 5 and --config timesteps=3 differ"
    with pytest.raises(UsageError, match=said):
        reading_keys("on", 0, None, None, 5, ["timesteps=3"])
    with pytest.raises(UsageError, match=said):
        make_spec("s", None, KEYS | {"timesteps": 5, "config": {"timesteps": 3}})
    assert make_spec("s", None, KEYS | {"timesteps": 5, "config": {"timesteps": 5}}).timesteps == 5


def test_time_steps_of_flags_replace_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    lines = [f"{key} = {value!r}" for key, value in KEYS.items()]
    file.write_text("\n".join([*lines, "[config]", "timesteps = 3", "tau = 2.0"]))
    made = make_spec(None, file, {"timesteps": 5})
    assert made.reading()["overrides"] == {"timesteps": 5, "tau": 2.0}
    file.write_text("\n".join([*lines, "timesteps = 3"]))
    made = make_spec(None, file, {"config": {"timesteps": 5}})
    assert made.reading()["overrides"] == {"timesteps": 5}


def test_reading_flags_read_a_model_as_its_spec_does() -> None:
    config = {"tau": 2.0, "hard": True, "act": "relu", "heads": 4}
    more = {"family": "f.toml", "tokenizer": "a b.json", "timesteps": 4, "rescale_every": 6, "config": config}
    spec = StudySpec.from_mapping({"name": "s", **KEYS, **more})
    flags = reading_flags(spec)
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    texts = [value for flag, value in zip(flags[::2], flags[1::2], strict=True) if flag == "--config"]
    read = reading_keys(
        "on", int(given["--rescale-every"]), given["--family"], given["--tokenizer"],
        int(given["--timesteps"]), texts,
    )  # fmt: skip
    assert read == {key: getattr(spec, key) for key in read}
