"""``python -m bench.report model-sizes``: how acceptance and speedup of methods grow with the model.

Each run is of one model; a method that was measured on at least two of them has a line. The size of a model
is the number of weights that a pass reads, as every run measures it. Runs may be of different days: a speedup
is over the baseline of its own run.

Frame: ``method, model, parameters, speedup, low, high, acceptance_length``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.errors import UserError
from bench.metrics.intervals import with_bar
from bench.metrics.roofline import Probe
from bench.metrics.run_figures import number, speedup
from bench.report.board import Section, sections
from bench.report.entries import Entry, entries
from bench.report.input_length import draw
from bench.report.stored_runs import read_whole_run
from bench.report.style import Picture, styled, wrapped
from bench.report.two_panels import speed_and_acceptance
from bench.show.layout import text_table

HEADER = ("method", "model", "weights per pass", "questions", "decode speedup", "acceptance length")
CAPTION = (
    "Decode speedup over the baseline of the same run with its 95 % interval, and acceptance length, by the "
    "weights that a pass of the model reads."
)
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def show_sizes(runs: Sequence[Path], figure: Path | None) -> str:
    """The table of runs of several models as text; the figure is written where one is asked for.

    Raises:
        UserError: If a run cannot be read, if the runs differ in what was asked or how, or hold no method
            that two models share.
    """
    found = [part for run in runs for part in sections(entries(read_whole_run(run)))]
    _require_comparable(found)
    frame = size_frame(found)
    if frame.empty:
        raise UserError("the runs share no method that two models decoded", "name runs of different models")
    lines = text_table([HEADER, *_rows(found, frame)])
    if figure is not None:
        draw(Picture("model-sizes", CAPTION, partial(size_figure, frame)), figure)
        lines.append(str(figure))
    return "\n".join(lines)


def _require_comparable(found: Sequence[Section]) -> None:
    """Speedups may stand side by side only where questions, device, precision and sampling are the same."""
    facts: dict[str, Callable[[Section], object]] = {
        "questions": lambda part: part.asked,
        "device": lambda part: part.setting.device,
        "precision": lambda part: part.setting.dtype,
        "sampling": lambda part: part.setting.sampling,
        "max_new_tokens": lambda part: part.setting.max_new_tokens,
    }
    for name, fact in facts.items():
        if len({fact(part) for part in found}) > 1:
            raise UserError(
                f"the runs differ in their {name}, which changes speedups as much as the model does",
                f"measure all models with the same {name}",
            )


def size_frame(found: Sequence[Section]) -> pd.DataFrame:
    """What the figure shows, see this module's docstring; smaller models and faster methods first."""
    rows = [row for part in found for label, entry in part.labelled.items() if (row := _row(label, entry))]
    models = Counter(method for method, model in {(row[0], row[1]) for row in rows})
    kept = [row for row in rows if models[row[0]] > 1]
    columns = ["method", "model", "parameters", "speedup", "low", "high", "acceptance_length"]
    frame = pd.DataFrame(kept, columns=columns)
    order = frame.groupby("method")["speedup"].max().sort_values(ascending=False).index
    kind = pd.CategoricalDtype(list(order), ordered=True)
    return frame.astype({"method": kind}).sort_values(["method", "parameters"], ignore_index=True)


def _row(label: str, entry: Entry) -> tuple[str, str, float, float, float, float, float] | None:
    summary = entry.summary
    decode, length, probe = summary.speedup.decode, summary.acceptance.pooled, Probe.of_run(summary.run)
    if decode is None or length is None or probe is None:
        return None
    weights = probe.weight_bytes / _BYTES[entry.setting.dtype]
    return label, entry.setting.model, weights, *with_bar(decode), length


def _rows(found: Sequence[Section], frame: pd.DataFrame) -> list[tuple[str, ...]]:
    by_place = {(label, part.setting.model): part for part in found for label in part.labelled}
    made = list[tuple[str, ...]]()
    for row in frame.itertuples():
        part = by_place[str(row.method), str(row.model)]
        summary = part.labelled[str(row.method)].summary
        made.append(
            (
                *(str(row.method), str(row.model), _millions(float(str(row.parameters)))),
                *(str(len(part.asked)), speedup(summary.speedup.decode), number(summary.acceptance.pooled)),
            )
        )
    return made


def _sizes(frame: pd.DataFrame) -> list[tuple[str, float]]:
    """Every model with its size, smallest first."""
    models = frame.drop_duplicates("model").sort_values("parameters")
    return list(zip(models["model"].astype(str), models["parameters"].astype(float), strict=True))


def _millions(count: float) -> str:
    return f"{count / 1e6:,.0f} M"


def size_figure(frame: pd.DataFrame) -> Figure:
    """Two panels over the size of the model: decode speedup, and acceptance length."""
    with styled():
        panels = speed_and_acceptance(frame, "parameters", height=4.8, spread=0.15)
        sizes, axes = _sizes(frame), panels.acceptance
        ticks = [f"{wrapped(model)}\n{_millions(size)}" for model, size in sizes]
        axes.set_xticks([size for _, size in sizes], labels=ticks)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("weights that a pass reads")
    return panels.figure
