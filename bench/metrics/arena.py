"""Figures of a run of several methods: each method's own, and all of them compared with each other.

A method's own figures are those of a run that had only this method (`bench.metrics.summary`). Ranks come from
paired comparisons of all arms on the same questions (`bench.metrics.paired`), and only where the two equal
baselines of the run agree (`bench.metrics.controls`).

Shapes: A arms, Q questions, S sessions, R repeats within a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bench.metrics.controls import Drift, Order, Resolution, carry_over, drift, reason_not_ranked, resolution
from bench.metrics.intervals import Costs, Floats, Interval
from bench.metrics.latency import Latency, latency
from bench.metrics.paired import Pairwise, pairwise, shared_ranks
from bench.metrics.run_figures import Summary
from bench.metrics.speedups import costs_of, defined, faster_by_total, turns_by_cell
from bench.metrics.summary import summarise
from bench.records.model import Arm, Run, Sample
from bench.records.views import of_method, samples_of

PLAIN = "autoregressive"
"""The two equal baselines taken together, as an arm of the comparison."""


@dataclass(frozen=True, slots=True)
class Contest:
    """All arms of a run compared on the same questions.

    Args:
        costs: What every arm spent; the two baselines together as `PLAIN`.
        ranks: By label, 1 for the fastest; empty where the run is not ranked.
        pairs: Every arm over every other; None with a single question.
        resolution: What the two equal baselines say; None where there is no second one.
        reason: Why there are no ranks; None where there are.
        moved: How the baseline's speed moved; None in records without time stamps.
        carried: For each arm, the time of whatever follows it over the time after the others.
    """

    costs: Costs
    ranks: Mapping[str, int]
    pairs: Pairwise | None
    resolution: Resolution | None
    reason: str | None
    moved: Drift | None
    carried: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arena:
    """All figures of a run of several methods.

    Args:
        run: The run.
        methods: Figures of each method by label, in the order of the run.
        latencies: Of every arm by label; the two baselines together as `PLAIN`.
        lossless: The methods whose output is the model's own, and `PLAIN`, compared.
        lossy: The lossy methods and `PLAIN`; None where there are none.
    """

    run: Run
    methods: Mapping[str, Summary]
    latencies: Mapping[str, Latency | None]
    lossless: Contest
    lossy: Contest | None


def arena_figures(
    run: Run,
    samples: Sequence[Sample],
    *,
    level: float = 0.95,
    evidence: Mapping[str, str | None] | None = None,
) -> Arena:
    """All figures of a run of several methods, even if it is unfinished or has failures.

    Args:
        run, samples: The run and its samples, of every arm.
        level: Confidence level of the intervals.
        evidence: By label, what certificates say of a method's output.
    """
    methods = {
        label: summarise(
            of_method(run, label),
            samples_of(samples, label),
            level=level,
            evidence=(evidence or {}).get(label),
        )
        for label in run.methods
    }
    plain = [sample for sample in samples if sample.arm in (Arm.BASELINE, Arm.CONTROL)]
    arms = {PLAIN: plain} | {label: _of(samples, label) for label in methods}
    lossy = [label for label, summary in methods.items() if summary.is_lossy]
    return Arena(
        run=run,
        methods=methods,
        latencies={label: defined(latency, part) for label, part in arms.items()},
        lossless=contest(samples, [label for label in methods if label not in lossy], level),
        lossy=contest(samples, lossy, level) if lossy else None,
    )


def contest(samples: Sequence[Sample], labels: Sequence[str], level: float = 0.95) -> Contest:
    """Compare plain decoding and the methods of these labels on what all of them were measured on."""
    arms = {label: _of(samples, label) for label in (Arm.BASELINE.value, Arm.CONTROL.value, *labels)}
    costs, order = costs_of(arms), order_of(arms)
    checked = defined(partial(resolution, costs), order)
    reason = "the baseline was not measured twice" if checked is None else reason_not_ranked(checked)
    pooled = _pooled(costs)
    names = [PLAIN, *labels]
    return Contest(
        costs=pooled,
        ranks={} if reason else shared_ranks(pooled, names, level),
        pairs=defined(partial(pairwise, level=level), pooled),
        resolution=checked,
        reason=reason,
        moved=defined(partial(drift, costs), order),
        carried=defined(partial(carry_over, costs), order) or {},
    )


def by_session(costs: Costs) -> dict[str, tuple[Interval | None, ...]]:
    """Speedup of every arm over `PLAIN` by their totals, in each session alone; None where one is missing."""
    parts = [
        Costs(costs.names, costs.seconds[:, :, [session]], costs.tokens[:, :, [session]])
        for session in range(costs.seconds.shape[2])
    ]
    return {
        name: tuple(defined(partial(faster_by_total, arm=name, other=PLAIN), part) for part in parts)
        for name in costs.names
        if name != PLAIN
    }


def order_of(arms: Mapping[str, Sequence[Sample]]) -> Order:
    """When each arm decoded each question, in the same cells as `costs_of`."""
    shape, cells = turns_by_cell(arms)
    labels = list(arms)
    place, before = (np.full(shape, -1, dtype=np.int64) for _ in range(2))
    started = np.full(shape, np.nan)
    for cell, turns in cells.items():
        first = min(turns, key=lambda sample: sample.turn)
        place[cell] = first.order
        before[cell] = labels.index(first.after) if first.after in labels else -1
        started[cell] = np.nan if first.started_at is None else first.started_at
    return Order(place, before, started)


def _pooled(costs: Costs) -> Costs:
    """The same costs with the two baselines as one arm, `PLAIN`, that did the work of both."""
    pair = [costs.index(Arm.BASELINE.value), costs.index(Arm.CONTROL.value)]
    others = [place for place in range(len(costs.names)) if place not in pair]
    names = (PLAIN, *(costs.names[place] for place in others))
    both = [_sum_of_known(values[pair]) for values in (costs.seconds, costs.tokens)]
    seconds, tokens = (
        np.concatenate([sums, values[others]])
        for sums, values in zip(both, (costs.seconds, costs.tokens), strict=True)
    )
    return Costs(names, seconds, tokens)


def _sum_of_known(values: Floats) -> Floats:
    """Sum over the first axis of what is not NaN, shape [N, ...] -> [1, ...]; NaN where all of it is."""
    is_unknown = np.isnan(values).all(axis=0, keepdims=True)
    return np.where(is_unknown, np.nan, np.nansum(values, axis=0, keepdims=True))


def _of(samples: Sequence[Sample], label: str) -> list[Sample]:
    return [sample for sample in samples if sample.label == label]
