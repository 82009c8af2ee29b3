"""Reports of made-up studies, and a reader of the page that is strict about HTML."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any

from qslm_opt.cli.facts import StudyFacts
from qslm_opt.cli.report.data import Report
from qslm_opt.results import PowerDevice, PowerWindow
from tests.tui.fakes import Study

VOID = {"meta", "br", "hr", "img", "input", "link"}
METER = PowerDevice("i", "u", "h", 1, "cuda:0", name="NVIDIA H200", source="nvml", idle_w=118.0)
BLIND = PowerDevice("i", "u", "h", 1, "cpu", reason="no energy counter here")


def report_of(study: Study, lam: float | None = None, **more: Any) -> Report:
    facts = StudyFacts(study.row(), study.trials, study.spec.lam if lam is None else lam)
    return Report(facts, made="2026-11-23 12:00:00", **more)


def window(mean_w: float, items: int = 1_000_000, **more: Any) -> PowerWindow:
    return PowerWindow(
        "nvml", 40, 20.0, mean_w, 6.0, 2 * mean_w, idle_w=118.0, seconds=2.0, items=items, **more
    )


def powered(study: Study, baseline: bool = True) -> dict[str, Any]:
    """Windows of every candidate, and of the baseline, as a meter's."""
    found = {t.uuid: window(400.0 + t.number) for t in study.trials if t.feasible}
    if baseline:
        found[study.uuid] = window(431.0)
    return {"windows": found, "devices": [METER]}


class Page(HTMLParser):
    """Elements of a page; an element that is closed out of turn, or never, fails."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.texts: dict[str, str] = {}
        """Element → all text that is directly in such elements."""
        self.feed(html)
        self.close()
        assert self.open == [], f"{self.open} never end"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} repeats an attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> is no HTML"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> ends {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, *names: str) -> Iterable[str]:
        """Values of attributes of these names, of every element."""
        return [v for _, given in self.elements for k, v in given.items() if k in names and v is not None]
