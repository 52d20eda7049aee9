"""The two figures of Spec-Bench's own scripts, for comparison with its boards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.counts import (
    UndefinedError,
    Work,
    acceptance_length,
    end_to_end_per_question,
    end_to_end_work,
    is_cut,
    measured,
    speed_of,
    sum_per_question,
)
from bench.records.model import Run, Sample


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
        ends_on_step = bool(sample.rounds) and is_cut(sample.rounds[-1])
        repeated = int(kind.repeats_last and not ends_on_step)
        tokens += sum(step.accepted + 1 if kind.has_end else step.emitted for step in sample.rounds)
        tokens += repeated
        steps += len(sample.rounds) + repeated
    if not steps:
        raise UndefinedError("a list of steps without the prefill needs a round")
    return tokens / steps


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
