"""HTML from the templates of ``bench/report/templates``."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill_template(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template shows
    """A template filled in, with every value escaped."""
    return _environment().get_template(template).render(**values) + "\n"


@cache
def _environment() -> Environment:
    """Compiles every template once."""
    return Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
