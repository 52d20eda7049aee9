"""``python -m bench.train.curves OUT [OUT2 ...]``: loss and accuracies of trainings over steps, as pictures.

It also works while a training runs. For one training it writes ``training.png`` and ``training.svg`` into its
folder. Several trainings are drawn together, with a panel for each figure that at least two of them log, into
``training-together.png`` and ``.svg`` in the folder of the first, or in ``--into``.

Data frame: ``run, step, figure, value``. A figure is a number that training logs. Figures named by a rank or
a decision, such as ``top1``, ``top5_2``, ``accept`` or ``stop_right``, are shares; all others are terms of
the loss, in nats.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.cli import OK, report_mistake
from bench.errors import UserError
from bench.report.style import legend_below, looks, new_figure, numbers, png, styled, svg, wrapped
from bench.show.spelling import as_arguments
from bench.train.trainers.course import FRAME, read_course

ONE, SEVERAL = "training", "training-together"
"""Names of the picture files."""
_SHARE = re.compile(r"(^|_)(top\d+|accept|right)(_\d+)?$")
_POINTS, _MARKS = 100, 10
"""Largest numbers per curve: more lines are averaged, and a few markers tell curves apart in grey print."""
_STEPS, _LOSS, _PORTION = "optimiser step", "loss (nats)", "share of tokens"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the trainings in the folders; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.train.curves", description="Draws loss and accuracies of trainings over steps."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="folder of a training")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where to write; default: the first OUT")
    try:
        options = parser.parse_args(as_arguments(parser, sys.argv[1:] if arguments is None else arguments))
        paths = draw(options.folders, options.into)
    except UserError as mistake:
        return report_mistake(mistake)
    print("\n".join(map(str, paths)))  # noqa: T201 - the command's result
    return OK


def draw(folders: Sequence[Path], into: Path | None = None) -> list[Path]:
    """Draw trainings and write the files; returns their paths.

    Args:
        folders: Each holds the log of one training.
        into: Where to write; None stands for the first folder.

    Raises:
        UserError: If a folder holds no log, or the files cannot be written.
    """
    figure = training_figure(course_frame(folders))
    target, name = into or folders[0], ONE if len(folders) == 1 else SEVERAL
    texts = {"png": png(figure), "svg": svg(figure, name).replace("currentColor", "#000000").encode()}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            (target / f"{name}.{suffix}").write_bytes(text)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error}", "choose another folder with --into"
        ) from error
    return [target / f"{name}.{suffix}" for suffix in texts]


def course_frame(folders: Sequence[Path]) -> pd.DataFrame:
    """The figures of every logged step, one per row.

    Raises:
        UserError: If a folder is named twice or holds no logged step.
    """
    rows = [
        (name, line["step"], figure, value)
        for name, folder in zip(distinct_names(folders), folders, strict=True)
        for line in _lines(folder)
        for figure, value in line.items()
        if figure not in FRAME
    ]
    return pd.DataFrame(rows, columns=["run", "step", "figure", "value"])


def _lines(folder: Path) -> list[dict[str, float]]:
    if lines := read_course(folder):
        return lines
    raise UserError(f"the training in {folder} has not logged a step yet", "wait for recipe.log_every steps")


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Short distinct names of folders: their paths without the first and last parts that all share.

    Raises:
        UserError: If one is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError(f"a folder is named twice: {', '.join(map(str, folders))}", "name each of them once")
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    while len({path[0] for path in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [path[1:] for path in parts]
    while len({path[-1] for path in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [path[:-1] for path in parts]
    return ["/".join(path) for path in parts]


def training_figure(frame: pd.DataFrame) -> Figure:
    """Loss and shares over steps: two panels for one training, a panel per common figure for several.

    Raises:
        UserError: If several trainings log no figure in common.
    """
    runs = frame.groupby("figure", sort=False)["run"].nunique()
    is_one = frame["run"].nunique() == 1
    names = [str(name) for name, count in runs.items() if is_one or count > 1]
    if not names:
        raise UserError("these trainings log no figure in common", "draw each of them by itself")
    losses = [name for name in names if not _is_share(name)]
    shares = [name for name in names if _is_share(name)]
    with styled():
        if is_one:
            return _single(frame, [panel for panel in (losses, shares) if panel])
        return _several(frame, losses + shares)


def _is_share(name: str) -> bool:
    return _SHARE.search(name) is not None


def _single(frame: pd.DataFrame, panels: Sequence[Sequence[str]]) -> Figure:
    """Panels one above the other, each with its legend on the right."""
    figure = new_figure(0.4 + 2.4 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        _curves(axes, frame[frame["figure"].isin(panel)], "figure")
        _scale(axes, panel[0])
        axes.set_ylabel(_PORTION if _is_share(panel[0]) else _LOSS)
        _legend_beside(axes)
    grid[0].set_title(str(frame["run"].iloc[0]))
    grid[-1].set_xlabel(_STEPS)
    return figure


def _several(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Two panels in a row; a training has one colour in all panels, and one legend stands below them."""
    frame = frame.assign(run=frame["run"].astype(pd.CategoricalDtype(list(frame["run"].drop_duplicates()))))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(0.4 + 2.0 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    named: set[str] = set()
    for place, (axes, name) in enumerate(zip(grid, names, strict=False)):
        part = frame[frame["figure"] == name]
        _curves(axes, part, "run", named)
        named |= set(part["run"].astype(str))
        _scale(axes, name)
        axes.set_title(f"{name} ({_PORTION if _is_share(name) else 'nats'})")
        if place >= len(names) - columns:  # no panel below it
            axes.set_xlabel(_STEPS)
            axes.tick_params(labelbottom=True)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    legend_below(figure)
    return figure


def _curves(axes: Axes, frame: pd.DataFrame, by: str, named: Collection[str] = ()) -> None:
    """One curve per value of the column `by`; those in `named` have a label in another panel already."""
    for name, look in looks(frame, by).items():
        points = np.array(numbers(frame[frame[by].astype(str) == name], "step", "value"))  # [lines, 2]
        size = -(-len(points) // _POINTS)  # logged lines per point
        parts = np.split(points, range(size, len(points), size))
        steps, values = zip(*((part[-1, 0], part[:, 1].mean()) for part in parts), strict=True)
        label = None if name in named else wrapped(name)
        every = max(1, len(steps) // _MARKS)
        axes.plot(steps, values, label=label, markevery=every, markersize=4, linewidth=1.3, **look)


def _scale(axes: Axes, name: str) -> None:
    """Shares from 0 to 1, losses from 0; steps as whole numbers."""
    axes.set_ylim(bottom=0, top=1.02 if _is_share(name) else None)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid()


def _legend_beside(axes: Axes) -> None:
    """Names in the order of the curves' last values, the highest on top."""
    lines = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
