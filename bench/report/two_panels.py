"""Two panels over one quantity: decode speedup with its intervals above, acceptance length below it.

Several figures are of this kind, over the length of prompts or the size of models; a method is a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.style import INK, legend_below, looks, new_figure, numbers, wrapped


@dataclass(frozen=True, slots=True)
class TwoPanels:
    """The figure and its panels; whoever draws it labels the horizontal axis of the lower one."""

    figure: Figure
    speed: Axes
    acceptance: Axes


def speed_and_acceptance(frame: pd.DataFrame, over: str, *, height: float, spread: float) -> TwoPanels:
    """Both panels, drawn inside `bench.report.style.styled`; the horizontal axis is logarithmic.

    Args:
        frame: ``method, speedup, low, high, acceptance_length`` and the column `over`, one row a mark.
        over: The column of the horizontal axis, numbers above 0.
        height: Of the figure in inches.
        spread: Marks of several methods at one place stand side by side, within so many powers of two.
    """
    figure, styles = new_figure(height), looks(frame)
    speed, acceptance = figure.subplots(2, 1, sharex=True)
    for place, (name, look) in enumerate(styles.items()):
        part = frame[frame["method"] == name].sort_values(over)
        shift = 2 ** (spread * ((place + 0.5) / len(styles) - 0.5))
        _line(speed, acceptance, part, part[over].to_numpy() * shift, wrapped(name), look)
    speed.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
    speed.set_ylabel("decode speedup (x)")
    acceptance.set_ylabel("acceptance length\n(tokens per target pass)")
    acceptance.set_xscale("log", base=2)
    for axes in (speed, acceptance):
        axes.grid()
    legend_below(figure)
    return TwoPanels(figure, speed, acceptance)


def _line(
    speed: Axes, acceptance: Axes, part: pd.DataFrame, places: object, name: str, look: dict[str, object]
) -> None:
    values = numbers(part, "speedup", "low", "high")
    errors = [[middle - low for middle, low, _ in values], [high - middle for middle, _, high in values]]
    speeds = [middle for middle, _, _ in values]
    speed.errorbar(places, speeds, yerr=errors, capsize=2, linewidth=1, label=name, **look)  # type: ignore[arg-type]
    acceptance.plot(places, part["acceptance_length"].astype(float).to_numpy(), linewidth=1, **look)  # type: ignore[arg-type]
