"""Figures become files: an SVG element for a page of HTML, a PNG for Markdown; many of them on all cores.

Drawing takes most of a report's time, and no figure depends on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from bench.measure.processor import cores
from bench.report.style import Picture, png, svg

FEW = 16
"""Below this many drawings, starting a process takes as long as it saves."""
_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A figure that is to be drawn.

    Args:
        name: Prefix of every id in its SVG element.
        picture: What to draw.
        page: Name of the page that shows it; empty for the board.
        as_svg, as_png: What is wanted of it.
    """

    name: str
    picture: Picture
    page: str = ""
    as_svg: bool = True
    as_png: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as files; empty what was not ordered."""

    svg: str = ""
    png: bytes = b""


NOT_DRAWN = Drawn("<svg></svg>")
"""In the place of a figure that nobody will look at."""


def draw(order: Order) -> Drawn:
    """Draw one figure; as it is laid out for the first of its files, so it stays for the second."""
    figure = order.picture.figure
    element = svg(figure, order.name) if order.as_svg else ""
    if order.as_svg:
        figure.set_layout_engine("none")
    return Drawn(element, png(figure) if order.as_png else b"")


def draw_all(orders: Sequence[Order]) -> list[Drawn]:
    """Draw every figure, in order; on all cores that this process may use if there are many."""
    workers = min(cores(), len(orders) // _PER_MESSAGE + 1)
    if len(orders) < FEW or workers < 2:
        return [draw(order) for order in orders]
    with ProcessPoolExecutor(workers, get_context("fork"), _take, (orders,)) as pool:
        return list(pool.map(_draw_taken, range(len(orders)), chunksize=_PER_MESSAGE))


_taken: Sequence[Order] = ()
"""In a worker process: what there is to draw. A forked process has the data without a copy being sent."""


def _take(orders: Sequence[Order]) -> None:
    global _taken
    _taken = orders


def _draw_taken(place: int) -> Drawn:
    return draw(_taken[place])
