"""Figures are drawn as ordered, and by several processes as by one."""

from __future__ import annotations

from functools import partial

import pytest
from matplotlib.figure import Figure

from bench.report import drawing
from bench.report.drawing import Drawn, Order, draw, draw_all
from bench.report.style import Picture, new_figure, styled


def line(number: int) -> Figure:
    with styled():
        figure = new_figure(1.0)
        figure.subplots().plot([0, 1], [0, number], label=f"line {number}")
        figure.legend(loc="outside lower center")
    return figure


def order(number: int, *, as_svg: bool = True, as_png: bool = True) -> Order:
    picture = Picture("line", "A line.", partial(line, number))
    return Order(f"figure-{number}", picture, as_svg=as_svg, as_png=as_png)


def test_what_is_not_ordered_stays_empty() -> None:
    assert draw(order(1, as_svg=False)).svg == ""
    assert draw(order(1, as_png=False)).png == b""
    both = draw(order(1))
    assert both.svg.startswith("<svg")
    assert both.png.startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on, in a test's process
def test_several_processes_draw_what_one_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[Drawn] = [draw(order(number)) for number in range(5)]
    monkeypatch.setattr(drawing, "FEW", 2)
    monkeypatch.setattr(drawing, "cores", lambda: 2)
    assert draw_all([order(number) for number in range(5)]) == expected
