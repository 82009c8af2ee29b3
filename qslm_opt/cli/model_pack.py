"""``qslm-opt model pack``: write the file whose bytes a study has counted."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.model_options import (
    Calibration,
    CalibrationSplit,
    Config,
    Data,
    EmbedSpike,
    Family,
    Model,
    RescaleEvery,
    Timesteps,
    Tokenizer,
)
from qslm_opt.cli.model_session import kind_of, load_keys, read_setting, reading_keys, spec_of
from qslm_opt.cli.options import Device, Json, Lambda, Storage, command, storage_url
from qslm_opt.cli.originals import original_codes
from qslm_opt.cli.output import narrate, print_json, print_line, size
from qslm_opt.errors import UsageError
from qslm_opt.models.mapping.stored import check_mapping
from qslm_opt.models.registry import is_mapping_file

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.cli.originals import Original
    from qslm_opt.models.packed import PackedModel
    from qslm_opt.results import TrialRecord
    from qslm_opt.setting import QuantSetting

_FACTS = ("task", "setting", "calibration", "tuning", "study", "code")

StudyName = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Study that chose the setting.",
                             show_default=False),
]  # fmt: skip
Trial = Annotated[
    int | None, typer.Option("--trial", help="Its trial; the best without it.", show_default=False)
]


def pack(
    model: Model,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write; new or empty.",
                     show_default=False),
    ],
    setting: Annotated[
        Path | None, typer.Option("--setting", metavar="FILE", help="Quantization setting as JSON.")
    ] = None,
    study: StudyName = None,
    trial: Trial = None,
    lam: Lambda = None,
    storage: Storage = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="With --setting: the task that decides what is stored; that of the "
                     "model's own head without it.", show_default=False),
    ] = None,
    data: Data = None,
    calibration_split: CalibrationSplit = None,
    calibration: Calibration = None,
    embed_spike: EmbedSpike = "on",
    rescale_every: RescaleEvery = 0,
    family: Family = None,
    tokenizer: Tokenizer = None,
    timesteps: Timesteps = None,
    config: Config = None,
    device: Device = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Pack a model into the bytes of a setting: codes, scales and zero points, with a checksum."""
    given = {
        "--task": task, "--calibration-split": calibration_split, "--calibration": calibration,
        "--embed-spike": None if embed_spike == "on" else embed_spike,
        "--rescale-every": rescale_every or None, "--family": family, "--tokenizer": tokenizer,
        "--timesteps": timesteps, "--config": config or None,
    }  # fmt: skip
    _check(setting, study, {"--trial": trial, "--lambda": lam}, given)
    if study is None and task is None:
        _check_text(calibration_split, calibration, data)
    from qslm_opt.models.packed import load_packed
    from qslm_opt.models.packing import check_output

    check_output(output)
    if study is not None:
        made, origin, chosen = _from_study(model, study, trial, lam, storage, data, device)
    else:
        assert setting is not None
        chosen = read_setting(setting)
        spec = None
        reading = reading_keys(embed_spike, rescale_every, family, tokenizer, timesteps, config)
        if task is not None:
            spec = spec_of(
                model, task, quantizer=chosen.quantizer, layout=None, data=data,
                calibration_split=calibration_split, calibration=calibration, **reading,
            )  # fmt: skip
        made = original_codes(
            model, chosen, kind=None if task is None else kind_of(task), spec=spec,
            reading=load_keys(reading), device=device or "auto", narrate=narrate,
        )  # fmt: skip
        origin = {"task": task, "study": None}
    _write(output, made, chosen, origin)
    packed = load_packed(output)
    value = packed_json(packed)
    if json:
        print_json({"output": str(output), **value})
    else:
        print_line(packed_line(packed))
    narrate(f"wrote {output}; prove it: {_prove(output, model, study, storage, family, data)}")


def packed_json(packed: PackedModel) -> dict[str, Any]:
    """Return what a packed file is, in bytes and names."""
    fp32 = packed.hierarchy.fp32_bytes()
    return {
        "file": str(packed.path),
        "checksum": packed.checksum,
        "file_bytes": packed.file_bytes,
        "payload_bytes": packed.payload_bytes,
        "overhead_bytes": packed.overhead_bytes,
        "fp32_bytes": fp32,
        "saving": 1 - packed.payload_bytes / fp32,
        "kind": packed.kind,
        **{key: packed.header.get(key) for key in _FACTS},
        "original_weights": packed.header.get("weights"),
    }


def packed_line(packed: PackedModel) -> str:
    """Return one line about a packed file."""
    fp32 = packed.hierarchy.fp32_bytes()
    saved = 100 * (1 - packed.payload_bytes / fp32)
    return (
        f"{packed.path}: {packed.payload_bytes:,} bytes of weights ({size(packed.payload_bytes)} of "
        f"{size(fp32)}, {saved:.1f} % saved) and {packed.overhead_bytes:,} of header "
        f"({100 * packed.overhead_bytes / packed.payload_bytes:.3f} %), checksum {packed.checksum[:16]}"
    )


def study_setting(
    name: str, trial: int | None, lam: float | None, storage: str | None
) -> tuple[StudyFacts, TrialRecord]:
    """Return a study and the trial that was chosen in it."""
    from qslm_opt.cli.export import chosen_trial
    from qslm_opt.cli.running import read_facts

    facts = read_facts(name, storage, lam)
    return facts, chosen_trial(facts, trial)


def _prove(
    output: Path, model: str, study: str | None, storage: str | None, family: str | None, data: str | None
) -> str:
    """Return the command that verifies what was packed; what study and packed file say is left out."""
    words = ["model", "verify", str(output), "--model", model]
    if family is not None and is_mapping_file(family):
        words += ["--family", family]
    if data is not None:
        words += ["--data", data]
    if study is None:
        return shlex.join(["qslm-opt", *words])
    return command(*words, "--study", study, url=storage_url(storage))


def _from_study(
    model: str,
    study: str,
    trial: int | None,
    lam: float | None,
    storage: str | None,
    data: str | None,
    device: str | None,
) -> tuple[Original, dict[str, Any], QuantSetting]:
    from qslm_opt.setting import QuantSetting

    facts, record = study_setting(study, trial, lam, storage)
    spec = facts.row.spec
    check_mapping(study, spec.family, facts.row.mapping_digest)
    spec = replace(spec, data=data or spec.data)
    chosen = QuantSetting.from_json(record.setting)
    narrate(f"packing trial {record.number} of study {study!r}")
    made = original_codes(
        model, chosen, kind=kind_of(spec.task), spec=spec, reading=spec.reading(),
        device=device or spec.device, narrate=narrate,
    )  # fmt: skip
    made.check(facts.row.fingerprint, f"study {study!r}")
    ran, here = facts.row.fingerprint.get("arithmetic", ""), made.fingerprint["arithmetic"]
    if ran.partition("/")[0] != here.partition("/")[0]:
        many = "many differ, so measure the result with 'model evaluate'"
        differ = many if chosen.tune else "single ones may differ"
        narrate(
            f"note: the study ran on {ran.partition('/')[0]}, the codes are made on "
            f"{here.partition('/')[0]}; {differ}"
        )
    return made, {"task": spec.task, "study": {"name": study, "trial": record.number}}, chosen


def _write(output: Path, made: Original, chosen: QuantSetting, origin: dict[str, Any]) -> None:
    from qslm_opt.evaluate.engine import CODE_VERSION
    from qslm_opt.models.packing import Origin, pack_model

    kind = kind_of(origin["task"]) if origin["task"] else None
    kind = kind or ("classification" if made.model.config.labels else "lm")
    facts = Origin(origin["task"], kind, CODE_VERSION, made.calibration, origin["study"], made.tuning)
    pack_model(output, made.model, made.hierarchy, chosen, made.codes, facts)


def _check_text(calibration_split: str | None, calibration: int | None, data: str | None) -> None:
    """Raise UsageError for a flag of a task's text where no task is given: nothing would look at it."""
    flags = {"--calibration-split": calibration_split, "--calibration": calibration, "--data": data}
    for flag, value in flags.items():
        if value is not None:
            raise UsageError(f"{flag} {value} is of the text of a task; give its --task, or leave it out.")


def _check(
    setting: Path | None, study: str | None, of_study: dict[str, Any], of_setting: dict[str, Any]
) -> None:
    """Raise UsageError unless exactly one source of the setting is given, with no flag of the other."""
    if (setting is None) == (study is None):
        both = "both are" if setting is not None else "none is"
        raise UsageError(f"--setting FILE or --study NAME says what to pack, and {both} given; give one.")
    if of_study["--trial"] is not None and of_study["--lambda"] is not None:
        raise UsageError("--trial names the setting and --lambda chooses it; give one of them.")
    other, where = (of_study, "--study") if study is None else (of_setting, "--setting")
    for flag, value in other.items():
        if value is not None:
            raise UsageError(f"{flag} {value} belongs to {where}, which is not given; leave it out.")
