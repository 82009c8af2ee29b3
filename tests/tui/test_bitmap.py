from __future__ import annotations

from qslm_opt.formats import FP16, SIGN, Format
from tests.tui.fakes import START, Study
from tui.bitmap import bit_grid, bits_bar, bits_lines, bits_text, heat_of_bits, rise_text, sensitivity_grid
from tui.model import StudyView


def test_the_grid_has_a_row_a_block_and_a_column_a_searched_module() -> None:
    study = Study(blocks=2)
    record = study.add(
        "module",
        "attention.1/att.value",
        2,
        {"attention.0": 8, "attention.1": 4, "attention.1/att.value": 2, "output": 6},
    )
    grid = bit_grid(study.hierarchy, StudyView(study.row(), (record,), START).setting(record))
    assert grid.header[1] == ("key", "value", "receptance", "output", "key", "receptance", "value")
    assert grid.header[0] == ("att", "", "", "", "ffn", "", "")
    rows = {label: [cell.text for cell in cells] for label, cells in grid.rows}
    assert rows["input"] == ["1s emb"] and rows["output"] == ["6 head"]
    assert rows["attention.0"] == ["8"] * 7
    assert rows["attention.1"] == ["4", "2*", *["4"] * 5]
    assert dict(grid.rows)["attention.1"][1].unit == "attention.1/att.value"


def test_formats_are_told_apart_without_colour() -> None:
    assert [bits_text(f) for f in (Format.parse("int4/channel/affine"), FP16, SIGN)] == ["4", "16f", "1s"]
    assert [heat_of_bits(b) for b in (1, 2, 3, 4, 5, 6, 8, 16)] == [0, 0, 1, 2, 3, 3, 4, 5]


def test_bits_by_block_are_weighted_by_size_and_aligned() -> None:
    study = Study(blocks=2)
    record = study.add(
        "module",
        "attention.1/ffn.key",
        4,
        {"attention.0": 8, "attention.1": 4, "attention.1/ffn.key": 2, "output": 3},
    )
    setting = StudyView(study.row(), (record,), START).setting(record)
    names, bars, numbers = bits_lines(study.hierarchy, setting, 60)
    assert names.split() == ["in", "0", "1", "out"] and bars.split() == ["▁", "█", "▃", "▃"]
    assert numbers.split() == ["1", "8", "3.4", "3"]
    assert len(names) == len(bars) == len(numbers)
    assert bits_lines(study.hierarchy, setting, 10) == ("", bits_bar(study.hierarchy, setting), "")


def test_the_sensitivity_grid_shows_the_rise_of_the_loss_and_warms_with_it() -> None:
    study = Study().fill("sensitivity", running=False)
    grid = sensitivity_grid(StudyView(study.row(), tuple(study.trials), START))
    assert grid.header == (("8 bits", "6 bits", "5 bits", "4 bits", "3 bits", "2 bits"),)
    assert [label for label, _ in grid.rows] == study.blocks
    cells = dict(grid.rows)["attention.0"]
    base = study.baseline
    assert base is not None and study.trials[5].loss is not None
    assert cells[5].text == f"+{study.trials[5].loss - base.nll_sum / base.n:.3f}"
    assert [c.role for c in cells] == sorted(c.role for c in cells)
    assert max(c.role for _, row in grid.rows for c in row) == "warm5"


def test_a_rise_has_a_sign_and_three_or_four_places() -> None:
    assert [rise_text(x) for x in (0.0, 0.0004, 0.0123, -0.02, 12.345)] == [
        "0",
        "+0.0004",
        "+0.012",
        "−0.020",
        "+12.3",
    ]


def test_a_study_without_sensitivity_has_an_empty_grid() -> None:
    assert sensitivity_grid(StudyView(Study().row(), (), START)).rows == ()
