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
from bench.report.figure_data import MOST_METHODS, baseline_ms, pictures, token_times
from bench.report.style import COLOURS, INK, png, svg
from tests.report.boards import Plan, stored

NAMES = ["kangaroo", "medusa"]
BOUNDS = {"low": [1.4, 1.9], "high": [1.6, 2.1], "lossy": [False, True]}


def time_per_token(frame: pd.DataFrame) -> Figure:
    return figures.time_per_token(frame, baseline=5.0)


FRAMES: dict[Callable[[pd.DataFrame], Figure], dict[str, list[Any]]] = {
    figures.overall: {"method": NAMES, "rank": [1, 1], "speedup": [1.5, 2.0]},
    figures.speedup_by_subtask: {"method": NAMES, "subtask": ["qa", "rag"], "speedup": [1.5, 2.0]},
    figures.acceptance_against_speedup: {"method": NAMES, "acceptance_length": [2, 3], "speedup": [1.5, 2.0]},
    time_per_token: {"method": NAMES, "phase": ["draft", "verify"], "milliseconds": [3.0, 9.0]},
    curves.waits: {"method": NAMES, "wait": ["per token"] * 2, "p50": [3, 9], "p90": [4, 9], "p99": [5, 99]},
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


@pytest.mark.parametrize("count", [2, 12, MOST_METHODS])
def test_every_method_is_named_beside_its_point_and_colours_only_tell_lossy_from_lossless(count: int) -> None:
    names = [f"method_{place}" for place in range(count)]
    speeds = [1 + place / 7 % 1 for place in range(count)]
    frame = pd.DataFrame({"method": names, "speedup": speeds})
    frame = frame.assign(
        lossy=[place % 5 == 4 for place in range(count)],
        acceptance_length=frame["speedup"] + 0.5,
        low=frame["speedup"] - 0.05,
        high=frame["speedup"] + 0.05,
    )
    (axes,) = figures.acceptance_against_speedup(frame).axes
    texts = {text.get_text(): text for text in axes.texts if text.get_text().startswith("method")}
    assert set(texts) == set(names)
    assert {line.get_color() for line in axes.lines if line.get_marker() in "oD"} <= set(COLOURS)
    boxes = [text.get_window_extent() for text in texts.values()]
    hidden = sum(one.overlaps(two) for place, one in enumerate(boxes) for two in boxes[:place])
    assert hidden == 0


def test_every_figure_of_a_section_names_model_device_and_questions() -> None:
    plans = [Plan(name, speed, labels={}) for name, speed in (("kangaroo", 1.9), ("medusa", 1.5))]
    (section,) = sections(entries([stored(plan) for plan in plans]))
    shown = pictures(section)
    assert {"overall", "speedup", "acceptance", "time", "positions", "waits"} <= {one.name for one in shown}
    for picture in shown:
        above = " ".join(picture.figure.get_suptitle().split())
        assert "vicuna_7b on NVIDIA A100-SXM4-80GB" in above
        assert "72 of 480 official Spec-Bench questions" in above


def test_a_section_of_one_run_draws_no_figure_that_compares_methods() -> None:
    (section,) = sections(entries([stored(Plan("kangaroo"))]))
    assert [picture.name for picture in pictures(section)] == ["time", "positions", "waits"]


def test_the_time_of_a_token_adds_up_to_the_methods_speed() -> None:
    (section,) = sections(entries([stored(Plan("kangaroo", 2.0))]))
    method = section.ranked[0].entry.summary.method
    assert method.decode_tokens_per_s is not None
    total = token_times(section.ranked)["milliseconds"].sum()
    assert total == pytest.approx(1e3 / method.decode_tokens_per_s, rel=1e-6)
    assert baseline_ms(section.ranked) == pytest.approx(10, rel=0.02)


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
    assert names == ["overall", "speedup", "acceptance", "time", "positions", "waits", "sweep-layerskip"]
