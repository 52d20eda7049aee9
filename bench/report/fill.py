"""HTML from the templates of ``bench/report/templates``."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill_template(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template shows
    """A template filled in, with every value escaped."""
    loader = PackageLoader("bench.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values) + "\n"
