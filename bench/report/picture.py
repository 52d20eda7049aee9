"""A figure with its caption."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on its page.

    Args:
        name: Part of its file name.
        caption: One sentence on what it shows and how to read it.
        figure: The drawing.
    """

    name: str
    caption: str
    figure: Figure
