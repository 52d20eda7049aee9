"""Every number of a report that follows from records alone, each with its estimator in its docstring.

Functions take samples of one arm that hold a measurement; a failed or missing sample raises, it never counts
as zero, and an empty selection raises `UndefinedError`. Ratios are pooled (sum over sum) unless a name says
otherwise, so that long and short answers weigh by their tokens. "Pass" is one forward pass of the target
model: the prefill is one, every round is one.

Shapes: Q questions, R rounds of a sample.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.records.model import PHASES, Run, Sample, Timing, Verdict
from bench.records.rounds import Rounds


class UndefinedError(ValueError):
    """The samples do not determine this number; a table shows ``-`` for it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What was done and what it cost: `tokens` in `seconds`."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Position:
    """Counts for the conditional acceptance at one draft position; 0 is the first drafted token.

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


@dataclass(frozen=True, slots=True)
class StepList:
    """How a method's code in Spec-Bench lists its steps, where it leaves the prefill out.

    Args:
        has_end: Whether tokens after an end token and beyond the budget count.
        repeats_last: Whether the token that follows an accepted path is put out only as the first one of the
            next step, so that an answer that ends with it takes another step of one token.
    """

    has_end: bool
    repeats_last: bool


LISTS_WITHOUT_PREFILL: Mapping[str, StepList] = {
    "Medusa": StepList(has_end=True, repeats_last=True),
    "TokenRecycling": StepList(has_end=True, repeats_last=False),
    "SamDecoding": StepList(has_end=False, repeats_last=False),
}
"""By constructor. EAGLE, Hydra and REST leave the prefill out as well; plain decoding, Lookahead, prompt
lookup, two models and Kangaroo list it."""


def output_tokens(samples: Sequence[Sample]) -> int:
    """Sum of committed ids, the prefill's token and an end token included; the same count for every arm."""
    return sum(len(sample.ids) for sample in measured(samples))


def decode_work(sample: Sample) -> Work:
    """Tokens after the first one and the seconds from the first to the last, of one turn."""
    return Work(len(sample.ids) - 1, _timing(sample).decode_s)


def end_to_end_work(sample: Sample) -> Work:
    """All tokens and all seconds, prefill included, of one turn."""
    timing = _timing(sample)
    return Work(len(sample.ids), timing.prefill_s + timing.decode_s)


def decode_speed(samples: Sequence[Sample]) -> float:
    """Tokens per second while decoding: sum of tokens after the first over sum of decode seconds."""
    return speed_of(decode_work(sample) for sample in measured(samples))


def end_to_end_speed(samples: Sequence[Sample]) -> float:
    """Tokens per second with the prefill: sum of all tokens over sum of prefill and decode seconds."""
    return speed_of(end_to_end_work(sample) for sample in measured(samples))


def decode_per_question(samples: Sequence[Sample]) -> dict[tuple[str, int], Work]:
    """`decode_work` summed over the turns of each question, keyed by (prompt id, repeat)."""
    return sum_per_question((sample, decode_work(sample)) for sample in measured(samples))


def end_to_end_per_question(samples: Sequence[Sample]) -> dict[tuple[str, int], Work]:
    """`end_to_end_work` summed over the turns of each question, keyed by (prompt id, repeat)."""
    return sum_per_question((sample, end_to_end_work(sample)) for sample in measured(samples))


def acceptance_length(samples: Sequence[Sample]) -> float:
    """Tokens per target pass, pooled over all passes of all samples, the prefill being a pass of one token.

    The estimator is ``sum(ids) / sum(1 + rounds)``. It equals Kangaroo's compression ratio, whose list of
    steps starts each turn with a 1. Plain decoding scores 1. A cut last round counts with what it emitted.
    """
    counted = measured(samples)
    return output_tokens(counted) / sum(1 + len(sample.rounds) for sample in counted)


def acceptance_length_request_mean(samples: Sequence[Sample]) -> float:
    """Mean over samples of each one's own tokens per pass, prefill included: every answer weighs the same."""
    counted = measured(samples)
    return sum(len(sample.ids) / (1 + len(sample.rounds)) for sample in counted) / len(counted)


def acceptance_length_steady(samples: Sequence[Sample]) -> float:
    """Tokens per round, pooled, without the prefill and without rounds that the harness cut short.

    The figure of an endless answer: the estimator is ``sum(accepted + 1) / rounds`` over the uncut rounds.

    Raises:
        UndefinedError: If there is no sample or no uncut round.
    """
    rounds = all_rounds(samples)
    emitted = rounds.emitted[~rounds.is_cut]
    if not len(emitted):
        raise UndefinedError("steady acceptance length needs a round that was not cut")
    return float(emitted.mean())


def acceptance_by_position(samples: Sequence[Sample]) -> tuple[Position, ...]:
    """Conditional acceptance at each draft position, pooled over rounds, with its counts.

    Position ``i`` counts the rounds that drafted at least ``i + 1`` deep and accepted ``i``; its rate is the
    share of them that accepted ``i + 1``. A round that the harness cut counts with what the target accepted,
    since that work was done. Rounds without a draft reach no position. In a tree the accepted path may end at
    a leaf above the deepest one, so the rate is that of the tree, a lower bound of the drafter's own.
    """
    rounds = all_rounds(samples)
    positions: list[Position] = []
    for i in range(int(rounds.depth.max(initial=0))):
        reached = (rounds.depth > i) & (rounds.accepted >= i)
        if not reached.any():
            break
        positions.append(Position(i, int(reached.sum()), int((rounds.accepted[reached] > i).sum())))
    return tuple(positions)


def constructor_of(run: Run) -> str:
    """Name of the method's class, as its yaml names it."""
    return str(run.identity.get("method", {}).get("target")).rpartition(".")[2]


def accepted_per_step(samples: Sequence[Sample], constructor: str) -> float:
    """Spec-Bench's ``#Mean accepted tokens``: the mean of the list of steps that the method's code keeps.

    Where that list includes the prefill, the figure is `acceptance_length`; see `StepList` for the others.

    Args:
        samples: Of the method.
        constructor: Its class.

    Raises:
        UndefinedError: If there is no sample, or no step where only rounds count.
    """
    kind = LISTS_WITHOUT_PREFILL.get(constructor)
    if kind is None:
        return acceptance_length(samples)
    tokens = steps = 0
    for sample in measured(samples):
        ends_on_step = bool(sample.rounds.is_cut[-1:].any())
        repeated = int(kind.repeats_last and not ends_on_step)
        counts = sample.rounds.accepted + 1 if kind.has_end else sample.rounds.emitted
        tokens += int(counts.sum()) + repeated
        steps += len(sample.rounds) + repeated
    if not steps:
        raise UndefinedError("a list of steps without the prefill needs a round")
    return tokens / steps


def accepted_per_drafted(samples: Sequence[Sample]) -> float:
    """Share of drafted tokens that the target agreed to, pooled: ``sum(accepted) / sum(drafted)``.

    Raises:
        UndefinedError: If there is no sample or nothing was drafted.
    """
    rounds = all_rounds(samples)
    if not (drafted := int(rounds.drafted.sum())):
        raise UndefinedError("accepted_per_drafted needs a drafted token")
    return int(rounds.accepted.sum()) / drafted


def accepted_per_verified(samples: Sequence[Sample]) -> float:
    """Share of verified rows that became output, each round's first row included.

    The estimator is ``sum(emitted) / sum(drafted + 1)``, pooled over rounds: rows after the end of the answer
    were verified and are no output.

    Raises:
        UndefinedError: If there is no sample or no round.
    """
    if not (rounds := all_rounds(samples)):
        raise UndefinedError("accepted_per_verified needs a round")
    return int(rounds.emitted.sum()) / int((rounds.drafted + 1).sum())


def time_split(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of decode time in each phase and on the host (the rest), pooled over samples.

    Raises:
        UndefinedError: If there is no sample or nothing was decoded after the first token.
    """
    timings = [_timing(sample) for sample in measured(samples)]
    if not (decode_s := sum(timing.decode_s for timing in timings)):
        raise UndefinedError("time_split needs decode time, every sample ended at its first token")
    split = {name: sum(timing.phases_s.get(name, 0.0) for timing in timings) / decode_s for name in PHASES}
    return split | {"host": sum(timing.host_s for timing in timings) / decode_s}


def verdict_counts(samples: Sequence[Sample]) -> dict[Verdict, int]:
    """Samples by verdict, every verdict present; a sample that was never compared counts as unchecked."""
    compared = [sample.equivalence for sample in measured(samples)]
    counts = Counter(verdict.verdict if verdict else Verdict.UNCHECKED for verdict in compared)
    return {verdict: counts[verdict] for verdict in Verdict}


def first_divergences(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Index of the first differing token of every sample that differs from the baseline, ascending."""
    verdicts = [sample.equivalence for sample in measured(samples) if sample.equivalence]
    places = (verdict.first_divergence for verdict in verdicts)
    return tuple(sorted(place for place in places if place is not None))


def contention(samples: Sequence[Sample]) -> float:
    """Wall over CPU time of the decoding thread, pooled; well above 1 means that other work held its core."""
    counted = measured(samples)
    if not (cpu_s := sum(_timing(sample).cpu_s for sample in counted)):
        raise UndefinedError("contention needs recorded CPU time")
    return sum(end_to_end_work(sample).seconds for sample in counted) / cpu_s


def measured(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples, if there is one and none failed."""
    if not samples:
        raise UndefinedError("need at least one sample, got none")
    if failed := [sample.key for sample in samples if sample.error is not None]:
        raise ValueError(f"failed samples hold no numbers, leave them out: {failed[:3]}")
    return samples


def _timing(sample: Sample) -> Timing:
    if sample.timing is None:
        raise ValueError(f"sample {sample.key} holds no times")
    return sample.timing


def all_rounds(samples: Sequence[Sample]) -> Rounds:
    """The rounds of all samples, in order."""
    return Rounds.joined(sample.rounds for sample in measured(samples))


def accepted_counts(rounds: Rounds) -> tuple[int, ...]:
    """How many rounds accepted 0, 1, 2, ... drafted tokens."""
    return tuple(np.bincount(rounds.accepted).tolist())


def speed_of(works: Iterable[Work]) -> float:
    """Tokens per second, sum over sum."""
    done = list(works)
    if not (seconds := sum(work.seconds for work in done)):
        raise UndefinedError("a speed needs time, got 0 s")
    return sum(work.tokens for work in done) / seconds


def sum_per_question(works: Iterable[tuple[Sample, Work]]) -> dict[tuple[str, int], Work]:
    """Work summed over the turns of each question, keyed by (prompt id, repeat)."""
    totals: dict[tuple[str, int], Work] = {}
    for sample, work in works:
        key = (sample.prompt_id, sample.repeat)
        done = totals.get(key, Work(0, 0.0))
        totals[key] = Work(done.tokens + work.tokens, done.seconds + work.seconds)
    return totals
