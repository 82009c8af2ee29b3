"""The form's pure side: its spec, its command line and the words for what is wrong."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from qslm_opt.cli import study
from qslm_opt.cli.spec_flags import config_keys
from qslm_opt.spec import StudySpec
from tui.newstudy import FIELDS, command_of, problem_of, spec_of, words_of

STUDIES = Path(__file__).resolve().parents[2] / "studies"
START = {field.key: field.value for field in FIELDS}


def test_what_the_form_starts_with_needs_a_name_only() -> None:
    assert problem_of(START, ()) == "the study has no name; give NAME or the key 'name' in --spec."
    assert problem_of({**START, "name": "a1"}, ()) == ""
    assert "exists already" in problem_of({**START, "name": "a1"}, ("a1",))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"bound": "max_drop"}, "max_drop '5%' is no number"),
        ({"bound": "max_drop", "bound_value": "0.02"}, "task demo has --max-drop; give exactly one of"),
        ({"memory_budget": "12 apples"}, "memory budget '12 apples' is not a size"),
        ({"precisions": "4,8"}, "must fall strictly"),
        ({"precisions": "4,x"}, "precisions 'x' is no number of bits; write for instance 8 or 1.58."),
        ({"precisions": "8,2.5"}, "2.5"), ({"precisions": "nan"}, "nan"), ({"precisions": "8,inf"}, "inf"),
        ({"lambda": "-1"}, "lambda -1.0 is out of range"), ({"workers": "0"}, "workers 0 is out of range"),
        ({"limit": "0"}, "limit 0 is out of range"), ({"bound_value": ""}, "has no bound"),
        ({"name": "a b"}, "study name 'a b' cannot be used"),
    ],
)  # fmt: skip
def test_the_messages_are_the_specs_own(changed: dict[str, str], says: str) -> None:
    assert says in problem_of({**START, "name": "a1", **changed}, ())


@pytest.mark.parametrize("precisions", ["8,4", "8,4,2,1.58,1", "16, 4.0,1.58"])
def test_the_command_line_makes_the_same_spec(
    precisions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qslm_opt.cli.spec_flags import bits_list, make_spec

    monkeypatch.chdir(tmp_path)
    values = {
        **START, "name": "a1", "task": "sst2", "bound": "max_drop", "bound_value": "0.02", "lambda": "0.5",
        "precisions": precisions, "data": "sst2", "limit": "100", "device": "cpu", "workers": "2",
    }  # fmt: skip
    words = words_of(values)
    assert words[:3] == ["study", "create", "a1"] and words[-2:] == ["--workers", "2"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    assert flags.pop("--workers") == "2"
    given = {key.removeprefix("--").replace("-", "_"): value for key, value in flags.items()}
    typed = {
        **given, "max_drop": float(given["max_drop"]), "lambda": float(given["lambda"]),
        "limit": int(given["limit"]), "precisions": bits_list("--precisions", given["precisions"]),
    }  # fmt: skip
    assert make_spec("a1", None, typed) == spec_of(values) == StudySpec.from_mapping({**typed, "name": "a1"})
    line = command_of(values, "sqlite:///other.db")
    assert shlex.split(line) == ["qslm-opt", *words, "--storage", "sqlite:///other.db"]


def parsed(words: list[str]) -> dict[str, Any]:
    """Return the options of ``study create`` as the command line reads them."""
    from typer.main import get_command

    create = get_command(study.app).commands["create"]  # type: ignore[attr-defined]
    found: dict[str, Any] = create.make_context("create", words[2:]).params
    return found


@pytest.mark.parametrize("model", ["spikebert", "spikelm", "spikingbert"])
def test_the_models_of_other_families_can_be_begun_in_the_form(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = STUDIES / f"{model}-sst2.toml"
    spec = StudySpec.from_toml(file)
    values = {
        **START, "name": "a1", "model": spec.model, "task": spec.task, "tokenizer": spec.tokenizer or "",
        "bound": "max_drop", "bound_value": "0.02", "timesteps": f"{spec.timesteps or ''}",
        "config": " ".join(f"{key}={value}" for key, value in spec.config.items()),
        "family": model,
    }  # fmt: skip
    wanted = {**spec.reading(), "family": model}
    assert spec_of(values).reading() == wanted and wanted["overrides"] and wanted["tokenizer"]
    flags = parsed(words_of(values))
    told = {key: flags[key] for key in ("family", "tokenizer", "timesteps")}
    told["config"] = config_keys(flags["config"]) or {}
    assert told == {"family": model, **{k: getattr(spec, k) for k in ("tokenizer", "timesteps", "config")}}


def test_several_keys_of_the_config_are_several_flags_and_a_value_may_have_blanks() -> None:
    values = {**START, "name": "a1", "config": "length=64  reset='to rest' soft=true"}
    assert spec_of(values).config == {"length": 64, "reset": "to rest", "soft": True}
    flags = parsed(words_of(values))
    assert flags["config"] == ["length=64", "reset=to rest", "soft=true"]
    assert "'reset=to rest'" in command_of(values, "sqlite:///q.db")
    for wrong in ("length", "length=64 tau"):
        assert "is not KEY=VALUE" in problem_of({**values, "config": wrong}, ())
    opened = {**values, "config": "reset='to rest"}
    assert "a quotation mark that is open" in problem_of(opened, ())
    assert "reset='to rest" in words_of(opened), "it is shown as it stands"
    assert "timesteps 'x' is no whole number" in problem_of({**values, "timesteps": "x"}, ())
    assert "timesteps 0 is out of range" in problem_of({**values, "timesteps": "0"}, ())
    both = {**values, "timesteps": "4", "config": "timesteps=3"}
    assert "--timesteps 4 and --config timesteps=3 differ" in problem_of(both, ())
