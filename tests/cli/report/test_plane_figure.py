"""The plane with very few points: both limits are in sight, no label stands on another or on the choice."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from qslm_opt.cli.report import theme
from qslm_opt.cli.report.plane_figure import plane_figure
from qslm_opt.hierarchy.tree import NETWORK
from qslm_opt.results import Metric
from tests.cli.report.material import report_of
from tests.tui.fakes import Study

BASE = {"perplexity": 34.2, "accuracy": 0.8544}
BOUND = {"perplexity": 35.7, "accuracy": 0.8349}


def study(metric: Metric, values: dict[int, float], budget_share: float = 0.22) -> Study:
    """Return a study of uniform settings alone: bits → metric."""
    made = Study("s", metric, budget_share=budget_share)
    for bits, value in values.items():
        made.add("global", NETWORK, bits, dict.fromkeys(made.blocks, bits))
        one, sign = made.trials[-1], 1 if metric == "perplexity" else -1
        slack = {"metric": sign * (value / BOUND[metric] - 1), "memory": one.bytes / made.budget - 1}
        made.trials[-1] = replace(one, state="complete", value=value, used=4000, slack=slack)
    return made


def drawn(made: Study) -> Any:
    with theme.styled():
        figure = plane_figure(report_of(made))
        assert figure is not None
        FigureCanvasAgg(figure).draw()
    return figure


def labels(ax: Any) -> dict[str, Bbox]:
    renderer = ax.figure.canvas.get_renderer()
    found = [text for text in ax.texts if isinstance(text, Annotation)]
    return {text.get_text(): text.get_window_extent(renderer) for text in found}


def overlap(one: Bbox, other: Bbox) -> bool:
    shared = Bbox.intersection(one, other)
    return shared is not None and shared.width > 1 and shared.height > 1


CASES = [
    ("perplexity", {4: 35.0}), ("perplexity", {3: 35.7}), ("perplexity", {4: 34.2}),
    ("perplexity", {4: 60.0}), ("perplexity", {4: 34.9, 3: 400.0}),
    ("accuracy", {4: 0.84}), ("accuracy", {4: 0.8544}), ("accuracy", {4: 0.8349}), ("accuracy", {4: 0.5}),
    ("perplexity", {4: 34.9, 3: 35.5}), ("accuracy", {4: 0.85, 3: 0.836}),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "values"), CASES)
def test_few_points_stand_beside_both_limits_and_no_label_on_another(
    metric: Metric, values: dict[int, float]
) -> None:
    made = study(metric, values)
    figure = drawn(made)
    near = figure.axes[1]
    low, high = near.get_xlim()
    unit = theme.bytes_axis(made.budget)[1]
    assert 0 <= low < min(t.bytes for t in made.trials) / unit and made.budget / unit < high
    factor = 100 if metric == "accuracy" else 1
    bottom, top = near.get_ylim()
    assert bottom < factor * min(BASE[metric], BOUND[metric])
    assert top > factor * max(BASE[metric], BOUND[metric])
    assert near.get_title(loc="left").startswith("around both limits")
    found = labels(near)
    assert {words.split()[0] for words in found} >= {"baseline", "bound", "budget"}
    wins = [words for words in found if words.startswith("#")]
    assert len(wins) == sum(t.feasible for t in made.trials)
    for (one, a), (other, b) in combinations(found.items(), 2):
        assert not overlap(a, b), (one, other)
    star = near.transData.transform(_choice(made, unit, factor))
    around = Bbox.from_bounds(star[0] - 5, star[1] - 5, 10, 10)
    assert not any(overlap(around, box) for box in found.values())


def _choice(made: Study, unit: float, factor: float) -> tuple[float, float]:
    report = report_of(made)
    assert report.plane is not None
    star = report.plane.chosen or report.plane.closest
    assert star is not None
    return star.bytes / unit, factor * star.value


def test_a_budget_far_away_is_not_drawn_and_not_claimed() -> None:
    near = drawn(study("perplexity", {8: 34.9}, budget_share=1.0)).axes[1]
    assert near.get_title(loc="left").startswith("around the perplexity bound")
    assert "budget" not in {words.split()[0] for words in labels(near)}


def test_the_lines_have_their_names_where_there_is_one_panel_alone() -> None:
    made = Study("s", budget_share=0.05)
    for unit in made.blocks:
        made.add("sensitivity", unit, 4, {unit: 4})
    (whole,) = drawn(made).axes
    assert {words.split()[0] for words in labels(whole)} == {"baseline", "bound", "budget"}
