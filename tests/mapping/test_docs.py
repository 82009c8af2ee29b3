"""docs/families.md shows the very files that the tests run, and names every check."""

from __future__ import annotations

import re
from pathlib import Path

from qslm_opt.conformance import CHECKS
from qslm_opt.models.mapping.keys import _TABLES

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs/families.md").read_text("utf-8")


def test_the_worked_example_is_the_file_that_is_tested():
    file = (HERE / "plain_snn.toml").read_text("utf-8")
    assert file.partition("\n")[2] in TEXT


def test_every_key_is_documented():
    for table, keys in _TABLES.items():
        for key in keys:
            assert f"`{key}`" in TEXT, f"{table}.{key} is not in docs/families.md"


def test_every_check_is_documented_in_order():
    table = TEXT.partition("| Check | The contract |")[2]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(CHECKS)
