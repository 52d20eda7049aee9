"""Whether an arena can be believed: its two equal baselines, who slows whom, and how the machine drifted.

Shapes: A arms, Q questions, S sessions, R repeats within a session, C = S x R cells of a question, N decodes
of the baselines.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.metrics.counts import UndefinedError
from bench.metrics.intervals import GATE_LEVEL, Costs, Floats, Interval, crossed_mean, mean_over
from bench.metrics.speedups import faster_by

Integers = npt.NDArray[np.int64]

WIDEST = 0.05
"""A run is not ranked where the A/A' interval of 95 % is wider than this share."""
MOST_DRIFT = 0.15
"""A run whose baseline moved by more than this share says so above its table."""
LEAST_FOLLOWED = 8
"""Questions on which something must have followed an arm before its carry-over is judged."""
WINDOW = 9
"""Decodes in a running median of the baselines' speed."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """When each arm was decoded, all of shape [A, Q, S, R].

    Args:
        place: Place of the arm in the order of its cell, from 0; -1 where it was not measured.
        before: Index of the arm decoded just before, which may be the last of the cell before; -1 where there
            was none.
        started_s: Wall clock at the start, in seconds since 1970; NaN where the arm was not measured.
    """

    place: Integers
    before: Integers
    started_s: Floats


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of the baseline with itself, at 95 % to print and at `GATE_LEVEL` to judge."""

    interval: Interval
    gate: Interval

    @property
    def unseen(self) -> float:
        """The smallest difference, as a share, that this run can tell from none: the bound farther from 1.

        NaN where there is no interval.
        """
        return math.expm1(max(abs(math.log(self.interval.low)), abs(math.log(self.interval.high))))

    @property
    def width(self) -> float:
        """Width of the 95 % interval, as a share; NaN where there is none."""
        return self.interval.high / self.interval.low - 1


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the two equal baselines of a run say about its finest visible difference.

    Args:
        arms: How many times as fast the first baseline is as the second.
        places: How many times as fast the earlier baseline of a cell is as the later.
    """

    arms: Check
    places: Check

    @property
    def unseen(self) -> float:
        """By name, see `Check`: the order of the arms spreads what a place costs over all of them."""
        return self.arms.unseen

    @property
    def sentence(self) -> str:
        """The resolution in plain words, for a table."""
        if math.isnan(self.unseen):
            return "too few questions to say which differences can be seen"
        return f"differences under {100 * self.unseen:.1f} % cannot be seen"


def resolution(
    costs: Costs, order: Order, baseline: str = "baseline", control: str = "control"
) -> Resolution:
    """Compare the two equal baselines by name, and by which of them came earlier in its cell.

    By name they swap places at random, so a machine that slows every second baseline decode only widens their
    interval; by place it moves the interval away from 1.

    Raises:
        UndefinedError: If the two share no cell.
        ValueError: If a name does not exist.
    """
    by_place = _by_place(costs, order, baseline, control)
    return Resolution(_check(costs, baseline, control), _check(by_place, "earlier", "later"))


def reason_not_ranked(checked: Resolution) -> str | None:
    """Why the arms of this run get no ranks, in plain words; None where they do.

    The interval by place may be wide: of two sessions, one may slow the later decodes of a question and the
    other the earlier ones, and the comparison of arms is as sharp as before.
    """
    pairs = (
        (checked.arms, "the two equal baselines"),
        (checked.places, "the earlier and the later baseline of a question"),
    )
    for check, what in pairs:
        if not check.gate.is_known:
            return f"too few questions to compare {what}"
        if not check.gate.contains(1.0):
            return f"{what} differ by {100 * abs(check.gate.estimate - 1):.1f} %, more than chance allows"
    if checked.arms.width > WIDEST:
        width, most = 100 * checked.arms.width, 100 * WIDEST
        return f"the interval between {pairs[0][1]} is {width:.1f} % wide, more than {most:.0f} %"
    return None


def carry_over(costs: Costs, order: Order, level: float = 0.95) -> dict[str, Interval]:
    """For each arm, the time of whatever follows it over the time after any other arm; 1 is no carry-over.

    Each log cost is taken relative to its arm and question and to its cell, so neither the difficulty of a
    question nor a slow drift counts. With one cell per question an arm's own questions cannot be taken out;
    its mean is, and the interval is wide. Intervals are clustered by question and hold at `level` for all
    arms together (Bonferroni), so among sound arms the chance that any excludes 1 is 1 - `level`. An arm
    that was followed in too few cells has NaN bounds.
    """
    logs = np.stack([costs.logs(name) for name in costs.names])  # [A, Q, S, R]
    arms, questions = logs.shape[:2]
    logs = np.where(order.before >= 0, logs, np.nan).reshape(arms, questions, -1)  # [A, Q, C], a cell each
    before = order.before.reshape(arms, questions, -1)
    return {
        name: _carried(logs, before == index, 1 - (1 - level) / len(costs.names), level)
        for index, name in enumerate(costs.names)
    }


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """The speed of the baselines over a run.

    Args:
        started_s: Wall clock of each decode of a baseline, ascending, in seconds since 1970 [N].
        tokens_per_s: Its speed [N].
        running: Running median of the speed over `WINDOW` decodes of one session [N].
    """

    started_s: Floats
    tokens_per_s: Floats
    running: Floats

    @property
    def moved(self) -> float:
        """How far the speed moved: 90th minus 10th percentile of the running median, over its median."""
        low, middle, high = np.quantile(self.running, (0.1, 0.5, 0.9))
        return float((high - low) / middle)

    @property
    def warning(self) -> str | None:
        """A sentence for the top of the table where the baseline moved by more than `MOST_DRIFT`."""
        if self.moved <= MOST_DRIFT:
            return None
        return f"the baseline's speed moved by {100 * self.moved:.0f} %: the machine was not steady"


def drift(costs: Costs, order: Order, baselines: tuple[str, ...] = ("baseline", "control")) -> Drift:
    """The speed of all decodes of the baselines in the order of time.

    A running median over few decodes also follows stretches of harder questions; spread the kinds of question
    over the run to keep that small.

    Raises:
        UndefinedError: If no baseline was measured.
    """
    indices = [costs.index(name) for name in baselines]
    speeds = np.exp(-np.stack([costs.logs(name) for name in baselines]))  # [2, Q, S, R]
    started_s = order.started_s[indices]
    session = np.broadcast_to(np.arange(speeds.shape[2])[:, None], speeds.shape)
    is_known = np.isfinite(speeds) & np.isfinite(started_s)
    if not is_known.any():
        raise UndefinedError("drift needs a decode of a baseline with a time stamp")
    by_time = np.argsort(started_s[is_known], kind="stable")
    speeds, session = speeds[is_known][by_time], session[is_known][by_time]
    running = np.empty_like(speeds)
    for number in np.unique(session):
        running[session == number] = _running_median(speeds[session == number])
    return Drift(started_s[is_known][by_time], speeds, running)


def _check(costs: Costs, first: str, second: str) -> Check:
    return Check(faster_by(costs, first, second), faster_by(costs, first, second, GATE_LEVEL))


def _by_place(costs: Costs, order: Order, baseline: str, control: str) -> Costs:
    """Costs of two made-up arms: the earlier and the later baseline of each cell."""
    pair = [costs.index(baseline), costs.index(control)]
    is_swapped = order.place[pair[0]] > order.place[pair[1]]  # [Q, S, R]
    swapped = [
        np.where(is_swapped, values[pair[::-1]], values[pair]) for values in (costs.seconds, costs.tokens)
    ]
    return Costs(("earlier", "later"), *swapped)


def _carried(logs: Floats, follows: npt.NDArray[np.bool_], level: float, shown: float) -> Interval:
    """Interval at `level` of the effect of `follows` on `logs`, both [A, Q, C], labelled `shown`."""
    indicator = _centred(np.where(np.isfinite(logs), follows.astype(np.float64), np.nan))
    costs = _centred(logs)
    weight = float(np.nansum(indicator**2))
    if weight < 1e-6:
        return Interval(np.nan, np.nan, np.nan, shown)
    effect = float(np.nansum(indicator * costs)) / weight
    scores = np.nansum(indicator * (costs - effect * indicator), axis=(0, 2))  # [Q]
    is_used = np.nansum(indicator**2, axis=(0, 2)) > 0
    if is_used.sum() < LEAST_FOLLOWED:
        return Interval(float(np.exp(effect)), np.nan, np.nan, shown)
    spread = crossed_mean(effect + scores[is_used][:, None] * is_used.sum() / weight)
    low, high = np.exp(spread.bounds(level))
    return Interval(float(np.exp(effect)), float(low), float(high), shown)


def _centred(values: Floats) -> Floats:
    """Values [A, Q, C] without the means of arm and question (of arm, where C is 1) and of the cell."""
    for _ in range(10):
        means = mean_over(values, axis=2)  # [A, Q]
        if values.shape[2] == 1:
            means = np.broadcast_to(mean_over(means, axis=1)[:, None], means.shape)
        values = values - means[:, :, None]
        values = values - mean_over(values, axis=0)
    return values


def _running_median(values: Floats) -> Floats:
    """Median of the `WINDOW` values around each, fewer at the ends, shape [N] -> [N]."""
    half = WINDOW // 2
    padded = np.pad(values, half, constant_values=np.nan)
    return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1))
