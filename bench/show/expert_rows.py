"""What loading experts cost, as rows of the tables that a run prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.metrics.experts import ExpertFigures
from bench.metrics.run_figures import Summary, number
from bench.show.layout import byte_size


def expert_rows(figures: ExpertFigures | None) -> Iterator[tuple[str, str]]:
    """Two rows of the table of one method; none for a method that loads no experts."""
    if figures is not None:
        places = f"{figures.hit:.1%} in the fast store, {figures.late:.1%} on their way"
        yield "experts when needed", f"{places}; {number(figures.wasted, '.1%')} of loads never used"
        yield "experts read", f"{byte_size(round(figures.bytes_per_token))} per token; {_waited(figures)}"


def arena_expert_rows(methods: Mapping[str, Summary]) -> list[tuple[str, ...]]:
    """A header and a row for each method that loads experts; nothing where there is none."""
    rows = [
        (
            label,
            f"{figures.hit:.1%}",
            f"{figures.late:.1%}",
            number(figures.wasted, ".1%"),
            byte_size(round(figures.bytes_per_token)),
            f"{1e3 * figures.stall_s_per_token:.2f} ms ({figures.stall:.0%})",
        )
        for label, summary in methods.items()
        if (figures := summary.experts) is not None
    ]
    header = ("experts when needed", "in store", "on their way", "wasted loads", "read/token", "wait/token")
    return [header, *rows] if rows else []


def _waited(figures: ExpertFigures) -> str:
    return f"{1e3 * figures.stall_s_per_token:.2f} ms of waiting per token, {figures.stall:.0%} of decoding"
