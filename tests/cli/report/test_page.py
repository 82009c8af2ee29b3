"""The page: valid HTML that asks nobody for anything, whatever the study's strings say; and its pictures."""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pip install matplotlib")

from qslm_opt.cli.report import theme
from qslm_opt.cli.report.data import Report
from qslm_opt.cli.report.html import Markup, data_block, table, tag
from qslm_opt.cli.report.page import DATA_ID, page
from qslm_opt.cli.report.write import FIGURES, render
from qslm_opt.hierarchy.tree import NETWORK, Block, Hierarchy
from tests.cli.report.material import BLIND, Page, powered, report_of
from tests.tui.fakes import LEVELS, Study

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='a()'>\"&amp;$x^2$\x1b[2J\u202e漢字"


@cache
def rendered(kind: str) -> tuple[Report, str, dict[str, bytes]]:
    """Each kind of study is drawn once for all tests."""
    study = Study("s", "accuracy" if kind == "powered" else "perplexity")
    more: dict[str, Any] = {}
    if kind == "infeasible":
        study = Study("s", budget_share=0.06).fill(running=False)
        study.state = "infeasible"
    elif kind == "powered":
        study.fill(running=False)
        study.state, more = "finished", powered(study)
    elif kind == "running":
        study.fill()
    report = report_of(study, **(more or {"devices": [BLIND]}))
    return report, *render(report)


KINDS = ("running", "powered", "infeasible", "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_whole_and_needs_nothing_else(kind: str) -> None:
    report, html, _ = rendered(kind)
    found = Page(html)
    assert "http" not in re.sub(r'http-equiv="', "", html)
    assert not list(found.values("src", "srcset", "xlink:href", "action", "background"))
    assert not re.search(r"@import|url\((?!#|data:)", html)
    identities = list(found.values("id"))
    assert len(identities) == len(set(identities))
    for link in found.values("href"):
        assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in identities, link
    assert {link.removeprefix("#") for link in re.findall(r"url\((#[^)]*)\)", html)} <= set(identities)
    assert "default-src 'none'" in "".join(found.values("content"))
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("h2")) == len(found.all("section")) == 9
    assert not found.all("script")[1:]
    assert json.loads(found.texts["script"])["study"]["name"] == report.facts.row.name


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_says_in_words_what_it_shows_and_has_a_table(kind: str) -> None:
    _, html, pictures = rendered(kind)
    found = Page(html)
    labels = [given["aria-label"] for given in found.all("svg")]
    assert len(labels) == len(found.all("figure")) == len(pictures)
    assert all(label and len(label) > 20 for label in labels)
    assert len(found.all("table")) >= len(pictures)
    assert all(given.get("scope") in ("col", "row") for given in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_have_their_size_and_something_on_them(kind: str) -> None:
    import numpy as np
    from matplotlib.image import imread

    _, _, pictures = rendered(kind)
    drawn = {
        "running": set(FIGURES) - {"power"}, "powered": set(FIGURES),
        "infeasible": {"plane", "sensitivity", "uniform"}, "empty": set(),
    }  # fmt: skip
    assert set(pictures) == drawn[kind]
    for content in pictures.values():
        pixels = np.asarray(imread(io.BytesIO(content)))
        assert pixels.shape[1] == round(theme.WIDTH * theme.DPI)
        assert pixels.shape[0] > 200
        assert np.unique(pixels.reshape(-1, pixels.shape[2])[::7], axis=0).shape[0] > 20


def test_the_same_numbers_give_the_same_bytes() -> None:
    report, html, pictures = rendered("infeasible")
    assert render(report) == (html, pictures)


def test_text_in_a_figure_is_text() -> None:
    _, html, _ = rendered("running")
    found = Page(html)
    assert "attention.2" in found.texts["text"]
    assert "var(--ink)" in html
    assert theme.INK not in html.partition("</style>")[2]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("running", "has not ended"), ("infeasible", "No setting meets both constraints"),
     ("empty", "Power was not measured here: no energy counter here"),
     ("empty", "sensitivity of the blocks was not measured"),
     ("powered", "against the baseline's 431 W"), ("powered", "points of accuracy")],
)  # fmt: skip
def test_the_page_says_what_is_missing_and_what_is_there(kind: str, said: str) -> None:
    _, html, _ = rendered(kind)
    assert said in Page(html).text + "".join(str(label) for label in Page(html).values("aria-label"))


def test_a_study_without_a_sensitivity_tier_is_drawn_without_its_heat_map() -> None:
    study = Study("s")
    for bits in LEVELS:
        study.add("global", NETWORK, bits, dict.fromkeys(study.blocks, bits))
    report = report_of(study)
    with theme.styled():
        drawn = {name for name in ("sensitivity", "plane") if FIGURES[name](report) is not None}
    assert drawn == {"plane"}
    assert "sensitivity of the blocks was not measured" in Page(page(report, {})).text


def hostile_study() -> Report:
    """Every string that somebody else may have written is hostile."""
    study = Study("s").fill(running=False)
    blocks = tuple(Block(f"{b.unit}{HOSTILE}", b.kind, b.modules) for b in study.hierarchy.blocks)
    study.name, study.hierarchy, study.reason = HOSTILE, Hierarchy("spikegpt", blocks), HOSTILE
    study.trials = [
        replace(t, unit=f"{t.unit}{HOSTILE}", reason=HOSTILE, tier=t.tier if t.number % 5 else HOSTILE)
        for t in study.trials
    ]
    study.spec = replace(study.spec, model=HOSTILE)
    row = replace(study.row(), fingerprint={"data": HOSTILE, HOSTILE: "x"}, order=[HOSTILE], host=HOSTILE)
    report = report_of(study, devices=[replace(BLIND, reason=HOSTILE)], chosen_run={"device": HOSTILE,
                       "silent": [HOSTILE]}, commands={HOSTILE: HOSTILE})  # fmt: skip
    return replace(report, facts=replace(report.facts, row=row))


def test_no_string_of_the_study_becomes_markup() -> None:
    report = hostile_study()
    html, _ = render(report)
    found = Page(html)
    assert len(found.all("script")) == 1
    assert not found.all("img")
    assert not [name for _, given in found.elements for name in given if name.startswith("on")]
    assert "\x1b" not in html and "\u202e" not in html
    assert "<img src=x onerror='a()'>" in found.text, "it is shown as it is"
    data = json.loads(found.texts["script"])
    assert data["study"]["name"] == HOSTILE
    assert found.texts["title"].startswith("</script><script>")


def test_cells_and_attributes_are_escaped() -> None:
    assert tag("p", "<b>", title='"&') == '<p title="&quot;&amp;">&lt;b&gt;</p>'
    assert "&lt;th&gt;" in table("<th>", ("<th>",), [["<td>"]])
    block = data_block({"a": "</script>&<!--", "b": float("inf")}, "x")
    assert json.loads(block[block.index(">") + 1 : -len("</script>")]) == {"a": "</script>&<!--", "b": None}
    assert block.count("<") == 2


def test_ten_thousand_trials_stay_one_small_page() -> None:
    study, chance = Study("big", blocks=10).fill(running=False), random.Random(0)
    like = [t for t in study.trials if t.tier != "sensitivity" and t.value is not None]
    for number in range(len(study.trials), 10_000):
        one = chance.choice(like)
        value = (one.value or 0.0) * chance.uniform(0.99, 1.01)
        study.trials.append(
            replace(one, number=number, uuid=f"t-{number}", digest=f"d{number}", value=value,
                    bytes=one.bytes + chance.randrange(one.bytes // 4))
        )  # fmt: skip
    report = report_of(study)
    with theme.styled():
        figure = FIGURES["plane"](report)
        assert figure is not None
        drawn = {"plane": Markup(theme.svg(figure, "plane-", "all of them"))}
    html = page(report, drawn)
    assert len(html) < 1_500_000
    assert len(Page(html).all("tr")) < 300
    assert len(report.to_json()["plane"]["points"]) > 9_000


def test_a_page_without_figures_has_all_the_tables() -> None:
    report, html, _ = rendered("running")
    plain = Page(page(report, {}))
    assert not plain.all("svg")
    assert len(plain.all("table")) == len(Page(html).all("table"))
    assert f'id="{DATA_ID}"' in html


def test_intervals_and_held_back_results_are_shown_where_a_study_has_them() -> None:
    report, _, _ = rendered("powered")
    there = {"value": 0.81, "ci_low": 0.77, "ci_high": 0.85, "confidence_level": 0.95, "change": -0.02,
             "p_value": 0.031, "within_bound": False, "n": 400, "reason": ""}  # fmt: skip
    sure = {"ci_low": 0.8, "ci_high": 0.9, "confidence_level": 0.95, "held_back": there}
    known = report_of(Study("s", "accuracy").fill())
    known.__dict__["rows"] = [{**row, **sure} for row in report.rows]
    text, plain = Page(page(known, {})).text, Page(page(report, {})).text
    for words in ("80.00–90.00 % (95 %)", "81.00 % beyond the bound", "-2.00 pp, p = 0.031", "77.00–85.00 %"):
        assert words in text and words not in plain
    assert "How sure the choice is" in text
