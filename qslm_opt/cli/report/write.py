"""Writing a report: the page to one file, its figures as PNG beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qslm_opt.cli.report import figures, map_figure, plane_figure, theme
from qslm_opt.cli.report.html import Markup, text
from qslm_opt.cli.report.page import page
from qslm_opt.cli.report.sections import TITLES
from qslm_opt.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qslm_opt.cli.report.data import Report

FIGURES: dict[str, Callable[[Report], Figure | None]] = {
    "plane": plane_figure.plane_figure,
    "sensitivity": figures.sensitivity_figure,
    "uniform": figures.uniform_figure,
    "power": figures.power_figure,
    "bits": map_figure.bits_figure,
    "bytes": map_figure.bytes_figure,
}
"""Name of the figure, also of its file, → what draws it."""


def render(report: Report) -> tuple[str, dict[str, bytes]]:
    """Return the page, and figure → PNG; a figure without data is left out."""
    drawn: dict[str, Markup] = {}
    pictures: dict[str, bytes] = {}
    with theme.styled():
        for name, draw in FIGURES.items():
            figure = draw(report)
            if figure is not None:
                pictures[name] = theme.png(figure)
                drawn[name] = Markup(theme.svg(figure, f"{name}-", text(TITLES[name](report))))
    return page(report, drawn), pictures


def write(report: Report, output: Path, folder: Path) -> list[Path]:
    """Write the page and its figures; return the files. Raises UsageError where one cannot be written."""
    _prepare(output, folder)
    whole, pictures = render(report)
    _put(output, whole.encode("utf-8"), "--output")
    paths = {folder / f"{name}.png": content for name, content in pictures.items()}
    for path, content in paths.items():
        _put(path, content, "--figures")
    return [output, *paths]


def _prepare(output: Path, folder: Path) -> None:
    """Say of a path that cannot be written, before anything is drawn."""
    try:
        output.open("ab").close()
    except OSError as error:
        raise UsageError(_cannot("--output", output, error)) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(_cannot("--figures", folder, error)) from None


def _put(path: Path, content: bytes, option: str) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(_cannot(option, path, error)) from None


def _cannot(option: str, path: Path, error: OSError) -> str:
    return f"{option} {str(path)!r} cannot be written ({error.strerror}); give another path."
