"""Every figure: drawn from its frame alone, units on its axes, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from bench.report import curves, figures
from bench.report.board import sections
from bench.report.entries import entries
from bench.report.figure_data import MOST_METHODS, pictures
from bench.report.style import INK, looks, png, svg
from tests.report.boards import Plan, stored

NAMES = ["kangaroo", "medusa"]
BOUNDS = {"low": [1.4, 1.9], "high": [1.6, 2.1]}
FRAMES: dict[Callable[[pd.DataFrame], Figure], dict[str, list[Any]]] = {
    figures.speedup_by_subtask: {"method": NAMES, "subtask": ["qa", "rag"], "speedup": [1.5, 2.0]},
    figures.acceptance_against_speedup: {"method": NAMES, "acceptance_length": [2, 3], "speedup": [1.5, 2.0]},
    figures.time_per_round: {"method": NAMES, "phase": ["draft", "verify"], "milliseconds": [3.0, 9.0]},
    figures.acceptance_by_position: {"method": NAMES, "position": [1, 1], "rate": [0.9, 0.8]},
    figures.divergence_margins: {"method": NAMES, "margin": [0.01, 0.02]},
    curves.cost_curve: {"M": [1, 8], "seconds": [0.01, 0.02], "context": [128, 128]},
    curves.layer_cost: {"layers": [0, 2, 4], "seconds": [0.001, 0.002, 0.003], "context": [128] * 3},
    curves.predicted_against_measured: {"method": NAMES, "predicted": [1.6, 2.2], "measured": [1.5, 2.0]},
    curves.quality_against_speed: {
        "method": NAMES,
        "confidence": [0.5, 0.7],
        "speedup": [2.0, 1.5],
        "right": [0.8, 0.9],
        "right_of_target": [0.9, 0.9],
        "nats": [0.3, 0.2],
        "nats_of_target": [0.1, 0.1],
    },
}


def drawn(draw: Callable[[pd.DataFrame], Figure]) -> Figure:
    frame = FRAMES[draw]
    rows = len(next(iter(frame.values())))
    return draw(pd.DataFrame(frame | (BOUNDS if rows == 2 else {})))


@pytest.mark.parametrize("draw", FRAMES, ids=[draw.__name__ for draw in FRAMES])
def test_a_figure_names_its_axes_with_units_and_is_reproducible(
    draw: Callable[[pd.DataFrame], Figure],
) -> None:
    figure = drawn(draw)
    labels = [axes.get_xlabel() for axes in figure.axes] + [str(figure.get_supxlabel())]
    assert any("(" in label or label == "draft length (tokens)" for label in labels)
    text = svg(figure, "a")
    assert text == svg(drawn(draw), "a")
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert INK not in text
    assert "http-equiv" not in text


def test_methods_differ_in_colour_or_marker() -> None:
    made = looks(pd.DataFrame({"method": [f"method {i}" for i in range(MOST_METHODS)]}))
    assert len({(look["color"], look["marker"]) for look in made.values()}) == MOST_METHODS


def test_a_method_looks_the_same_in_every_figure_of_a_section() -> None:
    known = pd.CategoricalDtype(NAMES)
    alone, both = (pd.DataFrame({"method": pd.Series(names, dtype=known)}) for names in (NAMES[1:], NAMES))
    assert looks(alone)["medusa"] == looks(both)["medusa"]


def test_a_png_is_a_png() -> None:
    assert png(drawn(figures.divergence_margins)).startswith(b"\x89PNG")


def test_a_roofline_joins_the_cost_curve() -> None:
    curve = pd.DataFrame({"M": [1, 8], "seconds": [0.01, 0.02], "context": [128, 128]})
    figure = curves.cost_curve(curve, pd.DataFrame({"seconds": [0.005], "context": [128]}))
    assert [line.get_label() for line in figure.axes[0].lines] == ["128 tokens", "128 tokens: roofline"]


def test_a_sweep_of_exit_layers_and_draft_lengths_gets_a_heat_map() -> None:
    grid = [Plan("layerskip", params={"exit_layer": e, "draft_length": n}) for e in (2, 4) for n in (3, 6)]
    (section,) = sections(entries([stored(plan) for plan in grid]))
    names = [picture.name for picture in pictures(section)]
    assert names == ["speedup", "acceptance", "time", "positions", "sweep-layerskip"]
