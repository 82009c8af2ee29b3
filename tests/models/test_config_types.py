"""Fields of a config class may be annotated in each way that Python has; other types are named."""

from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar, Optional

import pytest

from qslm_opt.conformance import CHECKS, Case, make_case
from qslm_opt.errors import ModelError
from tests.conformance.tiny_family import Tiny, TinyConfig


@dataclass(frozen=True)
class PlainConfig(TinyConfig):
    """Annotated by classes: this file defers none of its annotations."""

    family: ClassVar[str] = "plain"

    most: int | None = None
    scale: float = 1.0
    name: str = ""

    def semantics(self) -> dict[str, Any]:
        return {**super().semantics(), "most": self.most, "scale": self.scale, "name": self.name}


class Plain(Tiny):
    config_class: ClassVar[Any] = PlainConfig


OPTIONAL = Optional[int]  # noqa: UP045
CONFIG = PlainConfig(11, 8, 2, classes=3)


def test_fields_annotated_by_classes_are_checked_like_others():
    assert PlainConfig.key_types()["most"] == "int | None" and PlainConfig.key_types()["name"] == "str"
    PlainConfig.check_keys({"most": None, "scale": 2, "name": "x", "vocab_size": 3})
    for key, value in (("most", "3"), ("scale", True), ("name", 1), ("vocab_size", None)):
        with pytest.raises(ModelError, match=f"config key '{key}' is"):
            PlainConfig.check_keys({key: value})


@pytest.mark.parametrize("check", ["config_round_trip", "config_rejects", "config_json", "checkpoint"])
def test_a_family_without_deferred_annotations_passes(check, monkeypatch):
    from qslm_opt.models import registry

    monkeypatch.setattr(registry, "_registered", {})
    registry.register(Plain())
    CHECKS[check](Case(Plain(), CONFIG, make_case(Tiny(), TinyConfig(11, 8, 2, classes=3)).tensors))


@pytest.mark.parametrize("kind", [
    "int | None", "None | int", int | None, None | int, OPTIONAL, "Optional[int]", "typing.Optional[int]",
])  # fmt: skip
def test_a_number_or_none_may_be_written_in_any_way(kind):
    made = make_dataclass("Made", [("more", kind, None)], bases=(TinyConfig,), frozen=True)
    assert made.key_types()["more"] == "int | None"


@pytest.mark.parametrize(("kind", "said"), [
    (list[int], "list[int]"), ("tuple[int, ...]", "tuple[int, ...]"), (float | None, "float | None"),
    (dict, "dict"), ("int | str", "int | str"), (str | None, "str | None"),
])  # fmt: skip
def test_another_type_is_one_sentence_wherever_the_class_is_used(kind, said):
    made = make_dataclass("Made", [("extra", kind, None)], bases=(TinyConfig,), frozen=True)
    with pytest.raises(ModelError) as error:
        made.check_keys({})
    assert str(error.value) == (
        f"field 'extra' of config class Made is of type {said!r}; it must be one of int, str, bool, "
        "float, int | None: change its annotation."
    )
