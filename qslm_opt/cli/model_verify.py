"""``qslm-opt model verify``: prove that a packed file is what its study measured, in the bytes it claimed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qslm_opt.cli.model_options import Data, Family
from qslm_opt.cli.model_pack import StudyName, Trial, packed_json, packed_line
from qslm_opt.cli.model_session import kind_of, load_keys, spec_of
from qslm_opt.cli.options import Device, Json, Storage
from qslm_opt.cli.originals import original_codes
from qslm_opt.cli.output import narrate, print_json, print_line
from qslm_opt.errors import ModelError, UsageError
from qslm_opt.models.mapping.stored import check_mapping
from qslm_opt.models.registry import is_mapping_file

if TYPE_CHECKING:
    from qslm_opt.cli.facts import StudyFacts
    from qslm_opt.evaluate.agreement import Agreement
    from qslm_opt.models.packed import PackedModel
    from qslm_opt.results import TrialRecord
    from qslm_opt.spec import StudySpec

BOUND = 0.001
"""Most of a file that may be header, as a share of the claim."""

Packed = Annotated[
    str, typer.Argument(metavar="PACKED", help="A packed folder or file.", show_default=False)
]


@dataclass(frozen=True)
class Claim:
    """The bytes that a packed file must have."""

    bytes: int
    source: str
    """``file``, or ``study NAME, trial N``."""

    def judge(self, packed: PackedModel) -> dict[str, Any]:
        """Return how the file's bytes compare."""
        apart = packed.file_bytes - self.bytes
        return {
            "source": self.source,
            "bytes": self.bytes,
            "payload_equal": packed.payload_bytes == self.bytes,
            "file_excess": apart / self.bytes,
            "within": abs(apart) <= BOUND * self.bytes,
        }


def verify(
    packed: Packed,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ORIGINAL", help="The original; the study's own with --study.",
                     show_default=False),
    ] = None,
    study: StudyName = None,
    trial: Trial = None,
    storage: Storage = None,
    data: Data = None,
    family: Family = None,
    device: Device = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Prove that a packed file is whole, has the claimed bytes, and computes what was simulated.

    The checksum and the arithmetic of the bytes need nothing else; the codes and logits need the original.
    Exit code 1: something does not agree.
    """
    if trial is not None and study is None:
        raise UsageError(f"--trial {trial} belongs to --study, which is not given; leave it out.")
    facts = None if study is None else _facts_of(study, storage)
    loaded = _load(packed, family or _mapping_of(facts))
    claim = Claim(_counted(loaded), "file")
    if facts is not None:
        record = _trial_of(loaded, facts, trial)
        claim = Claim(record.bytes, f"study {study}, trial {record.number}")
    bytes_ = claim.judge(loaded)
    found = None
    if model is not None or facts is not None:
        found = _agreement(loaded, model, facts, data, device)
    problems = _problems(claim, loaded, found)
    if json:
        agrees = None if found is None else {**asdict(found), "model": model or _model_of(facts)}
        value = {**packed_json(loaded), "claim": bytes_, "agreement": agrees, "verified": not problems}
        print_json(value)
    else:
        for line in (packed_line(loaded), *_lines(bytes_, loaded, found)):
            print_line(line)
    if problems:
        raise ModelError(f"packed model {packed!r} is not verified: {'; '.join(problems)}.")


def _facts_of(study: str, storage: str | None) -> StudyFacts:
    """Return a study, whose mapping file is the one it was created with."""
    from qslm_opt.cli.running import read_facts

    facts = read_facts(study, storage)
    check_mapping(study, facts.row.spec.family, facts.row.mapping_digest)
    return facts


def _mapping_of(facts: StudyFacts | None) -> str | None:
    """Return the mapping file of a study, None where it has none."""
    family = None if facts is None else facts.row.spec.family
    return family if family is not None and is_mapping_file(family) else None


def _load(source: str, family: str | None) -> PackedModel:
    from qslm_opt.models.locate import check_source, find_model

    check_source(source)
    given = None
    if family is not None:
        from qslm_opt.models.registry import open_family

        given = open_family(family).name  # a mapping file's is known by its name from then on
    files = find_model(source)
    from qslm_opt.models.packed import read_packed
    from qslm_opt.models.packed_file import is_packed

    if not is_packed(files.weights[0]):
        raise UsageError(f"model {source!r} is not packed; give a folder that 'model pack' wrote.")
    found = read_packed(files.weights[0], files.config, files.tokenizer)
    found.check_family(source, given)
    return found


def _counted(packed: PackedModel) -> int:
    """Return the bytes that a study would count for the packed setting."""
    from qslm_opt.evaluate.memory import live_bytes

    return live_bytes(packed.hierarchy, packed.setting)


def _trial_of(
    packed: PackedModel, facts: StudyFacts, trial: int | None
) -> TrialRecord:
    """Return the trial of a study that has the packed setting."""
    study = facts.row.name
    digest = packed.setting.digest(packed.hierarchy)
    alike = [t for t in facts.trials if t.digest == digest and trial in (None, t.number)]
    if not alike:
        which = "no trial" if trial is None else f"no trial {trial}"
        raise ModelError(
            f"study {study!r} has {which} with the setting of packed model {str(packed.path)!r} "
            f"(digest {digest}); name the study and the trial that it was packed from."
        )
    measured = [t for t in alike if t.value is not None]
    return (measured or alike)[0]


def _model_of(facts: StudyFacts | None) -> str:
    assert facts is not None
    return facts.row.spec.model


def _agreement(
    packed: PackedModel, model: str | None, facts: StudyFacts | None, data: str | None, device: str | None
) -> Agreement:
    spec = replace(facts.row.spec, data=data or facts.row.spec.data) if facts else _spec_of(packed, data)
    made = original_codes(
        model or _model_of(facts), packed.setting, kind=packed.kind, spec=spec,
        reading=load_keys(_reading(packed)), device=device or (spec.device if spec else "auto"),
        narrate=narrate,
    )  # fmt: skip
    stated = {"weights": str(packed.header.get("weights"))}
    texts = {part: packed.header.get(part) for part in ("calibration", "tuning")}
    stated |= {part: str(text.get("hash")) for part, text in texts.items() if isinstance(text, dict)}
    made.check(stated, f"packed model {str(packed.path)!r}")
    from qslm_opt.evaluate.agreement import agreement
    from qslm_opt.evaluate.device import pick_device

    return agreement(packed, made.codes, pick_device(device or "auto"))


def _reading(packed: PackedModel) -> dict[str, Any]:
    """Return how the original was read, see ``reading_keys``: what a packed model says of itself."""
    keys = packed.config.semantics()
    flags = [key for key in ("embed_spike", "rescale_every", "timesteps") if key in keys]
    named: dict[str, Any] = {key: keys.pop(key) for key in flags}
    tokenizer = None if packed.tokenizer is None else str(packed.tokenizer)
    usual: dict[str, Any] = {"embed_spike": "on", "rescale_every": 0, "timesteps": None}
    return {**usual, **named, "family": packed.config.family, "tokenizer": tokenizer, "config": keys}


def _spec_of(packed: PackedModel, data: str | None) -> StudySpec | None:
    """Return a spec with the calibration text that the file names; None where it names none."""
    text, task = packed.header.get("calibration"), packed.header.get("task")
    tuning = packed.header.get("tuning")
    known = text if isinstance(text, dict) else tuning
    if not isinstance(known, dict) or not isinstance(task, str):
        return None
    return spec_of(
        "demo", task, quantizer=packed.setting.quantizer, layout=None, data=data,
        window=known.get("window") if kind_of(task) == "lm" else None,
        **_reading(packed),
        calibration_split=known.get("split"), tune=packed.setting.tune,
        calibration=text.get("sequences") if isinstance(text, dict) else None,
    )  # fmt: skip


def _problems(claim: Claim, packed: PackedModel, found: Agreement | None) -> list[str]:
    problems = []
    if packed.payload_bytes != claim.bytes:
        problems.append(f"it stores {packed.payload_bytes:,} bytes, {claim.source} claims {claim.bytes:,}")
    if found is not None and found.different:
        first = found.different[0]
        problems.append(f"{len(found.different)} of {found.tensors} tensors differ, such as {first!r}")
    elif found is not None and found.max_difference != 0:
        problems.append(f"logits differ by up to {found.max_difference:g}")
    return problems


def _lines(claim: dict[str, Any], packed: PackedModel, found: Agreement | None) -> list[str]:
    equal = "equals" if claim["payload_equal"] else "does not equal"
    lines = [
        "checksum: right",
        f"bytes: the payload {equal} the claim of {claim['bytes']:,} ({claim['source']}); "
        f"the file has {100 * claim['file_excess']:+.3f} %, " + _bound(claim, packed),
    ]
    if found is None:
        lines.append("codes and logits: not compared; give --model ORIGINAL")
    else:
        same = found.tensors - len(found.different)
        lines.append(
            f"codes: {same} of {found.tensors} tensors are those of the original; "
            f"{found.logits:,} logits, largest difference {found.max_difference:g}"
        )
    return lines


def _bound(claim: dict[str, Any], packed: PackedModel) -> str:
    if claim["within"]:
        return f"within {100 * BOUND:g} %"
    least = packed.overhead_bytes / BOUND / 1e6
    return f"its header alone is more than {100 * BOUND:g} % of files below {least:.2f} MB"
