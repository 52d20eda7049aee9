"""Whether the order of methods that a paper reports is found here, though its speedups do not compare.

A speedup depends on device, model and baseline; which of two methods is faster carries over better, and where
it does not, a reader should know. The claims of one paper for one model and device are one order. It is held
against the largest run of several methods that ranks at least two of its methods, whatever its model: pairs
whose difference here is certain (`bench.metrics.paired`) have the same order or another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.metrics.paired import Pairwise
from bench.report.board import Section
from bench.report.claims import OVERALL, Claim, Paper
from bench.report.tables import Table

HEADER = (
    *("claimed for", "method", "claimed speedup", "place claimed", "place here"),
    *("in the same order here", "in another order here", "not told apart here"),
)


def order_table(paper: Paper, board: Sequence[Section]) -> Table | None:
    """A row per method of every order that a paper reports; None where no two of its methods were ranked."""
    rows: list[tuple[str, ...]] = []
    sections = []
    for place, claims in _orders(paper).items():
        section = _widest(claims, board)
        if section is None:
            continue
        rows += _rows(place, claims, section)
        sections.append(section)
    if not rows:
        return None
    measured = ", ".join(dict.fromkeys(f"{part.setting.model} ({part.questions})" for part in sections))
    return Table(f"{paper.title}: is its order of methods found here, on {measured}?", HEADER, tuple(rows))


def _orders(paper: Paper) -> dict[str, dict[str, float]]:
    """Claimed speedups by method, for every model and device that the paper has several methods on."""
    orders: dict[str, dict[str, float]] = {}
    for claim in paper.claims:
        value = _overall(claim)
        if value is not None:
            orders.setdefault(f"{claim.model}, {claim.device}", {}).setdefault(claim.method, value)
    return {place: claims for place, claims in orders.items() if len(claims) > 1}


def _overall(claim: Claim) -> float | None:
    value = claim.figures.get(OVERALL)
    if claim.metric != "speedup" or claim.sampling != "greedy" or not isinstance(value, float):
        return None
    return value


def _widest(claims: Mapping[str, float], board: Sequence[Section]) -> Section | None:
    """The run that ranks most of the methods, of equal ones that with most questions."""
    sizes = [(len(_labels(claims, part)), len(part.asked), -place) for place, part in enumerate(board)]
    best = max(sizes, default=(0, 0, 0))
    return board[-best[2]] if best[0] > 1 else None


def _labels(claims: Mapping[str, float], section: Section) -> dict[str, str]:
    """Labels of the methods in a run of several, by name; the first where a method has several settings."""
    pairs = section.contests[0].pairs if section.contests and section.contests[0].ranks else None
    found: dict[str, str] = {}
    for row in section.lossless:
        if pairs is not None and row.entry.method in claims and row.label in pairs.names:
            found.setdefault(row.entry.method, row.label)
    return found


def _rows(place: str, claims: Mapping[str, float], section: Section) -> list[tuple[str, ...]]:
    labels, pairs = _labels(claims, section), section.contests[0].pairs
    assert pairs is not None
    order = sorted(labels, key=lambda method: -claims[method])
    rows = []
    for method in order:
        same, other, unsure = list[str](), list[str](), list[str]()
        for rival in order:
            if rival == method or claims[rival] == claims[method]:
                continue
            found = _faster(labels[method], labels[rival], pairs)
            into = unsure if found is None else same if found == (claims[method] > claims[rival]) else other
            into.append(rival)
        ahead = sum(_faster(labels[rival], labels[method], pairs) is True for rival in order)
        claimed = 1 + sum(claims[rival] > claims[method] for rival in order)
        lists = tuple(", ".join(names) or "-" for names in (same, other, unsure))
        rows.append((place, method, f"{claims[method]:.2f}x", str(claimed), str(1 + ahead), *lists))
    return rows


def _faster(method: str, rival: str, pairs: Pairwise) -> bool | None:
    """Whether a method is faster than another for certain; None if neither is."""
    interval = pairs.intervals[pairs.names.index(method)][pairs.names.index(rival)]
    if not interval.is_known or interval.low <= 1 <= interval.high:
        return None
    return interval.low > 1
