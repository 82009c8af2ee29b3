"""The study specification: strict keys, typed values, exact sizes, a fingerprint of what decides."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qslm_opt.errors import SettingError, SpecError, UsageError
from qslm_opt.spec import DEFAULT_PRECISIONS, StudySpec, parse_increase, parse_size, read_toml

MINIMAL: dict[str, Any] = {
    "name": "a1",
    "model": "demo",
    "task": "sst2",
    "memory_budget": "400MB",
    "max_drop": 0.02,
}


def make(**values: Any) -> StudySpec:
    return StudySpec.from_mapping({**MINIMAL, **values})


def language(**values: Any) -> StudySpec:
    return StudySpec.from_mapping(
        {"name": "b1", "model": "demo", "task": "wikitext2", "memory_budget": "400MB", **values}
    )


specs = st.one_of(
    st.builds(
        make,
        task=st.sampled_from(["sst2", "demo-classify"]),
        max_drop=st.floats(0, 1),
        lam=st.floats(0, 1e6),
        precisions=st.sets(st.integers(2, 16), min_size=1).map(lambda s: sorted(s, reverse=True)),
        sensitivity_precisions=st.none() | st.just([8, 4]),
        layout=st.sampled_from(["channel/affine", "group64/symmetric"]),
        pins=st.dictionaries(
            st.sampled_from(["input", "attention.0/att.key"]), st.sampled_from(["fp16", "sign"])
        ),
        limit=st.none() | st.integers(1, 10**6),
        exclude=st.sampled_from([(), ["output"], ["attention.*/att.key", "input"]]),
        ties=st.sampled_from([(), ["attention.*/ffn.key", "input,output"]]),
        sign_embedding=st.booleans(),
        seed=st.integers(-(2**31), 2**31),
    ),
    st.builds(
        language,
        task=st.sampled_from(["demo", "wikitext2"]),
        max_increase=st.sampled_from(["0", "1.0", "3.8%"]),
        window=st.none() | st.integers(1, 4096),
    ),
)


@given(specs)
def test_a_spec_survives_its_json(spec):
    again = StudySpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert again.hash() == spec.hash()


def test_a_short_spec_takes_the_defaults():
    spec = make()
    assert (spec.precisions, spec.lam, spec.layout, spec.fixed) == (
        DEFAULT_PRECISIONS,
        0.2,
        "channel/affine",
        "fp16",
    )
    assert (spec.metric, language(max_increase=1).metric) == ("accuracy", "perplexity")


# ------------------------------------------------------------------------------------- keys and types


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("max_dorp", "max_drop"),
        ("memory_buget", "memory_budget"),
        ("lamda", "lambda"),
        ("precision", "precisions"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(key, nearest):
    with pytest.raises(SpecError, match=f"'{key}' is unknown. Did you mean '{nearest}'"):
        make(**{key: 1})


@pytest.mark.parametrize("key", ["name", "model", "task", "memory_budget"])
def test_a_missing_key_is_named_with_its_flag(key):
    given = "NAME" if key == "name" else f"--{key.replace('_', '-')}"
    with pytest.raises(SpecError, match=f"no {key}; give {given} or the key '{key}'"):
        StudySpec.from_mapping({k: v for k, v in MINIMAL.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_drop", "0.02", "a str; write a float or int|a str; write a int or float"),
        ("max_drop", True, "a bool"),
        ("limit", 8.0, "a float; write a int"),
        ("limit", True, "a bool; write a int"),
        ("model", 3, "a int; write a str"),
        ("sign_embedding", 1, "a int; write a bool"),
        ("memory_budget", 4e8, "a float; write a int or str"),
        ("pins", "fp16", "a str; write a dict"),
        ("precisions", "8,4", "a str; write a list"),
        ("precisions", [8, "4"], "must hold numbers"),
        ("precisions", [8, True], "must hold numbers"),
        ("device", ["cpu"], "a list; write a str"),
        ("ties", "attention.*/att.key", "a str; write a list or tuple"),
        ("exclude", [1], "exclude .* must hold texts"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_value(key, value, words):
    with pytest.raises(SpecError, match=words):
        make(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lambda", -0.1, "lambda -0.1 is out of range"),
        ("lambda", float("nan"), "lambda nan is out of range"),
        ("lambda", float("inf"), "lambda inf is out of range"),
        ("limit", 0, "limit 0 is out of range"),
        ("window", -1, "window -1 is out of range"),
        ("window_batch", 0, "window_batch 0"),
        ("power_window", -1, "power_window -1"),
        ("power_window", 601, "power_window 601"),
        ("embed_spike", "yes", "use on, off or auto"),
        ("rescale_every", -6, "-6 is negative"),
        ("max_drop", 2.0, "a share in 0..1"),
        ("max_drop", float("nan"), "a share in 0..1"),
        ("precisions", [], "one or more widths of 2 to 16"),
        ("precisions", [8, 1.5], "widths of 2 to 16"),
        ("precisions", [32, 8], "widths of 2 to 16"),
        ("precisions", [4, 8], "must fall strictly"),
        ("precisions", [8, 8], "must fall strictly"),
        ("sensitivity_precisions", [4, 8], "sensitivity_precisions .* must fall strictly"),
        ("task", "sst", "'sst' is unknown; use one of .* Did you mean 'sst2'"),
        ("exclude", [""], "holds an empty name"),
        ("ties", ["input/emb,"], "holds an empty name"),
        ("name", "", "cannot be used"),
        ("name", "../x", "cannot be used"),
        ("name", "a b", "cannot be used"),
        ("name", "a" * 101, "cannot be used"),
        ("name", "study\n", "cannot be used"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_bound(key, value, words):
    with pytest.raises(SpecError, match=words):
        make(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("layout", "channel", "GRANULARITY/SYMMETRY"),
        ("fixed", "float16", "'float16' is unknown"),
        ("pins", {"input": "int99/channel/affine"}, "99 bits"),
    ],
)
def test_a_bad_format_is_refused_when_the_spec_is_made(key, value, words):
    with pytest.raises(SettingError, match=words):
        make(**{key: value})


# --------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("task", "bounds", "words"),
    [
        ("sst2", {}, "sst2 has no bound; give exactly one of --max-drop or --min-accuracy"),
        ("sst2", {"max_increase": 1.0}, "has --max-increase; give exactly one of --max-drop"),
        ("sst2", {"max_drop": 0.1, "min_accuracy": 0.8}, "has --max-drop, --min-accuracy; give exactly one"),
        ("wikitext2", {}, "has no bound; give exactly one of --max-increase or --max-perplexity"),
        ("wikitext2", {"max_drop": 0.1}, "has --max-drop; give exactly one of --max-increase"),
        ("demo", {"max_increase": 1, "max_perplexity": 9}, "give exactly one of --max-increase"),
        ("demo", {"max_perplexity": 0.5}, "must be 1 or more"),
        ("demo", {"max_perplexity": float("inf")}, "must be 1 or more"),
        ("demo", {"max_increase": "much"}, "'much' is not an increase"),
        ("demo", {"max_increase": "-1"}, "'-1' is not an increase"),
        ("demo", {"max_increase": "nan"}, "'nan' is not an increase"),
        ("demo", {"max_increase": "%"}, "'%' is not an increase"),
    ],
)
def test_a_task_takes_exactly_one_bound_of_its_own_metric(task, bounds, words):
    with pytest.raises(SpecError, match=words):
        StudySpec.from_mapping({"name": "x", "model": "demo", "task": task, "memory_budget": "1MB", **bounds})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0", (1.0, False)),
        ("3.8%", (3.8, True)),
        (" 4 % ", (4.0, True)),
        ("0", (0.0, False)),
        ("1e-3", (0.001, False)),
    ],
)
def test_an_increase_is_absolute_or_a_share(text, value):
    assert parse_increase(text) == value


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400MB", 400_000_000),
        ("400 MB", 400_000_000),
        ("382MiB", 382 * 2**20),
        ("26.5mib", 27_787_264),
        ("1000", 1000),
        ("1000B", 1000),
        ("2.3GB", 2_300_000_000),  # in floats 2299999999.9999995
        ("4.1KB", 4100),
        ("1GiB", 2**30),
    ],
)
def test_a_size_is_exact_bytes(text, size):
    assert parse_size(text) == (size, "")
    assert make(memory_budget=text).budget_bytes(10**9) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1MB", "400M", "4e8", "400 MB free", "1_000", "nan", "inf", "9" * 400]
)
def test_what_is_no_size_is_refused_with_examples(text):
    with pytest.raises(SpecError, match="400MB, 382MiB or 12%"):
        make(memory_budget=text)


@given(st.integers(0, 10_000), st.integers(1, 10**12))
@example(57, 10_000)  # 56.99999999999999 in floats
def test_a_percentage_is_that_share_of_the_float32_bytes_rounded_down(hundredths, fp32_bytes):
    spec = make(memory_budget=f"{hundredths / 100}%")
    assert spec.budget_bytes(fp32_bytes) == int(Fraction(hundredths, 10_000) * fp32_bytes)


def test_an_integer_budget_is_bytes():
    assert make(memory_budget=400_000_000).budget_bytes(1) == 400_000_000


# -------------------------------------------------------------------------------------- TOML and flags


def write(folder, text: str):
    path = folder / "paper-a1.toml"
    path.write_text(text, "utf-8")
    return path


TOML = """
model = "demo"
task = "sst2"
memory_budget = "400MB"
max_drop = 0.02
lambda = 0.5
precisions = [8, 4]
exclude = ["output"]
ties = ["attention.*/att.key", "attention.0/ffn.key,attention.1/ffn.key"]
[pins]
"attention.0" = "int8/channel/affine"
"""


def test_a_toml_file_names_its_study_by_its_own_name(tmp_path):
    spec = StudySpec.from_toml(write(tmp_path, TOML))
    assert (spec.name, spec.lam, spec.precisions) == ("paper-a1", 0.5, (8, 4))
    assert spec.pins == {"attention.0": "int8/channel/affine"}
    assert spec.exclude == ("output",)
    assert spec.ties == ("attention.*/att.key", "attention.0/ffn.key,attention.1/ffn.key")


def test_flags_win_over_the_file_and_flags_not_given_do_not(tmp_path):
    spec = StudySpec.from_toml(
        write(tmp_path, TOML), {"name": "mine", "max_drop": 0.05, "limit": None, "lam": None}
    )
    assert (spec.name, spec.max_drop, spec.limit, spec.lam) == ("mine", 0.05, None, 0.5)


def test_a_toml_with_an_unknown_key_names_the_nearest(tmp_path):
    with pytest.raises(SpecError, match="Did you mean 'max_drop'"):
        StudySpec.from_toml(write(tmp_path, TOML.replace("max_drop", "maxdrop")))


def test_an_unquoted_unit_in_pins_is_explained(tmp_path):
    with pytest.raises(SpecError, match="write the unit in quotes"):
        StudySpec.from_toml(write(tmp_path, TOML.replace('"attention.0" =', "attention.0 =")))


def test_a_missing_a_broken_and_a_binary_file_each_have_their_message(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(SpecError, match=r"is not TOML: .*line 1"):
        read_toml(write(tmp_path, "model = demo\n"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path / "b.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path)


# ---------------------------------------------------------------------------------------- fingerprint


def test_name_device_lambda_seed_and_paths_do_not_decide_the_result():
    spec = make()
    same = make(name="other", device="cuda:1", lam=3.0, seed=1, model="moved/", data="elsewhere",
                power_window=0.0)  # fmt: skip
    assert same.hash() == spec.hash()
    assert spec.renamed("other").name == "other"


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_drop", 0.03), ("memory_budget", "401MB"), ("limit", 100), ("quantizer", "paper"),
     ("window_batch", 7), ("precisions", [8]), ("pins", {"input": "fp16"}), ("embed_spike", "off"),
     ("sign_embedding", False), ("exclude", ["output"]), ("ties", ["attention.*/att.key"]),
     ("hold_back", 0.5), ("report_split", "train"), ("confidence", 0.9)],
)  # fmt: skip
def test_everything_else_does(key, value):
    assert make(**{key: value}).hash() != make().hash()


def test_a_mapping_files_path_does_not_decide_but_a_familys_name_does():
    assert make(family="a/m.toml").hash() == make(family="/b/n.toml").hash() == make().hash()
    assert make(family="spikegpt").hash() != make().hash()


def test_keys_that_came_later_leave_the_hash_of_older_studies_alone():
    assert "hold_back" not in make().decides()
    assert make(hold_back=0.0).hash() == make().hash()
    values = json.loads(make().to_json())
    for key in ("hold_back", "report_split", "confidence"):
        del values[key]
    assert StudySpec.from_mapping(values) == make()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"hold_back": -0.1}, "hold_back -0.1 is out of range; it is a share from 0 (off) to 0.9."),
        ({"hold_back": float("nan")}, "hold_back nan is out of range"),
        ({"hold_back": 0.91}, "hold_back 0.91 is out of range"),
        ({"hold_back": "half"}, "spec key 'hold_back' is 'half', a str; write a int or float."),
        ({"confidence": 0.49}, "confidence 0.49 is out of range; it must be at least 0.5 and below 1"),
        ({"confidence": 1.0}, "confidence 1.0 is out of range"),
        ({"confidence": float("nan")}, "confidence nan is out of range"),
        ({"hold_back": 0.5, "report_split": "train"}, "give one of them"),
    ],
)
def test_what_cannot_be_held_back_is_refused(keys, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        make(**keys)


def test_a_share_of_nothing_goes_with_another_split():
    assert make(hold_back=0, report_split="train").reports
    assert not make(hold_back=0).compares
    assert make(confidence=0.9).compares
    assert not make(confidence=0.9).reports


def test_the_json_is_canonical():
    values = json.loads(make().to_json())
    assert list(values) == sorted(values)
    assert make().to_json() == json.dumps(values, separators=(",", ":"))


def test_local_paths_become_absolute_and_names_stay(tmp_path):
    """A study can be resumed from another folder; ``demo`` and hub ids are no paths."""
    (tmp_path / "m").mkdir()
    (tmp_path / "demo").mkdir()
    found = make(model="m", data="m").located(tmp_path)
    assert found.model == found.data == str(tmp_path / "m")
    kept = make(model="ORG/NAME", data="nowhere").located(tmp_path)
    assert (kept.model, kept.data) == ("ORG/NAME", "nowhere")
    assert make(model="demo").located(tmp_path).model == "demo"


def test_keys_that_earlier_releases_had_not_leave_the_hash_of_an_old_study_as_it_was():
    assert {"exclude", "ties"}.isdisjoint(make().decides())
    assert make(exclude=[], ties=[]).hash() == make().hash()
