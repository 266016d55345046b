"""A report as one HTML page without external files, for light and dark screens."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from explora.core.reports.document import Plot, Report

TEMPLATES = Path(__file__).parent / "templates"


def as_html(report: Report) -> str:
    """Render a report as a page. Jinja escapes all text; the plots are markup."""
    from explora.core.reports.drawing import draw

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = count(1)

    def drawn(plot: Plot) -> Markup:
        return Markup(draw(plot, f"p{next(numbers)}"))

    page = environment.get_template("page.html.jinja")
    return page.render(report=report, draw=drawn, kind_of=lambda block: type(block).__name__) + "\n"
