"""Sweeps among the entries of a section: variants of a method that differ in numbers, and their figures.

Variants of a method form a sweep if numeric settings are all they differ in. A sweep over more than two
settings has no figure; its entries are in the tables like all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from bench.report import curves
from bench.report.board import Ranked, Section
from bench.report.style import Picture

CONFIDENCE = "confidence"
LEAST_VALUES = 3
"""Fewer points along a single setting are read as well in a table."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Variants of one method that differ in numbers only.

    Args:
        name: The method, and the settings that distinguish this sweep from others of the method.
        swept: Numeric settings that take more than one value.
        members: The variants.
    """

    name: str
    swept: tuple[str, ...]
    members: tuple[Ranked, ...]

    def frame(self) -> pd.DataFrame:
        """One row per variant: a column per swept setting, then ``speedup, low, high``."""
        rows = [
            (*(row.entry.params[key] for key in self.swept), decode.estimate, decode.low, decode.high)
            for row in self.members
            if (decode := row.entry.summary.speedup.decode) is not None
        ]
        return pd.DataFrame(rows, columns=[*self.swept, "speedup", "low", "high"])


def sweeps(ranked: Sequence[Ranked]) -> list[Sweep]:
    """The sweeps among these entries, by method; none where two entries have the same settings."""
    groups: dict[tuple[str, str], list[Ranked]] = {}
    for row in ranked:
        rest = {key: value for key, value in row.entry.params.items() if not _is_number(value)}
        rest |= {"own run": not row.entry.is_published}
        groups.setdefault((row.entry.method, json.dumps(rest, sort_keys=True)), []).append(row)
    made = []
    for (method, others), members in groups.items():
        swept = _varying([row.entry.params for row in members])
        settings = {tuple(row.entry.params[key] for key in swept) for row in members}
        if swept and len(settings) == len(members):
            rivals = [json.loads(text) for name, text in groups if name == method]
            made.append(Sweep(_name(method, json.loads(others), rivals), swept, tuple(members)))
    return made


def sweep_pictures(section: Section) -> Iterator[Picture]:
    """Speedup over swept settings of lossless methods; of lossy ones a speedup alone says nothing."""
    made: dict[str, int] = {}
    for sweep in sweeps(section.lossless):
        frame, swept = sweep.frame(), sweep.swept
        method = sweep.members[0].entry.method
        name = f"sweep-{method}" + (f"-{made[method]}" if method in made else "")
        settings = " and ".join(key.replace("_", " ") for key in swept)
        caption = f"Decode speedup of {sweep.name} over {settings}"
        if len(swept) == 2:
            up, across = sorted(swept, key=lambda key: key == "draft_length")
            draw = partial(curves.sweep_map, frame, across, up)
            picture = Picture(name, f"{caption}; the best is bold.", draw)
        elif len(swept) == 1 and len(frame) >= LEAST_VALUES:
            draw = partial(curves.sweep_curve, frame, swept[0])
            picture = Picture(name, f"{caption}, with 95 % intervals.", draw)
        else:
            continue
        made[method] = made.get(method, 1) + 1
        yield picture


def quality(section: Section) -> pd.DataFrame:
    """``method, confidence, speedup`` and shares of right answers and nats per token beside the target's own.

    Rows are lossy entries of sweeps over the confidence alone.
    """
    rows = [
        (sweep.name, row.entry.params[CONFIDENCE], decode.estimate, *_worth(row))
        for sweep in sweeps(section.lossy)
        if sweep.swept == (CONFIDENCE,)
        for row in sweep.members
        if (decode := row.entry.summary.speedup.decode) is not None
    ]
    worth = ["right", "right_of_target", "nats", "nats_of_target"]
    frame = pd.DataFrame(rows, columns=["method", CONFIDENCE, "speedup", *worth])
    return frame.astype(dict.fromkeys(worth, "float64"))


def _worth(row: Ranked) -> tuple[float | None, ...]:
    """Share of right answers and nats per token, the method's beside the target's."""
    figures = row.entry.summary.lossy
    if figures is None:
        return (None,) * 4
    shares = figures.method_answers.share, figures.baseline_answers.share
    return (*shares, figures.method_nll, figures.baseline_nll)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _varying(params: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Numeric settings that all variants have, with more than one value among them."""
    keys = [key for key, value in params[0].items() if _is_number(value)]
    shared = [key for key in keys if all(_is_number(variant.get(key)) for variant in params)]
    return tuple(key for key in shared if len({variant[key] for variant in params}) > 1)


def _name(method: str, others: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> str:
    """The method and the settings, other than numbers, in which its sweeps differ."""
    different = [key for key in sorted(others) if any(rival.get(key) != others[key] for rival in rivals)]
    return " ".join([method, *(f"{key}={others[key]}" for key in different)])
