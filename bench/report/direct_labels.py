"""Names beside the points of a figure, in the place of a legend with a colour for each.

A label takes the first free place around its point, near ones first; a thin line leads to labels further off.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bench.report.style import INK

FONT_SIZE = 8
_RADII = (7.0, 13.0, 20.0, 30.0, 42.0, 56.0)
"""Points between a label and what it names."""
_ANGLES = tuple(pi * step / 8 for step in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9))
"""To the right first, then to the left, above, below, and between these."""
_NEAR = 10.0
_PIXELS = 1.5
"""Free space around a label."""

Point = tuple[str, float, float]


def label_points(axes: Axes, points: Sequence[Point], spans: Sequence[tuple[float, float]] = ()) -> None:
    """Write the name of every point beside it; call when the figure is complete.

    Args:
        axes: Where the points are drawn.
        points: Name and place of every point.
        spans: Lower and upper end of each point's interval, which labels keep clear of.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)  # none of ours has figures inside
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = [_box(axes, x, low, high) for (_, x, _), (low, high) in zip(points, spans, strict=False)]
    taken += [_box(axes, x, y, y) for _, x, y in points]
    for name, x, y in sorted(points, key=lambda point: (-point[2], point[1])):
        text = axes.annotate(
            name, (x, y), (0, 0), textcoords="offset points", fontsize=FONT_SIZE, annotation_clip=False
        )
        text.set_in_layout(False)
        for radius, angle in product(_RADII, _ANGLES):
            place = (radius * cos(angle), radius * sin(angle))
            text.set_position(place)
            text.set_horizontalalignment("left" if place[0] > 1 else "right" if place[0] < -1 else "center")
            text.set_verticalalignment("bottom" if place[1] > 1 else "top" if place[1] < -1 else "center")
            box = text.get_window_extent().padded(_PIXELS)
            if not any(box.overlaps(other) for other in taken) and _lies_in(box, frame):
                break
        taken.append(box)
        if radius > _NEAR:
            _lead(axes, (x, y), place)


def _lead(axes: Axes, point: tuple[float, float], place: tuple[float, float]) -> None:
    """A thin line from a point to its label."""
    style = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
    line = axes.annotate("", point, place, textcoords="offset points", arrowprops=style)
    line.set_in_layout(False)


def _box(axes: Axes, x: float, low: float, high: float) -> Bbox:
    """What a point and its interval cover, in pixels."""
    (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
    return Bbox([[left - 4, bottom - 4], [left + 4, top + 4]])


def _lies_in(box: Bbox, frame: Bbox) -> bool:
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)
