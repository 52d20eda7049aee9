"""How every figure looks: colours that colour-blind readers tell apart, markers and hatches that grey
prints keep.

Figures have a clear background and one ink colour. In SVG the ink becomes ``currentColor``, so the page's own
text colour, light or dark, draws axes and labels. Output is deterministic: no dates, seeded ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the reader's text colour; no data is drawn in it but reference lines."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#7F7F7F")
"""Okabe and Ito's, without yellow and black, which vanish on white and on dark, and two more."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")
WIDTH = 5.8
"""Inches; narrow enough that a phone shows a whole figure with legible text."""
PNG_DPI = 150
_LEGEND_CHARACTERS = 80
"""What fits into one line of a legend below the axes, symbols included."""

_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "hatch.color": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.hashsalt": "self-speculative-bench",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside this; leaves matplotlib's settings as they were."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float) -> Figure:
    """An empty figure outside pyplot's list of open ones; call inside `styled`."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker per name, in order."""
    pairs = zip(names, cycle(COLOURS), islice(cycle(MARKERS), len(names)), strict=False)
    return {name: {"color": colour, "marker": marker} for name, colour, marker in pairs}


def fill(place: int) -> dict[str, Any]:
    """How the bar at a place in a stack is filled: a colour and a hatch."""
    colour, hatch = COLOURS[place % len(COLOURS)], HATCHES[place % len(HATCHES)]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.4}


def legend_below(figure: Figure, title: str | None = None) -> None:
    """All names below the axes, in as many columns as their length allows."""
    names = [str(text) for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    longest = max((len(name) for name in names), default=1)
    columns = max(1, min(4, _LEGEND_CHARACTERS // (longest + 6)))
    figure.legend(loc="outside lower center", ncols=columns, title=title)


def numbers(frame: pd.DataFrame, *columns: str) -> list[tuple[float, ...]]:
    """The rows of a frame as plain floats."""
    return list(zip(*(frame[name].astype(float).tolist() for name in columns), strict=True))


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element whose ink is the text colour around it.

    Args:
        figure: What to save.
        name: Prefix of every id in it, so that several figures share a page.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace(INK, "currentColor")


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
