"""Every number of a report that follows from records alone, each with its estimator in its docstring.

Functions take samples of one arm that hold a measurement; a failed or missing sample raises, it never counts
as zero, and an empty selection raises `UndefinedError`. Ratios are pooled (sum over sum) unless a name says
otherwise, so that long and short answers weigh by their tokens. "Pass" is one forward pass of the target
model: the prefill is one, every round is one.

Shapes: Q questions, R rounds of a sample.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.model import PHASES, Round, Sample, Timing, Verdict


class UndefinedError(ValueError):
    """The samples do not determine this number; a table shows ``-`` for it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What was done and what it cost: `tokens` in `seconds`."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Position:
    """Counts behind the conditional acceptance at one draft position (0 is the first drafted token).

    Args:
        position: Index of the drafted token on its path.
        reached: Rounds that drafted this deep and accepted everything before it.
        accepted: Those of them that accepted this token as well.
    """

    position: int
    reached: int
    accepted: int

    @property
    def rate(self) -> float:
        """Share of the rounds that reached this position and accepted it."""
        return self.accepted / self.reached


def output_tokens(samples: Sequence[Sample]) -> int:
    """Sum of committed ids, the prefill's token and an end token included; the same count for every arm."""
    return sum(len(sample.ids) for sample in _measured(samples))


def decode_work(sample: Sample) -> Work:
    """Tokens after the first one and the seconds from the first to the last, of one turn."""
    return Work(len(sample.ids) - 1, _timing(sample).decode_s)


def end_to_end_work(sample: Sample) -> Work:
    """All tokens and all seconds, prefill included, of one turn."""
    timing = _timing(sample)
    return Work(len(sample.ids), timing.prefill_s + timing.decode_s)


def decode_speed(samples: Sequence[Sample]) -> float:
    """Tokens per second while decoding: sum of tokens after the first over sum of decode seconds."""
    return _speed(decode_work(sample) for sample in _measured(samples))


def end_to_end_speed(samples: Sequence[Sample]) -> float:
    """Tokens per second with the prefill: sum of all tokens over sum of prefill and decode seconds."""
    return _speed(end_to_end_work(sample) for sample in _measured(samples))


def decode_per_question(samples: Sequence[Sample]) -> dict[tuple[str, int], Work]:
    """`decode_work` summed over the turns of each question, keyed by (prompt id, repeat)."""
    return _per_question((sample, decode_work(sample)) for sample in _measured(samples))


def end_to_end_per_question(samples: Sequence[Sample]) -> dict[tuple[str, int], Work]:
    """`end_to_end_work` summed over the turns of each question, keyed by (prompt id, repeat)."""
    return _per_question((sample, end_to_end_work(sample)) for sample in _measured(samples))


def acceptance_length(samples: Sequence[Sample]) -> float:
    """Tokens per target pass, pooled over all passes of all samples, the prefill being a pass of one token.

    The estimator is ``sum(ids) / sum(1 + rounds)``: Spec-Bench's ``#Mean accepted tokens`` as it is for
    methods whose list includes the prefill, and Kangaroo's compression ratio, whose list starts each turn
    with a literal 1. Plain decoding scores 1. A cut last round counts with what it emitted.
    """
    measured = _measured(samples)
    return output_tokens(measured) / sum(1 + len(sample.rounds) for sample in measured)


def acceptance_length_request_mean(samples: Sequence[Sample]) -> float:
    """Mean over samples of each one's own tokens per pass, prefill included: every answer weighs the same."""
    measured = _measured(samples)
    return sum(len(sample.ids) / (1 + len(sample.rounds)) for sample in measured) / len(measured)


def acceptance_length_steady(samples: Sequence[Sample]) -> float:
    """Tokens per round, pooled, without the prefill and without rounds that the harness cut short.

    What a long answer tends to: the estimator is ``sum(accepted + 1) / rounds`` over the uncut rounds.

    Raises:
        UndefinedError: If there is no sample or no uncut round.
    """
    rounds = [one for one in _rounds(samples) if not is_cut(one)]
    if not rounds:
        raise UndefinedError("steady acceptance length needs a round that was not cut")
    return sum(one.emitted for one in rounds) / len(rounds)


def accept_histogram(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Entry ``i`` counts the rounds that accepted ``i`` drafted tokens; cut ones count all of it."""
    return accepted_counts(_rounds(samples))


def acceptance_by_position(samples: Sequence[Sample]) -> tuple[Position, ...]:
    """Conditional acceptance at each draft position, pooled over rounds, with its counts.

    Position ``i``: of the rounds that drafted at least ``i + 1`` deep and accepted ``i``, those that accepted
    ``i + 1``. A round that the harness cut counts with what the target accepted: that work was done. Rounds
    without a draft reach no position. For a tree the accepted path may end at a leaf above the deepest one,
    so the rate is that of the tree, a lower bound of the drafter's own.
    """
    rounds = _rounds(samples)
    found: list[Position] = []
    for i in range(max((one.depth for one in rounds), default=0)):
        reached = [one for one in rounds if one.depth > i and one.accepted >= i]
        if not reached:
            break
        found.append(Position(i, len(reached), sum(one.accepted > i for one in reached)))
    return tuple(found)


def accepted_per_drafted(samples: Sequence[Sample]) -> float:
    """Share of drafted tokens that the target agreed to, pooled: ``sum(accepted) / sum(drafted)``.

    Raises:
        UndefinedError: If there is no sample or nothing was drafted.
    """
    rounds = _rounds(samples)
    if not (drafted := sum(one.drafted for one in rounds)):
        raise UndefinedError("accepted_per_drafted needs a drafted token")
    return sum(one.accepted for one in rounds) / drafted


def accepted_per_verified(samples: Sequence[Sample]) -> float:
    """Share of the target's rows that became output, pooled: ``sum(accepted + 1) / sum(drafted + 1)``.

    Raises:
        UndefinedError: If there is no sample or no round.
    """
    if not (rounds := _rounds(samples)):
        raise UndefinedError("accepted_per_verified needs a round")
    return sum(one.accepted + 1 for one in rounds) / sum(one.drafted + 1 for one in rounds)


def time_split(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of decode time in each phase and on the host (the rest), pooled over samples.

    Raises:
        UndefinedError: If there is no sample or nothing was decoded after the first token.
    """
    timings = [_timing(sample) for sample in _measured(samples)]
    if not (decode_s := sum(timing.decode_s for timing in timings)):
        raise UndefinedError("time_split needs decode time, every sample ended at its first token")
    split = {name: sum(timing.phases_s.get(name, 0.0) for timing in timings) / decode_s for name in PHASES}
    return split | {"host": sum(timing.host_s for timing in timings) / decode_s}


def verdict_counts(samples: Sequence[Sample]) -> dict[Verdict, int]:
    """Samples by verdict, every verdict present; a sample that was never compared counts as unchecked."""
    counts = Counter(_verdict(sample) for sample in _measured(samples))
    return {verdict: counts[verdict] for verdict in Verdict}


def exact_match_share(samples: Sequence[Sample]) -> float:
    """Share of checked samples whose ids equal the baseline's; undefined if none was checked."""
    counts = verdict_counts(samples)
    if not (checked := sum(counts.values()) - counts[Verdict.UNCHECKED]):
        raise UndefinedError("exact_match_share needs a checked sample")
    return counts[Verdict.EXACT] / checked


def first_divergences(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Index of the first differing token of every sample that differs from the baseline, ascending."""
    found = [sample.equivalence for sample in _measured(samples)]
    return tuple(sorted(one.first_divergence for one in found if one and one.first_divergence is not None))


def contention(samples: Sequence[Sample]) -> float:
    """Wall over CPU time of the decoding thread, pooled; well above 1 means that others held the machine."""
    measured = _measured(samples)
    if not (cpu_s := sum(_timing(sample).cpu_s for sample in measured)):
        raise UndefinedError("contention needs recorded CPU time")
    return sum(end_to_end_work(sample).seconds for sample in measured) / cpu_s


def spec_bench_speedup(baseline: Sequence[Sample], method: Sequence[Sample]) -> float:
    """Speedup by Spec-Bench's formula, for comparison with its boards only.

    Ratio of two means over questions of ``tokens / seconds`` (turns summed, prefill included). It is unpaired
    and weighs each question's *rate* alike, so a short, quickly answered question counts as much as a long
    one. Both sides count ids here; Spec-Bench re-tokenises the baseline's text less one token per turn, which
    inflates its own figure by about 2 % at 50 tokens. Repeats enter each mean as questions of their own.
    """
    return _mean_rate(method) / _mean_rate(baseline)


def _mean_rate(samples: Sequence[Sample]) -> float:
    rates = [_speed([work]) for work in end_to_end_per_question(samples).values()]
    return sum(rates) / len(rates)


def _measured(samples: Sequence[Sample]) -> Sequence[Sample]:
    if not samples:
        raise UndefinedError("need at least one sample, got none")
    if failed := [sample.key for sample in samples if sample.error is not None]:
        raise ValueError(f"failed samples hold no numbers, leave them out: {failed[:3]}")
    return samples


def _timing(sample: Sample) -> Timing:
    if sample.timing is None:
        raise ValueError(f"sample {sample.key} holds no times")
    return sample.timing


def _rounds(samples: Sequence[Sample]) -> list[Round]:
    return [one for sample in _measured(samples) for one in sample.rounds]


def is_cut(one: Round) -> bool:
    """Whether the output ended inside the round, or before its pass gave a token."""
    return one.emitted < one.accepted + 1


def _verdict(sample: Sample) -> Verdict:
    return sample.equivalence.verdict if sample.equivalence else Verdict.UNCHECKED


def accepted_counts(rounds: Sequence[Round]) -> tuple[int, ...]:
    """Rounds by accepted length, from 0 on."""
    counts = Counter(one.accepted for one in rounds)
    return tuple(counts[i] for i in range(max(counts, default=-1) + 1))


def _speed(works: Iterable[Work]) -> float:
    done = list(works)
    if not (seconds := sum(work.seconds for work in done)):
        raise UndefinedError("a speed needs time, got 0 s")
    return sum(work.tokens for work in done) / seconds


def _per_question(works: Iterable[tuple[Sample, Work]]) -> dict[tuple[str, int], Work]:
    totals: dict[tuple[str, int], Work] = {}
    for sample, work in works:
        key = (sample.prompt_id, sample.repeat)
        done = totals.get(key, Work(0, 0.0))
        totals[key] = Work(done.tokens + work.tokens, done.seconds + work.seconds)
    return totals
