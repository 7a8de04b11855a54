"""The page of a report: one file of HTML that asks nothing of a network. The template escapes every text in it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2

from coco.names import plain
from evaluation.charts import HEIGHT, WIDTH

TEXT_IN_CELLS = 25  # classes; with more, a cell of the confusion matrix is a colour that tells its number on pointing


def page(contents: Mapping[str, Any]) -> str:
    """The HTML of what `evaluation.report` puts together."""
    return template().render(contents, plot=(WIDTH, HEIGHT), text_in_cells=TEXT_IN_CELLS)


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    """The page's template, read once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval, "percent": _percent, "plain": plain}
    return environment.get_template("page.html.jinja")


def _number(value: float | None, digits: int = 3) -> str:
    """- where there is none, which COCOeval writes as -1."""
    return "-" if value is None or value == -1 or value != value else f"{value:.{digits}f}"


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends[0] == ends[0] else "-"


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.0f} %"
