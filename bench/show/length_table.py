"""What a run's tables say by length of the prompt, where prompts differ enough in length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.metrics.input_length import LengthRange, by_input_length, spans_lengths
from bench.metrics.run_figures import number, speedup
from bench.records.model import Run, Sample
from bench.records.views import of_method, samples_of
from bench.show.layout import text_table

HEADER = ("prompt tokens", "turns", "questions", "decode speedup", "end to end", "acceptance length")


def length_block(run: Run, samples: Sequence[Sample], level: float = 0.95) -> str:
    """The lines below a run's table, an empty one first; nothing where prompts are about equally long."""
    by_label = ranges_of(run, samples, level=level)
    first = next(iter(by_label.values()), ())
    if not spans_lengths(first):
        return ""
    rows = length_rows(first) if not run.methods else arena_rows(by_label)
    header = HEADER if not run.methods else arena_header(first)
    return "\n".join(["\n", *text_table([header, *rows])])


def ranges_of(
    run: Run, samples: Sequence[Sample], edges: Sequence[int] | None = None, level: float = 0.95
) -> dict[str, tuple[LengthRange, ...]]:
    """The ranges of every method by its label; of a run of one method, by its name.

    Args:
        run, samples: The run and its samples, of every arm.
        edges: Where ranges begin; None: powers of two, short ranges joined.
        level: Confidence level of the intervals.
    """
    parts: dict[str, tuple[Run, Sequence[Sample]]] = {
        label: (of_method(run, label), samples_of(samples, label)) for label in run.methods
    }
    return {
        label: by_input_length(part, edges, level, is_cost_only=bool(of.labels.get("cost only")))
        for label, (of, part) in (parts or {run.method: (run, samples)}).items()
    }


def length_rows(ranges: Sequence[LengthRange]) -> list[tuple[str, ...]]:
    """One range a row, the cells of `HEADER`."""
    return [
        (
            part.name,
            str(part.turns),
            str(part.questions),
            speedup(part.speedup.decode),
            speedup(part.speedup.end_to_end),
            number(part.acceptance_length),
        )
        for part in ranges
    ]


def arena_header(ranges: Sequence[LengthRange]) -> tuple[str, ...]:
    """The ranges as columns, each with its number of turns."""
    return ("speedup, length by prompt tokens", *(f"{part.name} ({part.turns})" for part in ranges))


def arena_rows(by_label: Mapping[str, Sequence[LengthRange]]) -> list[tuple[str, ...]]:
    """One method a row: its decode speedup and its acceptance length in every range."""
    return [(label, *map(speed_and_length, ranges)) for label, ranges in by_label.items()]


def speed_and_length(part: LengthRange | None) -> str:
    """``1.18x, 1.36``: decode speedup and acceptance length of a range; a dash for none."""
    if part is None:
        return "-"
    decode = part.speedup.decode
    return f"{number(decode.estimate if decode else None, unit='x')}, {number(part.acceptance_length)}"
