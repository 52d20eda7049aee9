"""How every figure looks.

Colour-blind readers can distinguish the colours, and markers and hatches survive grey print.
Figures have a clear background and one ink colour. In SVG the ink becomes ``currentColor``, so the page's own
text colour, light or dark, draws axes and labels, and text stays text. Output is deterministic: no dates,
seeded ids, and the font that matplotlib ships measures every text.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK = "#010203"
"""Stands for the reader's text colour; reference lines are drawn in it, data never."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31", "#7F7F7F")
"""Okabe and Ito's, without yellow and black, which vanish on white and on dark, and two more."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*", "p")
HATCHES = ("", "///", "---", "xx", "\\\\\\", "++", "|||")
"""Lines only: dots and rings take a hundred times the bytes in SVG."""
WIDTH = 5.8
"""Inches; narrow enough that a phone shows a whole figure with legible text."""
PNG_DPI = 120
PNG_COLOURS = 128
"""Figures have few colours, and edges between them; more would not be seen."""
LABEL_CHARACTERS = 26
"""Longer names of methods continue on a second line."""
_STAMP_CHARACTERS = 105
_LEGEND_CHARACTERS = 80
"""What fits into one line of a legend below the axes, symbols included."""
_LEGEND_LINE = 0.18
"""Inches."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with its caption, drawn when it is asked for: not every reader of a report needs drawings.

    Args:
        name: Part of its file name.
        caption: One sentence on what it shows and how to read it.
        draw: Makes the drawing.
        place: Model, device and questions, for the line above the drawing; empty for none.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]
    place: str = ""

    @property
    def figure(self) -> Figure:
        """The drawing, made anew each time."""
        return stamped(self.draw(), self.place) if self.place else self.draw()


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
"""Characters that no XML file may hold; names in records may."""

_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # a name in dollar signs is a name
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
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
    "svg.fonttype": "none",
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


def stamped(figure: Figure, place: str) -> Figure:
    """The figure with a line above it that names model, device and questions."""
    with styled():
        lines = textwrap.fill(place, _STAMP_CHARACTERS)
        figure.set_figheight(figure.get_figheight() + 0.15 * (lines.count("\n") + 1))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=7.5, alpha=0.8)
    return figure


def in_order(frame: pd.DataFrame, column: str) -> list[str]:
    """The values of a column in order of appearance."""
    return [str(value) for value in frame[column].drop_duplicates()]


def looks(frame: pd.DataFrame, column: str = "method") -> dict[str, dict[str, Any]]:
    """A colour and a marker per name in the column, in order.

    In a categorical column every category has a look, even one that is not drawn, so a method looks the same
    in all figures made from the same categories.
    """
    values = frame[column]
    known = list(values.cat.categories) if isinstance(values.dtype, pd.CategoricalDtype) else []
    pairs = zip(known or in_order(frame, column), cycle(COLOURS), cycle(MARKERS), strict=False)
    by_name = {str(name): {"color": colour, "marker": marker} for name, colour, marker in pairs}
    return {name: by_name[name] for name in in_order(frame, column)}


def wrapped(name: str) -> str:
    """A name in lines of at most `LABEL_CHARACTERS`, broken at spaces."""
    return textwrap.fill(name, LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def fill(place: int) -> dict[str, Any]:
    """How the bar at a place in a stack is filled: a colour and a hatch."""
    colour, hatch = COLOURS[place % len(COLOURS)], HATCHES[place % len(HATCHES)]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.4}


def heat_map(
    axes: Axes,
    table: pd.DataFrame,
    form: Callable[[float], str],
    *,
    limits: tuple[float, float] | None = None,
    marks_best: bool = False,
) -> None:
    """Cells of a table with their numbers, the first row on top; cells without a number stay empty.

    Args:
        axes: Where to draw; its ticks become the table's index and columns.
        table: Numbers, shape [rows, columns].
        form: A number as the text of its cell.
        limits: Ends of the colour scale; the table's own without.
        marks_best: Print the largest number bold.
    """
    values = table.to_numpy(dtype=float)
    high = float(np.nanmax(values))
    bottom, top = limits or (float(np.nanmin(values)), high)
    visible = np.ma.masked_invalid(values)
    axes.pcolormesh(visible, cmap="cividis", vmin=bottom, vmax=top)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value <= (bottom + top) / 2 else "black"
            weight = "bold" if marks_best and value == high else "normal"
            place = (column + 0.5, row + 0.5)
            axes.text(*place, form(value), ha="center", va="center", color=colour, weight=weight, fontsize=8)
    axes.set_xticks(np.arange(len(table.columns)) + 0.5, [str(name) for name in table.columns])
    axes.set_yticks(np.arange(len(table)) + 0.5, [str(name) for name in table.index])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def legend_below(figure: Figure, title: str | None = None) -> None:
    """All names below the axes, in as many columns as fit; the figure grows by their lines."""
    shown = [str(text) for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    longest = max((len(line) for name in shown for line in name.splitlines()), default=1)
    columns = max(1, min(4, _LEGEND_CHARACTERS // (longest + 6)))
    lines = -(-len(shown) // columns) * max((name.count("\n") + 1 for name in shown), default=1)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * lines)
    figure.legend(loc="outside lower center", ncols=columns, title=title)


def numbers(frame: pd.DataFrame, *columns: str) -> list[tuple[float, ...]]:
    """The rows of a frame as plain floats."""
    return list(zip(*(frame[name].astype(float).tolist() for name in columns), strict=True))


_FONTS = "DejaVu Sans, Verdana, sans-serif"
"""The widths of texts were computed for the first of these."""


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
    text = _UNPRINTABLE.sub("", text[text.index("<svg") :]).strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^<>]*>", _short_tag, text)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)  # the same list in every text: once is enough
    text = text.replace("<svg", f'<svg font-family="{_FONTS}"', 1)
    text = re.sub(r"\n\s*", "\n", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to groups
    text = re.sub(r"<g/>\n|<g>\n</g>\n", "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace(INK, "currentColor")


def _short_tag(tag: re.Match[str]) -> str:
    """A tag in one line, its coordinates to a hundredth of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(tag[0].split()))


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white, with few enough colours to take a third of the room."""
    drawn, kept = io.BytesIO(), io.BytesIO()
    with styled():
        figure.savefig(drawn, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(PNG_COLOURS, dither=Image.Dither.NONE)
    picture.save(kept, format="PNG", optimize=True)
    return kept.getvalue()
