"""How much faster one arm is than another, from samples or from what each spent on each question.

Every comparison is paired: it uses the cells (question, session, repeat) in which both arms were measured.
Costs are seconds per emitted token, so an arm that stops early gains nothing by it.

Shapes: A arms, Q questions, S sessions, R repeats within a session.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from bench.metrics.counts import (
    UndefinedError,
    Work,
    decode_work,
    end_to_end_per_question,
    end_to_end_work,
    speed_of,
    sum_per_question,
)
from bench.metrics.intervals import (
    GATE_LEVEL,
    AaCheck,
    Costs,
    CrossedMean,
    Floats,
    Interval,
    crossed_mean,
    mean_over,
)
from bench.metrics.run_figures import Speedup
from bench.records.model import Arm, Sample

Given = TypeVar("Given")
Number = TypeVar("Number")
Cell = tuple[int, int, int, int]
"""Places of an arm, a question, a session and a repeat on their axes."""


def speedup(baseline: Sequence[Sample], method: Sequence[Sample], level: float = 0.95) -> Speedup:
    """Every speedup of `method` over `baseline`; each is None where the samples do not determine it."""
    prompts = len({sample.prompt_id for sample in baseline or method})
    if not baseline or not method:
        return Speedup(prompts, None, None, None, None, None)
    arms = {"baseline": baseline, "method": method}
    decode, whole = costs_of(arms, decode_work), costs_of(arms, end_to_end_work)
    by_total = partial(faster_by_total, arm="method", other="baseline", level=level)
    geometric = partial(faster_by, arm="method", other="baseline", level=level)
    return Speedup(
        prompts,
        defined(by_total, decode),
        defined(by_total, whole),
        defined(geometric, decode),
        defined(geometric, whole),
        defined(partial(speed_ratio, baseline), method),
    )


def baseline_check(
    baseline: Sequence[Sample], work: Callable[[Sample], Work] = decode_work
) -> AaCheck | None:
    """The control over the baseline; without a control, half of the baseline's repeats over the others.

    None where there are neither a control nor two repeats, or no question with work.
    """
    twins = {arm.value: of_arm(baseline, arm) for arm in (Arm.BASELINE, Arm.CONTROL)}
    if all(twins.values()):
        return defined(_check, costs_of(twins, work))
    in_order = sorted(baseline, key=lambda sample: sample.prompt_id)
    return defined(lambda costs: _check(_halves(costs)), costs_of({"baseline": in_order}, work))


def faster_by(costs: Costs, arm: str, other: str, level: float = 0.95) -> Interval:
    """How many times as fast `arm` is as `other`: above 1 where `arm` is faster.

    The estimate is the geometric mean over questions of (seconds per token of `other`) / (seconds per token
    of `arm`), every question weighing the same, averaged first over the repeats and then over the sessions of
    a question. The interval is that of `crossed_mean`, whose docstring gives its coverage: it allows for
    other questions and for other sessions. With one session the differences between sessions are not seen,
    and the interval holds for the machine as it was in that session. Simulated with a drift of 28 %, of
    which a method feels 0.6 to 0.8 times what the baseline does, the 95 % interval covers 94 to 97 % with 12,
    20 and 80 questions and 1 and 3 sessions (2000 runs each).

    Raises:
        UndefinedError: If the two share no cell in which both did work.
        ValueError: If an arm does not exist or the level is no share.
    """
    return mean_log_ratio(costs, arm, other).ratio(level)


def faster_by_total(costs: Costs, arm: str, other: str, level: float = 0.95) -> Interval:
    """How many times as fast `arm` is as `other` by their totals, the figure that papers print.

    The estimate is (sum of seconds / sum of tokens of `other`) over the same ratio of `arm`, so that
    questions weigh by their length; each question counts with its mean over the cells that both arms have.
    The spread of the logarithm of the ratio is that of the jackknife over questions; the interval is then
    that of `crossed_mean`. Simulated with the drift of the arena (2000 to 3000 runs, 12 to 80 questions), it
    covers 93.4 % or more where the log of the answers' lengths spreads by 0.5 or 0.9, and 92 % with 12
    questions of skewed speeds and the larger spread. Linearised, it fell to 91 %.

    Raises:
        UndefinedError, ValueError: As `faster_by`.
    """
    sums = [_per_session(costs, first, second) for first, second in ((arm, other), (other, arm))]
    quantities = np.stack([*sums[1], *sums[0]])  # seconds and tokens of other, then of arm: [4, Q, S]
    _require_cells(quantities[0], arm, other)
    return crossed_mean(_log_total_ratios(quantities)).ratio(level)


def costs_of(arms: Mapping[str, Sequence[Sample]], work: Callable[[Sample], Work] = decode_work) -> Costs:
    """What each arm spent on each question, in each repeat of each session; all turns together.

    A question of which a turn failed or is missing is NaN for that arm. Where an arm is given the samples of
    both equal baselines, their work on the same question in the same repeat adds up.

    Args:
        arms: Samples of each arm by its name, failed ones included.
        work: Tokens and seconds of a sample.
    """
    shape, cells = turns_by_cell(arms)
    seconds, tokens = np.full(shape, np.nan), np.full(shape, np.nan)
    for cell, turns in cells.items():
        done = [work(sample) for sample in turns]
        seconds[cell], tokens[cell] = sum(part.seconds for part in done), sum(part.tokens for part in done)
    return Costs(tuple(arms), seconds, tokens)


def turns_by_cell(arms: Mapping[str, Sequence[Sample]]) -> tuple[Cell, dict[Cell, list[Sample]]]:
    """The shape [A, Q, S, R] of the cells, and the turns decoded in each cell that is complete.

    Questions stand in their order of appearance; repeats count anew in each session.
    """
    samples = [sample for part in arms.values() for sample in part]
    questions = {name: place for place, name in enumerate(dict.fromkeys(s.prompt_id for s in samples))}
    sessions = {number: place for place, number in enumerate(sorted({s.session for s in samples}))}
    first = {number: min(s.repeat for s in samples if s.session == number) for number in sessions}
    turns: dict[str, int] = {}
    groups: dict[Cell, list[Sample]] = {}
    for arm, part in enumerate(arms.values()):
        for sample in part:
            turns[sample.prompt_id] = max(turns.get(sample.prompt_id, 0), sample.turn + 1)
            repeat = sample.repeat - first[sample.session]
            cell = arm, questions[sample.prompt_id], sessions[sample.session], repeat
            groups.setdefault(cell, []).append(sample)
    repeats = max((cell[3] for cell in groups), default=-1) + 1
    return (len(arms), len(questions), len(sessions), repeats), {
        cell: group
        for cell, group in groups.items()
        if len(group) == turns[group[0].prompt_id] * len({sample.label for sample in group})
        and all(sample.error is None for sample in group)
    }


def speed_ratio(baseline: Sequence[Sample], method: Sequence[Sample]) -> float:
    """Speedup as Spec-Bench's ``speed.py`` prints it.

    Ratio of two means over questions of ``tokens / seconds`` (turns summed, prefill included). It is unpaired
    and weighs each question's *rate* alike, so a short, quickly answered question counts as much as a long
    one. The method's tokens are its ids; the baseline's are those of its text, tokenised anew, less one per
    turn. That text lacks the end token, so the script counts fewer than were decoded: at 50 tokens per answer
    its figure is about 2 % higher than with ids on both sides. Repeats enter each mean as questions of their
    own.

    Raises:
        UndefinedError: If a sample of the baseline does not say how long its text is in tokens.
    """
    recounted = [(sample, Work(_text_length(sample), end_to_end_work(sample).seconds)) for sample in baseline]
    return _mean_rate(end_to_end_per_question(method)) / _mean_rate(sum_per_question(recounted))


def mean_log_ratio(costs: Costs, arm: str, other: str) -> CrossedMean:
    """The mean log of how many times as fast `arm` is as `other`."""
    ratios = mean_over(costs.logs(other) - costs.logs(arm), axis=2)  # [Q, S]
    _require_cells(ratios, arm, other)
    return crossed_mean(ratios)


def defined(estimate: Callable[[Given], Number], given: Given) -> Number | None:
    """The estimate, or None where the samples do not determine it; every other error is raised."""
    try:
        return estimate(given)
    except UndefinedError:
        return None


def of_arm(samples: Sequence[Sample], *arms: Arm) -> list[Sample]:
    """The samples of these arms."""
    return [sample for sample in samples if sample.arm in arms]


def _check(costs: Costs) -> AaCheck:
    """The second of two equal arms over the first."""
    return AaCheck(faster_by_total(costs, costs.names[1], costs.names[0], GATE_LEVEL))


def _halves(costs: Costs) -> Costs:
    """The repeats of a single arm as those of two, which pair up.

    The first half takes repeat 0 of even and repeat 1 of odd questions, the second half the others; further
    pairs of repeats alternate alike, and an odd last repeat is left out. Arms swap places from repeat to
    repeat, so both halves hold each place equally often and position effects cancel. Sessions of one repeat
    each count as repeats.

    Raises:
        UndefinedError: If there are fewer than two repeats.
    """
    values = np.stack([costs.seconds[0], costs.tokens[0]])  # [2, Q, S, R]
    questions, sessions, repeats = values.shape[1:]
    if repeats == 1:
        values, repeats = values.reshape(2, questions, 1, sessions), sessions
    if repeats < 2:
        raise UndefinedError(f"an A/A check needs at least 2 repeats, got {repeats}")
    even, odd = values[..., : repeats - 1 : 2], values[..., 1::2]  # [2, Q, S, R // 2]
    is_odd = (np.arange(questions) % 2 == 1)[:, None, None]
    seconds, tokens = np.stack([np.where(is_odd, odd, even), np.where(is_odd, even, odd)], axis=1)
    return Costs(("first half", "second half"), seconds, tokens)


def _per_session(costs: Costs, arm: str, other: str) -> tuple[Floats, Floats]:
    """Seconds and tokens of `arm`, means over the repeats in which both arms did work, shapes [Q, S]."""
    seconds, tokens = costs.of(arm)
    is_unpaired = np.isnan(seconds) | np.isnan(costs.of(other)[0])
    seconds[is_unpaired] = tokens[is_unpaired] = np.nan
    return mean_over(seconds, axis=2), mean_over(tokens, axis=2)


def _log_total_ratios(quantities: Floats) -> Floats:
    """Values [Q, S] whose mean is the log ratio of totals, and whose spread is the jackknife's.

    Args:
        quantities: Seconds and tokens of the other arm, then of the arm, shape [4, Q, S].
    """
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    quantities = quantities[:, np.isfinite(quantities[0]).any(axis=1)]
    of_question = mean_over(quantities, axis=2)  # [4, Q]
    questions, totals = of_question.shape[1], of_question.sum(axis=1, keepdims=True)  # [4, 1]
    estimate = float(signs @ np.log(totals[:, 0]))
    if questions < 2:
        return np.full(quantities.shape[1:], estimate)
    without = signs @ np.log(totals - of_question)  # the estimate without each question [Q]
    by_question = (questions - 1) * (without.mean() - without)
    within = quantities - of_question[:, :, None]
    by_session = questions * np.einsum("i,iqs->qs", signs / totals[:, 0], within)
    return np.asarray(estimate + by_question[:, None] + by_session, dtype=np.float64)


def _require_cells(values: Floats, arm: str, other: str) -> None:
    if not np.isfinite(values).any():
        raise UndefinedError(f"{arm} and {other} share no question on which both emitted tokens")


def _text_length(sample: Sample) -> int:
    """Tokens of the text as Spec-Bench counts them: one less than the tokenizer returns, the start token."""
    if sample.text_tokens is None:
        raise UndefinedError("Spec-Bench's formula needs the length of the baseline's texts in tokens")
    return sample.text_tokens - 1


def _mean_rate(works: Mapping[tuple[str, int], Work]) -> float:
    rates = [speed_of([work]) for work in works.values()]
    if not any(rates):
        raise UndefinedError("a mean of rates needs a question with tokens")
    return sum(rates) / len(rates)
